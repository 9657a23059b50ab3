"""The parameters that a network needs, out of a weight file."""

from collections.abc import Mapping

import numpy as np

from scmkit.errors import DataError, did_you_mean
from scmkit.storage.finite import not_finite
from scmkit.weights.damage import listed
from scmkit.weights.file import WeightFile


def no_network(weights: WeightFile, network: str, reason: str) -> DataError:
    """The error for a file that is not of the network it should be of."""
    return DataError(f"weight file '{weights.path}' is no {network}: {reason}")


def matching(
    weights: WeightFile,
    network: str,
    shapes: Mapping[str, tuple[int, ...]],
    *,
    unused: tuple[str, ...] = ("num_batches_tracked",),
) -> dict[str, np.ndarray]:
    """The arrays of a file that have the names and shapes of a network's parameters, in their order.

    What has a part of `unused` in its name is passed over. Raises `DataError` naming the parameter that is
    missing, superfluous, of another shape, or not finite.
    """
    given = {k: a for k, a in weights.arrays.items() if not any(part in k for part in unused)}
    if missing := [name for name in shapes if name not in given]:
        raise no_network(
            weights,
            network,
            f"it lacks {len(missing)} of its {len(shapes)} parameters ({listed(missing)})"
            f"{did_you_mean(missing[0], given)}",
        )
    for name, shape in shapes.items():
        if given[name].shape != shape:
            reason = f"'{name}' has shape {given[name].shape}, not {shape}"
            raise no_network(weights, network, reason)
    if foreign := [name for name in given if name not in shapes]:
        reason = f"it has {listed(foreign)}, which that network has not"
        raise no_network(weights, network, reason)
    if problem := not_finite((name, given[name]) for name in shapes):
        raise no_network(weights, network, f"{problem}; fetch it again")
    return {name: given[name] for name in shapes}
