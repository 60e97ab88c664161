"""Whether a part of a model is moved between devices during a call."""

from __future__ import annotations

from torch import nn

# accelerate's hook, for offloading a whole part, and diffusers' own, for groups of layers.
_HOOKS = ("_hf_hook", "_diffusers_hook")


def is_offloaded(part: nn.Module) -> bool:
    """Whether ``enable_model_cpu_offload`` or ``enable_group_offload`` moves a part or its layers.

    Args:
        part: a network, an encoder or a codec.

    >>> is_offloaded(nn.Linear(1, 1))
    False
    """
    # Not ``hasattr`` and ``modules()``, which take ten times as long on a network's 700 modules.
    waiting = [part]
    while waiting:
        attributes = vars(waiting.pop())
        if any(hook in attributes for hook in _HOOKS):
            return True
        waiting += [module for module in attributes["_modules"].values() if module is not None]
    return False
