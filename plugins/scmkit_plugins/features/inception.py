"""InceptionV3's features, where FID and its kin are defined, with weights from a file of the user's."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from annotated_types import Gt
from jaxtyping import Array, Float

from scmkit.data.derived import say
from scmkit.errors import OptionError, UsageError
from scmkit.interfaces import AbstractDataset, AbstractFeatures, Features
from scmkit.plugin import Plugin, Slot
from scmkit.weights import named_digest, read_weights
from scmkit_plugins.features._inception_network import SIDE
from scmkit_plugins.features._inception_weights import InceptionV3, assembled, digest, parameters

NEEDED = (
    "inception.weights: InceptionV3 needs a weight file, and nothing is downloaded: for FID "
    "pt_inception-2015-12-05-6726825d.pth (github.com/mseitzer/pytorch-fid, release 'fid_weights'), or "
    "torchvision's inception_v3 state dict; then --set inception.weights=FILE"
)


class Inception(AbstractFeatures):
    """The 2048 numbers before InceptionV3's classifier ("pool3"), and its class probabilities.

    Images are rounded to 8 bits, as in the files that published figures are computed from, grey ones repeated
    to three channels, and resized to 299x299 bilinearly without antialiasing, as pytorch-fid does. The
    probabilities are of the logits without their bias for FID's network, as the Inception Score is computed
    since arXiv 1606.03498.
    """

    def __init__(self, network: InceptionV3, digest: str, weights: str, batch: int) -> None:
        self.digest = digest
        self.facts = {"definition": network.definition, "weights": weights}
        self._batch = batch
        self._network = network
        if network.definition == "pytorch-fid":
            bias = jnp.zeros_like(network.classifier_bias)
            self._network = eqx.tree_at(lambda n: n.classifier_bias, network, bias)

    def __call__(self, samples: Float[np.ndarray, "n c h w"]) -> Features:
        n, parts = len(samples), []
        for start in range(0, n, self._batch):
            # The last batch is filled up, so that one program serves all.
            chosen = np.arange(start, start + self._batch) % n
            batch = jnp.asarray(samples[chosen])
            parts.append(jax.device_get(_features(self._network, batch)))
        vectors, probabilities = (np.concatenate(found)[:n] for found in zip(*parts, strict=True))
        return Features(vectors, probabilities)


@eqx.filter_jit
def _features(
    network: InceptionV3, samples: Float[Array, "n c h w"]
) -> tuple[Float[Array, "n 2048"], Float[Array, "n classes"]]:
    def one(
        sample: Float[Array, "c h w"],
    ) -> tuple[Float[Array, " 2048"], Float[Array, " classes"]]:
        features = network(prepared(sample))
        return features, jax.nn.softmax(network.logits(features))

    # An accelerator's default products carry ten bits.
    with jax.default_matmul_precision("highest"):
        return jax.vmap(one)(samples)


def prepared(sample: Float[Array, "c h w"]) -> Float[Array, "299 299 3"]:
    """An image in [-1, 1] as the network sees it."""
    pixels = jnp.round(jnp.clip(sample, -1, 1) * 127.5 + 127.5) / 127.5 - 1
    image = jnp.broadcast_to(pixels.transpose(1, 2, 0), (*pixels.shape[1:], 3))
    return jax.image.resize(image, (SIDE, SIDE, 3), "bilinear", antialias=False)


@dataclass(frozen=True)
class Options:
    """Options of InceptionV3's features."""

    weights: str = ""
    """File with the state dict of pytorch-fid (pt_inception-2015-12-05-6726825d.pth) or torchvision."""
    batch: Annotated[int, Gt(0)] = 32
    """Images per evaluation of the network."""


def build(config: Options, dataset: AbstractDataset, directory: Path) -> Inception:
    if not config.weights:
        raise OptionError(NEEDED)
    if len(dataset.shape) != 3 or dataset.shape[0] not in (1, 3):
        raise UsageError(
            f"inception sees images of 1 or 3 channels, not samples of shape {dataset.shape}; "
            "choose other features"
        )
    path = Path(config.weights).expanduser()
    file = read_weights(path)
    if file.prefix:
        say(f"'{path}': names are read without '{file.prefix}', which all of them begin with")
    definition, arrays = parameters(file)
    network = assembled(definition, arrays)
    return Inception(network, digest(definition, arrays), named_digest(path), config.batch)


plugin = Plugin(
    name="inception",
    summary="InceptionV3's features, for FID and its kin; weights from your file (arXiv 1512.00567)",
    provides={Slot.features: build},
    config=Options,
)
