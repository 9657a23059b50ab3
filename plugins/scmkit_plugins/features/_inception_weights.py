"""InceptionV3 with the weights of a file."""

from collections.abc import Mapping

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from scmkit.data.derived import digest_arrays
from scmkit.weights import WeightFile, matching, no_network
from scmkit_plugins.features._folding import NORMALISATION, Folded, Map, folded
from scmkit_plugins.features._inception_network import SIDE, Conv, Definition, inception_v3

CLASSES: dict[tuple[int, ...], Definition] = {(1008,): "pytorch-fid", (1000,): "torchvision"}
"""What tells the two definitions apart."""

UNUSED = ("AuxLogits.", "num_batches_tracked")
"""Parts of names that only training has a use for."""


class InceptionV3(eqx.Module):
    """The network in evaluation mode, its batch normalisation folded into the convolutions."""

    convolutions: dict[str, Folded]
    classifier_weight: Float[Array, "2048 classes"]
    classifier_bias: Float[Array, " classes"]
    definition: Definition = eqx.field(static=True)

    def __call__(self, image: Float[Array, "height width 3"]) -> Float[Array, " 2048"]:
        """The features of an image in [-1, 1], which both definitions were trained on."""

        def apply(name: str, conv: Conv, x: Map) -> Map:
            y = self.convolutions[name](x, stride=conv.stride, padding=conv.padding)
            return jax.nn.relu(y)

        return inception_v3(apply, image, self.definition).mean((0, 1))

    def logits(self, features: Float[Array, " 2048"]) -> Float[Array, " classes"]:
        """The classifier's output."""
        weight = self.classifier_weight
        return jnp.matmul(features, weight, precision="highest") + self.classifier_bias


def parameters(weights: WeightFile) -> tuple[Definition, dict[str, np.ndarray]]:
    """Which definition's state dict a file holds, and what of it the network needs.

    Raises `DataError` naming the parameter that is missing, superfluous, or of another shape.
    """
    arrays = weights.arrays
    classes = arrays["fc.bias"].shape if "fc.bias" in arrays else ()
    if classes not in CLASSES:
        raise no_network(
            weights,
            "InceptionV3",
            "'fc.bias' should have shape (1008,) as pytorch-fid's or (1000,) as torchvision's, and "
            + (f"has {classes}" if classes else f"the file has {', '.join(list(arrays)[:3])}, ..."),
        )
    wanted = _shapes(CLASSES[classes]) | {"fc.weight": (*classes, 2048), "fc.bias": classes}
    return CLASSES[classes], matching(weights, "InceptionV3", wanted, unused=UNUSED)


def _shapes(definition: Definition) -> dict[str, tuple[int, ...]]:
    """The shape of each parameter before the classifier, by its name in a state dict."""
    shapes: dict[str, tuple[int, ...]] = {}

    def record(name: str, conv: Conv, x: Map) -> Map:
        shapes[f"{name}.conv.weight"] = (conv.out, x.shape[-1], *conv.kernel)
        shapes.update({f"{name}.bn.{part}": (conv.out,) for part in NORMALISATION})
        empty = Folded(jnp.zeros((*conv.kernel, x.shape[-1], conv.out)), jnp.zeros(conv.out))
        return empty(x, stride=conv.stride, padding=conv.padding)

    image = jax.ShapeDtypeStruct((SIDE, SIDE, 3), jnp.float32)
    jax.eval_shape(lambda image: inception_v3(record, image, definition), image)
    return shapes


def assembled(definition: Definition, arrays: Mapping[str, np.ndarray]) -> InceptionV3:
    """The network with these parameters."""
    names = [k.removesuffix(".conv.weight") for k in arrays if k.endswith(".conv.weight")]
    return InceptionV3(
        convolutions={name: folded(arrays, f"{name}.conv", f"{name}.bn") for name in names},
        classifier_weight=jnp.asarray(arrays["fc.weight"].T, jnp.float32),
        classifier_bias=jnp.asarray(arrays["fc.bias"], jnp.float32),
        definition=definition,
    )


def digest(definition: Definition, arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 of the definition and of names, types, shapes and values of the parameters."""
    return digest_arrays({**arrays, "definition": np.asarray(definition)})
