"""Dehazing data sets and haze synthesis, installed as ``dehaze.datasets``."""

if __name__ != "dehaze.datasets":
    # From the root of a checkout this folder would shadow the Hugging Face library of that name.
    raise ModuleNotFoundError(f"import dehaze.datasets, not {__name__}", name=__name__)
