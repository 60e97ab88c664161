"""Edits of photos over which an appearance was rendered, so that the right answer is known."""
