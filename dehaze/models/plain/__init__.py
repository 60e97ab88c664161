"""The networks of the bundled model in PyTorch alone, tested equal to diffusers' and transformers'.

Importing those two libraries takes several times as long as dehazing a photo does. A model that has
settings beyond the ones here is not ``supported``, and is loaded by ``dehaze.models.load``.
"""
