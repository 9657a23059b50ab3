"""Wrappers of networks, whose names stand before that of every parameter."""

from collections.abc import Mapping

import numpy as np

WRAPPERS = ("module.", "_orig_mod.", "model.")
"""The names of DataParallel, `torch.compile`, and Lightning's usual module."""


def unwrapped(arrays: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], str]:
    """Arrays by their names without the wrappers that all have in common, and what was left out."""
    left, prefix = dict(arrays), ""
    while wrapper := next((w for w in WRAPPERS if left and all(n.startswith(w) for n in left)), ""):
        left = {name.removeprefix(wrapper): array for name, array in left.items()}
        prefix += wrapper
    return left, prefix
