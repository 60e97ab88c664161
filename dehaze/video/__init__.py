"""Clips: the haze of every frame removed without flicker, and all else kept.

Nothing is imported here: ``clip`` and ``encoding`` load no network library, ``job`` and ``frames``
do.
"""
