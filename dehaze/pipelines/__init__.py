"""The pipelines: a photo in, a photo without haze, or edited, out."""
