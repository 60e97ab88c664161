"""Pictures of named things: what a classifier calls them, and their distance from photos."""
