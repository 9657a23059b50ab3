"""Which arrays hold values that are not finite."""

from collections.abc import Iterable

import numpy as np


def not_finite(arrays: Iterable[tuple[str, np.ndarray]]) -> str | None:
    """Names the arrays that hold NaN or infinity, and how many; None if there are none."""
    bad = {}
    for name, array in arrays:
        # Not by `np.floating`, of which bfloat16 and its like are no subtypes.
        if array.dtype.kind in "fcV" and not (finite := np.isfinite(array)).all():
            bad[name] = f"'{name}' ({array.size - int(finite.sum())} of {array.size})"
    if not bad:
        return None
    shown = ", ".join(list(bad.values())[:4]) + (
        f" and {len(bad) - 4} more" if len(bad) > 4 else ""
    )
    return f"NaN or infinity in {shown}"
