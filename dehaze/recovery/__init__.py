"""From the model's small picture to the photo's own size, by the scattering model."""
