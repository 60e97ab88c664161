"""The cost of each way to invert a photo, and how well the photo comes back."""
