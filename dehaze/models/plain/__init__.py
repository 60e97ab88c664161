"""The networks of the bundled model in PyTorch alone, tested equal to diffusers' and transformers'.

Importing those two libraries takes several times as long as dehazing a photo does. A model that has
a setting beyond those here, or lacks one of them, is not plain: ``dehaze.models.load`` loads it.
"""
