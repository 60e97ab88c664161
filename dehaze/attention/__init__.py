"""Attention control: records what the attention layers compute, injects it, and shows it.

Nothing here knows of schedules: a step is a number.
"""
