"""NVIDIA's EDM2 weights as this package's network."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from scmkit.interfaces import AbstractImporter, DataSpec, Imported
from scmkit_plugins._unet_weights import Given, in_order, kernel, matrix
from scmkit_plugins.edm2 import CHANNELS

LATENT_SHIFT, LATENT_STD = (5.81, 3.25, 0.12, -2.15), (4.17, 4.62, 3.71, 3.28)
"""Mean and standard deviation of the latents EDM2 was trained on (its `training/encoders.py`)."""

SIGMA_DATA = 0.5
BLOCK = {"conv_res0": "conv0", "conv_res1": "conv1", "conv_skip": "skip"}
BLOCK |= {"attn_qkv": "attention/qkv", "attn_proj": "attention/out"}


class EDM2Importer(AbstractImporter):
    """The EDM-preconditioned network of a `Precond`, with its own Fourier features and gains.

    The uncertainty head (`logvar_*`) belongs to EDM2's training loss and is left out. Shapes do not tell
    the `head_dim` of attention: it is 64 in every published network.
    """

    def __init__(self, head_dim: int) -> None:
        self.head_dim = head_dim

    def read(self, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, Any]) -> Imported:
        kind = metadata.get("class", "Precond")
        given = {k.removeprefix("unet."): (k, a) for k, a in arrays.items()}
        head_dim = metadata.get("kwargs", {}).get("channels_per_head", self.head_dim)
        first = next((k for k in given if re.fullmatch(r"enc\.\d+x\d+_conv\.weight", k)), None)
        if kind != "Precond" or first is None or "emb_fourier.freqs" not in given:
            raise ValueError(
                f"no EDM2 network (a '{kind}' whose first parameters are {', '.join(list(arrays)[:3])})"
            )
        side = int(first.split(".")[1].split("x")[0])
        channels, in_ = given[first][1].shape[:2]
        classes = given["emb_label.weight"][1].shape[1] if "emb_label.weight" in given else 0
        sides = sorted({int(m[1]) for k in given if (m := re.match(r"enc\.(\d+)x", k))})[::-1]
        names = {part: in_order(given, part) for part in ("enc", "dec")}
        leaves = {
            "first/weight": kernel(given[first]),
            "last/weight": kernel(given["out_conv.weight"]),
            "gain": given["out_gain"],
            "conditioning/time/weight": matrix(given["emb_noise.weight"]),
            "conditioning/embedding/frequencies": _turns(given["emb_fourier.freqs"]),
            "conditioning/embedding/phases": _turns(given["emb_fourier.phases"]),
        }
        if classes:
            leaves["conditioning/label/weight"] = matrix(given["emb_label.weight"])
        for part, ours in (("enc", "encoder"), ("dec", "decoder")):
            blocks = [name for name in names[part] if not name.endswith("_conv")]
            for i, name in enumerate(blocks):
                leaves |= _block(given, f"{part}.{name}", f"{ours}/{i}", head_dim)
        used = {source for source, _ in leaves.values()}
        return Imported(
            plugins=("edm", "fourier", "mp-gain", "edm2", "diffusion"),
            settings={
                "fourier.scale": 1.0,
                "fourier.channels": given["emb_fourier.freqs"][1].shape[0],
                **_size(channels),
                "edm2.multipliers": tuple(
                    given[f"enc.{s}x{s}_block0.conv_res1.weight"][1].shape[0] // channels
                    for s in sides
                ),
                "edm2.blocks": sum(n.startswith(f"{side}x{side}_block") for n in names["enc"]),
                "edm2.attention_resolutions": tuple(
                    s for s in sides if f"enc.{s}x{s}_block0.attn_qkv.weight" in given
                ),
                "edm2.head_dim": head_dim,
            },
            data=_data(in_ - 1, side, classes),
            leaves={f"network/{leaf}": value for leaf, value in leaves.items()},
            dropped=tuple(name for name in arrays if name not in used),
        )


def _size(channels: int) -> dict[str, Any]:
    preset = next((name for name, c in CHANNELS.items() if c == channels), None)
    return {"edm2.preset": preset} if preset else {"edm2.channels": channels}


def _data(channels: int, side: int, classes: int) -> DataSpec:
    """Pixels in [-1, 1] as they are; latents, of which there are four channels, normalised."""
    latent = channels == 4
    return DataSpec(
        source="latents of EDM2" if latent else "images of EDM2",
        shape=(channels, side, side),
        num_classes=classes,
        shift=LATENT_SHIFT if latent else (0.0,) * channels,
        scale=tuple(SIGMA_DATA / s for s in LATENT_STD) if latent else (1.0,) * channels,
        sigma_data=SIGMA_DATA,
        clip=not latent,
    )


def _block(given: Mapping[str, Any], theirs: str, ours: str, head_dim: int) -> dict[str, Any]:
    found = {
        f"{ours}/modulation/linear/weight": matrix(given[f"{theirs}.emb_linear.weight"]),
        f"{ours}/modulation/gain": given[f"{theirs}.emb_gain"],
    }
    for name, leaf in BLOCK.items():
        if (key := f"{theirs}.{name}.weight") in given:
            found[f"{ours}/{leaf}/weight"] = kernel(given[key])
    if (leaf := f"{ours}/attention/qkv/weight") in found:
        # Theirs are (heads, features, q k v) along the outputs, ours (q k v, heads, features).
        source, w = found[leaf]
        split = w.reshape(*w.shape[:-1], -1, head_dim, 3)
        found[leaf] = (source, np.moveaxis(split, -1, -3).reshape(w.shape))
    return found


def _turns(given: Given) -> Given:
    """From radians to turns, with an axis for the noise label."""
    return given[0], (given[1].astype(np.float64) / (2 * np.pi)).astype(np.float32)[None]
