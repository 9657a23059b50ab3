"""The weights of NVIDIA's SongUNet, which is DDPM++ in EDM's code, as this package's network."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from scmkit.interfaces import AbstractImporter, DataSpec, Imported
from scmkit.plugin import Slot
from scmkit_plugins.importers._ddpmpp_leaves import leaves_of
from scmkit_plugins.importers._unet import Given, Sizes, check, side_of, structure, surplus, without
from scmkit_plugins.importers._unet_arguments import (
    argument,
    positive,
    refuse_other,
    refuse_unknown,
)
from scmkit_plugins.layers.resample import FILTERS
from scmkit_plugins.layers.unet_levels import Place, Structure
from scmkit_plugins.processes import edm

SETTINGS = ("channels", "multipliers", "blocks", "attention_resolutions")
SETTINGS += ("embedding_multiplier", "resample", "heads")

KNOWN = {"img_resolution", "img_channels", "label_dim", "use_fp16", "sigma_min", "sigma_max"}
KNOWN |= {"sigma_data", "model_type", "in_channels", "out_channels", "augment_dim"}
KNOWN |= {"model_channels", "channel_mult", "channel_mult_emb", "num_blocks", "attn_resolutions"}
KNOWN |= {"dropout", "label_dropout", "embedding_type", "channel_mult_noise", "encoder_type"}
KNOWN |= {"decoder_type", "resample_filter"}
"""Arguments of `EDMPrecond` and `SongUNet`."""

FIXED: dict[str, tuple[Any, ...]] = {
    "model_type": ("SongUNet",),
    "embedding_type": ("positional",),
    "encoder_type": ("standard",),
    "decoder_type": ("standard",),
    "endpoint": (True,),
    "adaptive_scale": (False,),
    "fused_resample": (False,),
    "num_heads": (0, 1),
}
"""Of arguments, and attributes of modules, those that are supported."""

UNUSED = r"map_augment\.weight|.+\.resample_filter"
"""The augmentation's labels, which are zero when sampling, and the filters, which are options."""

RATIO_MIN, RATIO_MAX = 2e-3, 80.0
"""The noise levels that EDM samples between, where the network supports them."""


class DDPMPPImporter(AbstractImporter):
    """The EDM-preconditioned DDPM++ of an `EDMPrecond`, with positional features.

    What a pickle says of itself is taken over or refused. A state dict does not tell `sigma_data`, which is
    `assumed`.
    """

    def read(self, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, Any]) -> Imported:
        kind = metadata.get("class", "EDMPrecond")
        if kind not in ("EDMPrecond", "SongUNet"):
            raise ValueError(f"it holds a '{kind}', only EDMPrecond and SongUNet are known")
        given, levels, wanted = _checked(arrays)
        _refuse_arguments(metadata)
        options = _options(given, levels)
        images, side = options["image_channels"], options["resolution"]
        return Imported(
            plugins=("edm", "positional", "additive-group-norm", "ddpmpp", "diffusion"),
            settings={
                "positional.channels": options["positional_channels"],
                **{f"ddpmpp.{name}": options[name] for name in SETTINGS},
                **_said(metadata),
            },
            data=DataSpec(
                source="images of EDM",
                shape=(images, side, side),
                num_classes=options["num_classes"],
                shift=(0.0,) * images,
                scale=(1.0,) * images,
                sigma_data=positive(metadata, "sigma_data", 0.5),
            ),
            leaves={f"network/{n}": leaf for n, leaf in leaves_of(given, levels).items()},
            dropped=surplus(given, wanted, UNUSED, r"enc\.|dec\.|map_|out_"),
            assumed=() if argument(metadata, "sigma_data") else ("data.sigma_data",),
        )


def from_songunet(
    arrays: Mapping[str, np.ndarray],
) -> tuple[dict[str, Any], dict[str, Given]]:
    r"""What a state dict says of the network, and for each leaf the parameter's name and its array.

    The options are those of `DDPMPPOptions` that shapes tell, and `num_classes`, `image_channels`,
    `resolution`, `positional_channels`. Leaves are named from the network on. Filters and `map_augment`
    are no leaves. With $\varphi = (\sin, \cos)$ there and $\varphi' = \sqrt2\,(\cos, \sin)$ here, $P$ the
    exchange of halves, $W_0 (\varphi + l) = W_0 P/\sqrt2\,(\varphi' + \sqrt2\,P\,l)$. Raises `ValueError`
    for another network, or one of its relatives, and where parameters are missing.
    """
    given, levels, _ = _checked(arrays)
    return _options(given, levels), leaves_of(given, levels)


def _checked(
    arrays: Mapping[str, np.ndarray],
) -> tuple[dict[str, Given], Structure, dict[str, Sizes]]:
    """The parameters, the levels, and the shapes that they were found to have."""
    given, prefix = without("model.", arrays)
    _refuse_others(given)
    try:
        levels = structure(given, "conv1", ("norm2", "qkv", "proj"))
    except ValueError as error:
        raise ValueError(f"the network is no SongUNet that is known: {error}") from None
    wanted = _wanted(given, levels)
    check(given, wanted, prefix)
    return given, levels, wanted


def _refuse_others(given: Mapping[str, Given]) -> None:
    reason = None
    if "u" in given:
        reason = "of iDDPM's preconditioning (iDDPMPrecond)"
    elif "map_noise.freqs" in given:
        reason = "NCSN++ (a SongUNet with Fourier features)"
    elif any("_aux_" in k and "_aux_norm" not in k and "_aux_conv" not in k for k in given):
        reason = "NCSN++ (a SongUNet with a residual or skip path beside its blocks)"
    elif "out_norm.weight" in given and "map_layer0.weight" in given:
        reason = "ADM (DhariwalUNet)"
    if reason:
        raise ValueError(
            f"the network is {reason}; only DDPM++, the standard SongUNet, is supported"
        )


