"""The weights of NVIDIA's SongUNet, which is DDPM++ in EDM's code, as this package's network."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from scmkit.interfaces import AbstractImporter, DataSpec, Imported
from scmkit_plugins._resample import FILTERS
from scmkit_plugins._unet_weights import Given, in_order

BLOCK = {"norm0": "norm0", "conv0": "conv0", "affine": "norm1/affine", "norm1": "norm1/norm"}
BLOCK |= {"conv1": "conv1", "skip": "skip"}
BLOCK |= {"norm2": "attention/norm", "qkv": "attention/qkv", "proj": "attention/out"}

SETTINGS = ("channels", "multipliers", "blocks", "attention_resolutions")
SETTINGS += ("embedding_multiplier", "resample", "heads")


class DDPMPPImporter(AbstractImporter):
    """The EDM-preconditioned DDPM++ of an `EDMPrecond`, with positional features.

    The augmentation's labels (`map_augment`) are zero when sampling, so their weights are dropped.
    """

    def read(self, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, Any]) -> Imported:
        kind = metadata.get("class", "EDMPrecond")
        if kind not in ("EDMPrecond", "SongUNet"):
            raise ValueError(f"it holds a '{kind}', only EDMPrecond and SongUNet are known")
        options, leaves = from_songunet(arrays)
        images, side = options["image_channels"], options["resolution"]
        used = {source for source, _ in leaves.values()}
        return Imported(
            plugins=("edm", "positional", "additive-group-norm", "ddpmpp", "diffusion"),
            settings={
                "positional.channels": options["positional_channels"],
                **{f"ddpmpp.{name}": options[name] for name in SETTINGS},
            },
            data=DataSpec(
                source="images of EDM",
                shape=(images, side, side),
                num_classes=options["num_classes"],
                shift=(0.0,) * images,
                scale=(1.0,) * images,
            ),
            leaves={f"network/{name}": given for name, given in leaves.items()},
            dropped=tuple(name for name in arrays if name not in used),
        )


def from_songunet(
    arrays: Mapping[str, np.ndarray],
) -> tuple[dict[str, Any], dict[str, Given]]:
    r"""What a state dict says of the network, and for each leaf the parameter's name and its array.

    The options are those of `DDPMPPOptions` that shapes tell, and `num_classes`, `image_channels`,
    `resolution`, `positional_channels`. Leaves are named from the network on. Filters and `map_augment`
    are no leaves. With $\varphi = (\sin, \cos)$ there and $\varphi' = \sqrt2\,(\cos, \sin)$ here, $P$ the
    exchange of halves, $W_0 (\varphi + l) = W_0 P/\sqrt2\,(\varphi' + \sqrt2\,P\,l)$. Raises `ValueError`
    for another network, or one of its relatives.
    """
    given = {name.removeprefix("model."): (name, a) for name, a in arrays.items()}
    _refuse_others(given)
    blocks = {part: in_order(given, part) for part in ("enc", "dec")}
    side = max(int(name.split("x")[0]) for name in blocks["enc"])
    stem, end = f"enc.{side}x{side}_conv", f"dec.{side}x{side}_aux"
    try:
        options = _options(given, blocks["enc"], side)
        leaves = {
            **_affine(given, stem, "first"),
            **_affine(given, f"{end}_norm", "norm"),
            **_affine(given, f"{end}_conv", "last"),
            **_conditioning(given),
        }
        for part, ours in (("enc", "encoder"), ("dec", "decoder")):
            names = [n for n in blocks[part] if not re.search("_(conv|aux_norm|aux_conv)$", n)]
            for i, name in enumerate(names):
                for theirs, leaf in BLOCK.items():
                    if f"{part}.{name}.{theirs}.weight" in given:
                        leaves |= _affine(given, f"{part}.{name}.{theirs}", f"{ours}/{i}/{leaf}")
    except KeyError as error:
        raise ValueError(
            f"a SongUNet without its parameter {error}: the file is incomplete"
        ) from None
    return options, leaves


def _refuse_others(given: Mapping[str, Given]) -> None:
    reason = None
    if "map_noise.freqs" in given:
        reason = "NCSN++ (a SongUNet with Fourier features)"
    elif any("_aux_" in k and not re.search("_aux_(norm|conv)", k) for k in given):
        reason = "NCSN++ (a SongUNet with a residual or skip path beside its blocks)"
    elif "out_norm.weight" in given and "map_layer0.weight" in given:
        reason = "ADM (DhariwalUNet)"
    elif not any(re.fullmatch(r"enc\.(\d+)x\1_conv\.weight", k) for k in given) or not any(
        re.fullmatch(r"dec\.(\d+)x\1_aux_conv\.weight", k) for k in given
    ):
        found = ", ".join(source for source, _ in list(given.values())[:3]) or "nothing"
        reason = f"no SongUNet (its first parameters: {found})"
    if reason:
        raise ValueError(
            f"the network is {reason}; only DDPM++, the standard SongUNet, is supported"
        )


def _options(given: Mapping[str, Given], encoder: list[str], side: int) -> dict[str, Any]:
    channels, images = given[f"enc.{side}x{side}_conv.weight"][1].shape[:2]
    embedding, features = given["map_layer0.weight"][1].shape
    sides = sorted({int(name.split("x")[0]) for name in encoder}, reverse=True)
    widths = [given[f"enc.{s}x{s}_block0.conv1.weight"][1].shape[0] for s in sides]
    attends = [s for s in sides if f"enc.{s}x{s}_block0.qkv.weight" in given]
    if any(f"{part}.bias" not in given for part in ("map_layer0", "map_layer1")):
        raise KeyError("map_layer0.bias")
    return {
        "channels": channels,
        "multipliers": tuple(width // channels for width in widths),
        "blocks": sum(name.startswith(f"{side}x{side}_block") for name in encoder),
        "attention_resolutions": tuple(attends),
        "embedding_multiplier": embedding // channels,
        "resample": _filter(given),
        "heads": 1,
        "num_classes": given["map_label.weight"][1].shape[1] if "map_label.weight" in given else 0,
        "image_channels": images,
        "resolution": side,
        "positional_channels": features,
    }


def _filter(given: Mapping[str, Given]) -> str:
    """The name of the filter between levels, of which the file has the outer square."""
    kernels = [a[0, 0] for name, (_, a) in given.items() if name.endswith("resample_filter")]
    for name, taps in FILTERS.items():
        outer = np.outer(taps, taps) / sum(taps) ** 2
        if all(k.shape == outer.shape and np.allclose(k, outer, atol=1e-6) for k in kernels):
            return name
    raise ValueError("its resampling filter is neither [1, 1] nor [1, 3, 3, 1]")


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
