"""Pictures of named things: whether a classifier knows them, and how far they are from photos."""