def _refuse_arguments(metadata: Mapping[str, Any]) -> None:
    refuse_unknown(metadata, KNOWN)
    for name, supported in FIXED.items():
        refuse_other(metadata, name, *supported)
    for name, value in (("skip_scale", math.sqrt(0.5)), ("eps", 1e-6)):
        held = argument(metadata, name)
        if held is not None and not math.isclose(held, value, rel_tol=1e-6):
            raise ValueError(f"it was made with {name}={held}, and only {value:g} is supported")


def _said(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The options that a pickle tells beside the shapes."""
    found: dict[str, Any] = {}
    lowest, highest = (argument(metadata, f"sigma_{end}") for end in ("min", "max"))
    if highest is not None and highest < RATIO_MAX:
        found["edm.ratio_max"] = highest
    if lowest is not None and lowest > RATIO_MIN:
        found["pf-ode.ratio_min"] = lowest
    if (positions := argument(metadata, "max_positions")) is not None:
        found["positional.min_frequency"] = 1 / positive(metadata, "max_positions", positions)
    if (dropout := argument(metadata, "dropout")) is not None:
        found["ddpmpp.dropout"] = dropout
    # EDM's default: no label is dropped.
    found["diffusion.label_dropout"] = argument(metadata, "label_dropout") or 0.0
    return found


def _wanted(given: Mapping[str, Given], levels: Structure) -> dict[str, Sizes]:
    """Every parameter of the network with these levels, and its shape."""
    embedding, features = (side_of(given, "map_layer0.weight", axis) for axis in (0, 1))
    top = f"{levels.sides[0]}x{levels.sides[0]}"
    stem = side_of(given, f"enc.{top}_conv.weight", 0)
    images = side_of(given, f"dec.{top}_aux_conv.weight", 0)

    def affine(name: str, out: int | None, *rest: int | None) -> dict[str, Sizes]:
        return {f"{name}.weight": (out, *rest), f"{name}.bias": (out,)}

    wanted = {
        **affine(f"enc.{top}_conv", stem, images, 3, 3),
        **affine(f"dec.{top}_aux_norm", levels.widths[0]),
        **affine(f"dec.{top}_aux_conv", images, levels.widths[0], 3, 3),
        **affine("map_layer0", embedding, features),
        **affine("map_layer1", embedding, embedding),
    }
    if any(name.startswith("map_label.") for name in given):
        wanted |= affine("map_label", features, None)
    # Where the first convolution is missing its channels do not matter: that is what is named.
    for place in _places(levels, stem or levels.widths[0]):
        layers = {
            **affine("norm0", place.in_),
            **affine("conv0", place.out, place.in_, 3, 3),
            **affine("affine", place.out, embedding),
            **affine("norm1", place.out),
            **affine("conv1", place.out, place.out, 3, 3),
        }
        if place.resample != "keep" or place.in_ != place.out:
            layers |= affine("skip", place.out, place.in_, 1, 1)
        if place.attends:
            layers |= affine("norm2", place.out)
            layers |= affine("qkv", 3 * place.out, place.out, 1, 1)
            layers |= affine("proj", place.out, place.out, 1, 1)
        wanted |= {f"{place.name}.{name}": shape for name, shape in layers.items()}
    return wanted


def _places(levels: Structure, stem: int) -> list[Place]:
    return [*levels.encoder(stem), *levels.decoder(stem, last_attends=True)]


def _options(given: Mapping[str, Given], levels: Structure) -> dict[str, Any]:
    side = levels.sides[0]
    channels, images = given[f"enc.{side}x{side}_conv.weight"][1].shape[:2]
    embedding, features = given["map_layer0.weight"][1].shape
    uneven = {"channel_mult": levels.widths, "channel_mult_emb": (embedding,)}
    for name, widths in uneven.items():
        if any(width % channels for width in widths):
            shown = ", ".join(map(str, widths))
            raise ValueError(f"its {name} is no whole number ({shown} of {channels} channels)")
    return {
        "channels": channels,
        "multipliers": tuple(width // channels for width in levels.widths),
        "blocks": levels.blocks,
        "attention_resolutions": levels.attended,
        "embedding_multiplier": embedding // channels,
        "resample": _filter(given),
        "heads": 1,
        "num_classes": side_of(given, "map_label.weight", 1) or 0,
        "image_channels": images,
        "resolution": side,
        "positional_channels": features,
    }


def _filter(given: Mapping[str, Given]) -> str:
    """The name of the filter between levels, of which the file has the outer square."""
    kernels = [a for name, (_, a) in given.items() if name.endswith("resample_filter")]
    for name, taps in FILTERS.items():
        outer = np.outer(taps, taps)[None, None] / sum(taps) ** 2
        if all(k.shape == outer.shape and np.allclose(k, outer, atol=1e-6) for k in kernels):
            return name
    raise ValueError("its resample_filter is neither [1, 1] nor [1, 3, 3, 1]")


def build(config: edm.VarianceExploding) -> DDPMPPImporter:
    return DDPMPPImporter()


plugin = replace(edm.plugin, provides={**edm.plugin.provides, Slot.importer: build})
"""EDM's process and preconditioning, and with them the reader of its published weights."""
