"""Pictures of named things: a classifier's answers, and their distance from photos."""
