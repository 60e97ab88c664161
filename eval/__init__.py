"""Metrics, baselines and protocols, installed as ``dehaze.eval``."""

if __name__ != "dehaze.eval":
    raise ModuleNotFoundError(f"import dehaze.eval, not {__name__}", name=__name__)
