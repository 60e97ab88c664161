"""Pipelines: they remove haze from photos, edit photos, and mix them."""
