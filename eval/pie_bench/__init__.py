"""PIE-Bench: seven metrics of an edit, and the table of many edits."""
