"""NVIDIA's EDM2 weights as this package's network."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from scmkit.interfaces import AbstractImporter, DataSpec, Imported
from scmkit.plugin import Slot
from scmkit_plugins.importers._edm2_leaves import leaves_of
from scmkit_plugins.importers._unet import Given, Sizes, check, side_of, structure, surplus, without
from scmkit_plugins.importers._unet_arguments import (
    argument,
    positive,
    refuse_other,
    refuse_unknown,
    said,
)
from scmkit_plugins.layers.unet_levels import Structure
from scmkit_plugins.networks import edm2
from scmkit_plugins.networks.edm2 import CHANNELS

LATENT_SHIFT, LATENT_STD = (5.81, 3.25, 0.12, -2.15), (4.17, 4.62, 3.71, 3.28)
"""Mean and standard deviation of the latents EDM2 was trained on (its `training/encoders.py`)."""

SIGMA_DATA = 0.5
OPTIONS = {
    "label_balance": "edm2.label_balance",
    "concat_balance": "edm2.concat_balance",
    "res_balance": "edm2.residual_balance",
    "attn_balance": "edm2.attention_balance",
    "clip_act": "edm2.clip",
}
"""Arguments that change what the network computes and leave no trace in the shapes, as options here."""

KNOWN = {"img_resolution", "img_channels", "label_dim", "use_fp16", "sigma_data"}
KNOWN |= {"logvar_channels", "model_channels", "channel_mult", "channel_mult_noise"}
KNOWN |= {"channel_mult_emb", "num_blocks", "attn_resolutions", "resample_filter", "dropout"}
KNOWN |= {"channels_per_head", *OPTIONS}
"""Arguments of `Precond`, `UNet` and `Block`."""

UNUSED = r"logvar_(fourier\.(freqs|phases)|linear\.weight)"
"""The uncertainty head, which belongs to EDM2's training loss."""


class EDM2Importer(AbstractImporter):
    """The EDM-preconditioned network of a `Precond`, with its own Fourier features and gains.

    What a pickle says of itself is taken over or refused. Arrays alone do not tell the options in `OPTIONS`,
    the channels of an attention head, and `sigma_data`: those are `assumed`.
    """

    def read(self, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, Any]) -> Imported:
        kind = metadata.get("class", "Precond")
        given, prefix = without("unet.", arrays)
        if kind != "Precond":
            raise ValueError(f"no EDM2 network but a '{kind}'")
        refuse_unknown(metadata, KNOWN)
        refuse_other(metadata, "resample_filter", [1, 1])
        try:
            levels = structure(given, "conv_res1", ("attn_",))
        except ValueError as error:
            raise ValueError(f"no EDM2 network that is known: {error}") from None
        made = _options(metadata)
        wanted = _wanted(given, levels)
        check(given, wanted, prefix)
        dropped = surplus(given, wanted, UNUSED, r"enc\.|dec\.|emb_|out_")
        images, classes = wanted["out_conv.weight"][0], side_of(given, "emb_label.weight", 1) or 0
        assert images is not None
        return Imported(
            plugins=("edm", "fourier", "mp-gain", "edm2", "diffusion"),
            settings={**_sizes(given, levels), **made},
            data=_data(images, levels.sides[0], classes, metadata),
            leaves={f"network/{leaf}": value for leaf, value in leaves_of(given, levels).items()},
            dropped=dropped,
            assumed=tuple(
                option
                for option in ("data.sigma_data", "edm2.head_dim", *OPTIONS.values())
                if option not in made
                and not (option == "data.sigma_data" and argument(metadata, "sigma_data"))
            ),
        )


def _wanted(given: Mapping[str, Given], levels: Structure) -> dict[str, Sizes]:
    """Every parameter of the network with these levels, and its shape."""
    embedding, noise = (side_of(given, "emb_noise.weight", axis) for axis in (0, 1))
    top, width = levels.sides[0], levels.widths[0]
    images = side_of(given, "out_conv.weight", 0)
    wanted: dict[str, Sizes] = {
        "out_gain": (),
        "emb_fourier.freqs": (noise,),
        "emb_fourier.phases": (noise,),
        # The shapes of all blocks follow from the widest level.
        "emb_noise.weight": (embedding, noise),
        f"enc.{top}x{top}_conv.weight": (width, None if images is None else images + 1, 3, 3),
        "out_conv.weight": (images, width, 3, 3),
    }
    if embedding not in (None, max(levels.widths)):
        raise ValueError(
            f"its embedding has {embedding} features (channel_mult_emb), and only as many as the widest "
            f"level's {max(levels.widths)} channels are supported"
        )
    if "emb_label.weight" in given:
        wanted["emb_label.weight"] = (embedding, None)
    for place in (*levels.encoder(width), *levels.decoder(width, last_attends=False)):
        first = place.out if place.name.startswith("enc") else place.in_
        block: dict[str, Sizes] = {
            "emb_gain": (),
            "emb_linear.weight": (place.out, embedding),
            "conv_res0.weight": (place.out, first, 3, 3),
            "conv_res1.weight": (place.out, place.out, 3, 3),
        }
        if place.in_ != place.out:
            block["conv_skip.weight"] = (place.out, place.in_, 1, 1)
        if place.attends:
            block["attn_qkv.weight"] = (3 * place.out, place.out, 1, 1)
            block["attn_proj.weight"] = (place.out, place.out, 1, 1)
        wanted |= {f"{place.name}.{name}": shape for name, shape in block.items()}
    return wanted


