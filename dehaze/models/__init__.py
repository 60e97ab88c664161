"""Which models there are, what each needs, and how it is loaded."""
