"""Where the parameters of NVIDIA's EDM2 are in this package's network."""

from collections.abc import Mapping

import numpy as np

from scmkit_plugins.importers._unet import Given, kernel, matrix
from scmkit_plugins.layers.unet_levels import Place, Structure

LAYERS = {"conv_res0": "conv0", "conv_res1": "conv1", "conv_skip": "skip"}
LAYERS |= {"attn_qkv": "attention/qkv", "attn_proj": "attention/out"}


def leaves_of(given: Mapping[str, Given], levels: Structure) -> dict[str, Given]:
    """For each leaf of the network here, the parameter's name and its array in this layout."""
    top, width = levels.sides[0], levels.widths[0]
    leaves = {
        "first/weight": kernel(given[f"enc.{top}x{top}_conv.weight"]),
        "last/weight": kernel(given["out_conv.weight"]),
        "gain": given["out_gain"],
        "conditioning/time/weight": matrix(given["emb_noise.weight"]),
        "conditioning/embedding/frequencies": _turns(given["emb_fourier.freqs"]),
        "conditioning/embedding/phases": _turns(given["emb_fourier.phases"]),
    }
    if "emb_label.weight" in given:
        leaves["conditioning/label/weight"] = matrix(given["emb_label.weight"])
    for i, place in enumerate(levels.encoder(width)):
        leaves |= _block(given, place, f"encoder/{i}")
    for i, place in enumerate(levels.decoder(width, last_attends=False)):
        leaves |= _block(given, place, f"decoder/{i}")
    return leaves


def _block(given: Mapping[str, Given], place: Place, ours: str) -> dict[str, Given]:
    found = {
        f"{ours}/modulation/linear/weight": matrix(given[f"{place.name}.emb_linear.weight"]),
        f"{ours}/modulation/gain": given[f"{place.name}.emb_gain"],
    }
    for name, leaf in LAYERS.items():
        if (key := f"{place.name}.{name}.weight") in given:
            found[f"{ours}/{leaf}/weight"] = kernel(given[key])
    if (leaf := f"{ours}/attention/qkv/weight") in found:
        # Theirs are (channels, q k v) along the outputs, ours (q k v, channels), whatever the heads.
        source, w = found[leaf]
        split = w.reshape(*w.shape[:-1], -1, 3)
        found[leaf] = (source, np.moveaxis(split, -1, -2).reshape(w.shape))
    return found


def _turns(given: Given) -> Given:
    """From radians to turns, with an axis for the noise label."""
    return given[0], (given[1].astype(np.float64) / (2 * np.pi)).astype(np.float32)[None]
