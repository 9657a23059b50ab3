"""Where the parameters of NVIDIA's SongUNet are in this package's network."""

from collections.abc import Mapping

import numpy as np

from scmkit_plugins.importers._unet import Given
from scmkit_plugins.layers.unet_levels import Structure

LAYERS = {"norm0": "norm0", "conv0": "conv0", "affine": "norm1/affine", "norm1": "norm1/norm"}
LAYERS |= {"conv1": "conv1", "skip": "skip"}
LAYERS |= {"norm2": "attention/norm", "qkv": "attention/qkv", "proj": "attention/out"}


def leaves_of(given: Mapping[str, Given], levels: Structure) -> dict[str, Given]:
    """For each leaf of the network here, the parameter's name and its array in this layout."""
    top = f"{levels.sides[0]}x{levels.sides[0]}"
    leaves = {
        **_affine(given, f"enc.{top}_conv", "first"),
        **_affine(given, f"dec.{top}_aux_norm", "norm"),
        **_affine(given, f"dec.{top}_aux_conv", "last"),
        **_conditioning(given),
    }
    stem = given[f"enc.{top}_conv.weight"][1].shape[0]
    parts = {"encoder": levels.encoder(stem), "decoder": levels.decoder(stem, last_attends=True)}
    for part, places in parts.items():
        for i, place in enumerate(places):
            for theirs, leaf in LAYERS.items():
                if f"{place.name}.{theirs}.weight" in given:
                    leaves |= _affine(given, f"{place.name}.{theirs}", f"{part}/{i}/{leaf}")
    return leaves


def _affine(given: Mapping[str, Given], theirs: str, ours: str) -> dict[str, Given]:
    """Weight and bias of a layer: `out in h w` becomes `h w in out`, and `in out` where it is 1x1."""
    (w_name, w), (b_name, b) = given[f"{theirs}.weight"], given[f"{theirs}.bias"]
    if theirs.endswith(".qkv"):
        # The outputs are (heads, features, q k v) with one head; here (q k v, heads, features).
        w, b = (np.swapaxes(a.reshape(-1, 3, *a.shape[1:]), 0, 1).reshape(a.shape) for a in (w, b))
    w = np.moveaxis(w, (1, 0), (-2, -1)) if w.ndim > 1 else w
    w = w[0, 0] if w.shape[:-2] == (1, 1) else w
    return {f"{ours}/weight": (w_name, w), f"{ours}/bias": (b_name, b)}


def _conditioning(given: Mapping[str, Given]) -> dict[str, Given]:
    leaves = {
        **_affine(given, "map_layer0", "conditioning/layer0"),
        **_affine(given, "map_layer1", "conditioning/layer1"),
    }
    name, w = leaves["conditioning/layer0/weight"]
    leaves["conditioning/layer0/weight"] = (name, _scaled(_exchanged(w, 0), 0.5))
    if "map_label.weight" in given:
        for leaf, (name, a) in _affine(given, "map_label", "conditioning/label").items():
            leaves[leaf] = (name, _scaled(_exchanged(a, -1), 2.0))
    return leaves


def _exchanged(a: np.ndarray, axis: int) -> np.ndarray:
    return np.roll(a, a.shape[axis] // 2, axis)


def _scaled(a: np.ndarray, square: float) -> np.ndarray:
    return (a.astype(np.float64) * np.sqrt(square)).astype(np.float32)
