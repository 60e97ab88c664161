"""How the bundled model is made: data, captions, networks, training, export, model card."""
