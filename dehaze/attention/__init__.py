"""Attention control: what the layers compute is recorded, injected, and shown.

Nothing here knows of schedules: a step is a number.
"""
