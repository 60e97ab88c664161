"""Clips in, clips out: every frame without its haze, without flicker, and all else as it was.

Nothing is imported here: ``clip`` and ``encoding`` load no network library, ``job`` and ``frames``
do.
"""