def _sizes(given: Mapping[str, Given], levels: Structure) -> dict[str, Any]:
    """The options that shapes tell."""
    channels = math.gcd(*levels.widths)
    preset = next((name for name, c in CHANNELS.items() if c == channels), None)
    return {
        "fourier.scale": 1.0,
        "fourier.channels": given["emb_fourier.freqs"][1].shape[0],
        **({"edm2.preset": preset} if preset else {"edm2.channels": channels}),
        "edm2.multipliers": tuple(width // channels for width in levels.widths),
        "edm2.blocks": levels.blocks,
        "edm2.attention_resolutions": levels.attended,
        # EDM2 trains conditional and unconditional networks apart.
        "diffusion.label_dropout": 0.0,
    }


def _options(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The options that a pickle tells beside the shapes."""
    found: dict[str, Any] = {}
    modules, kwargs = said(metadata, "modules"), said(metadata, "kwargs")
    if not modules and not kwargs:
        return found
    for name, option in OPTIONS.items():
        if name in kwargs or any(name in values for values in modules.values()):
            found[option] = argument(metadata, name)
    if head_dim := _head_dim(metadata):
        found["edm2.head_dim"] = head_dim
    if dropout := argument(metadata, "dropout"):
        # In EDM2 at every height.
        found |= {"edm2.dropout": dropout, "edm2.dropout_resolution": 1 << 16}
    return found


def _head_dim(metadata: Mapping[str, Any]) -> int | None:
    """Channels of an attention head. Raises `ValueError` where they differ between the blocks."""
    asked = said(metadata, "kwargs").get("channels_per_head")
    dims, silent = set(), False
    for name, values in said(metadata, "modules").items():
        heads, out = values.get("num_heads"), values.get("out_channels")
        if isinstance(heads, int) and isinstance(out, int):
            dims |= {out // heads} if heads > 0 else set()
            silent = silent or (name.endswith("_in0") and heads < 1)
    if len(dims) > 1 or silent:
        raise ValueError(
            f"it was made with channels_per_head={asked}, which divides the channels of its levels "
            "unevenly; only heads of one size are supported"
        )
    return next(iter(dims), asked)


def _data(channels: int, side: int, classes: int, metadata: Mapping[str, Any]) -> DataSpec:
    """Pixels in [-1, 1] as they are, or latents normalised."""
    latents = _latents(channels, said(metadata, "encoder"))
    shift, scale = latents or ((0.0,) * channels, (1.0,) * channels)
    return DataSpec(
        source="latents of EDM2" if latents else "images of EDM2",
        shape=(channels, side, side),
        num_classes=classes,
        shift=shift,
        scale=scale,
        sigma_data=positive(metadata, "sigma_data", SIGMA_DATA),
        clip=not latents,
    )


def _latents(
    channels: int, encoder: Mapping[str, Any]
) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Shift and scale of latents, as the file's encoder has them or else as published; None for pixels.

    Without an encoder four channels are latents. One of other channels than the network's is none of its own.
    """
    scale, bias = encoder.get("scale"), encoder.get("bias")
    if isinstance(scale, list) and isinstance(bias, list) and len(scale) == len(bias) == channels:
        try:
            pairs = [(float(s), float(b)) for s, b in zip(scale, bias, strict=True)]
            return tuple(-b / s for s, b in pairs), tuple(s for s, _ in pairs)
        except (TypeError, ValueError, ZeroDivisionError):
            raise ValueError("the normalisation of its encoder is no row of numbers") from None
    if channels == 4 and encoder.get("class") != "StandardRGBEncoder":
        return LATENT_SHIFT, tuple(SIGMA_DATA / std for std in LATENT_STD)
    return None


def build(config: edm2.EDM2Options) -> EDM2Importer:
    return EDM2Importer()


plugin = replace(edm2.plugin, provides={**edm2.plugin.provides, Slot.importer: build})
"""The network, and with it the reader of its published weights."""
