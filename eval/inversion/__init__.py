"""What each way to invert a photo costs, and how well the photo comes back."""
