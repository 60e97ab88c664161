"""The networks of the bundled model in PyTorch alone, tested equal to diffusers' and transformers'.

Importing those two libraries takes several times as long as dehazing a photo. A model with other
settings than those implemented here is not plain, and ``dehaze.models.load`` loads it.
"""
