"""InceptionV3 with the weights of a file."""

from collections.abc import Mapping

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from scmkit.data.derived import digest_arrays
from scmkit.errors import DataError, did_you_mean
from scmkit.storage.finite import not_finite
from scmkit.weights import WeightFile, listed
from scmkit_plugins.features._inception_network import SIDE, Conv, Definition, Map, inception_v3
from scmkit_plugins.layers.linear import last_axis

CLASSES: dict[tuple[int, ...], Definition] = {(1008,): "pytorch-fid", (1000,): "torchvision"}
"""What tells the two definitions apart."""

EPSILON = 1e-3
"""Of the batch normalisation."""

NORMALISATION = ("weight", "bias", "running_mean", "running_var")
"""The parameters of each."""

UNUSED = ("AuxLogits.", "num_batches_tracked")
"""Parts of names that only training has a use for."""


class InceptionV3(eqx.Module):
    """The network in evaluation mode, its batch normalisation folded into the convolutions."""

    kernels: dict[str, Float[Array, "_ _ _ _"]]
    biases: dict[str, Float[Array, " _"]]
    classifier_weight: Float[Array, "2048 classes"]
    classifier_bias: Float[Array, " classes"]
    definition: Definition = eqx.field(static=True)

    def __call__(self, image: Float[Array, "height width 3"]) -> Float[Array, " 2048"]:
        """The features of an image in [-1, 1], which both definitions were trained on."""

        def apply(name: str, conv: Conv, x: Map) -> Map:
            y = _convolved(x, self.kernels[name], conv)
            return jax.nn.relu(y + last_axis(self.biases[name], y))

        return inception_v3(apply, image, self.definition).mean((0, 1))

    def logits(self, features: Float[Array, " 2048"]) -> Float[Array, " classes"]:
        """The classifier's output."""
        weight = self.classifier_weight
        return jnp.matmul(features, weight, precision="highest") + self.classifier_bias


def _convolved(x: Map, kernel: Float[Array, "kh kw in out"], conv: Conv) -> Map:
    return lax.conv_general_dilated(
        x[None],
        kernel,
        window_strides=(conv.stride, conv.stride),
        padding=conv.padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        # An accelerator's default products carry ten bits.
        precision=lax.Precision.HIGHEST,
    )[0]


def parameters(weights: WeightFile) -> tuple[Definition, dict[str, np.ndarray]]:
    """Which definition's state dict a file holds, and what of it the network needs.

    Raises `DataError` naming the parameter that is missing, superfluous, or of another shape.
    """

    def refused(reason: str) -> DataError:
        return DataError(f"weight file '{weights.path}' is no InceptionV3: {reason}")

    given = {k: a for k, a in weights.arrays.items() if not any(part in k for part in UNUSED)}
    classes = given["fc.bias"].shape if "fc.bias" in given else ()
    if classes not in CLASSES:
        raise refused(
            "'fc.bias' should have shape (1008,) as pytorch-fid's or (1000,) as torchvision's, and "
            + (f"has {classes}" if classes else f"the file has {', '.join(list(given)[:3])}, ...")
        )
    wanted = _shapes(CLASSES[classes]) | {"fc.weight": (*classes, 2048), "fc.bias": classes}
    if missing := [name for name in wanted if name not in given]:
        raise refused(
            f"it lacks {len(missing)} of its {len(wanted)} parameters ({listed(missing)})"
            f"{did_you_mean(missing[0], given)}"
        )
    for name, shape in wanted.items():
        if given[name].shape != shape:
            raise refused(f"'{name}' has shape {given[name].shape}, not {shape}")
    if foreign := [name for name in given if name not in wanted]:
        raise refused(f"it has {listed(foreign)}, which that network has not")
    if problem := not_finite((name, given[name]) for name in wanted):
        raise refused(f"{problem}; fetch it again")
    return CLASSES[classes], {name: given[name] for name in wanted}


def _shapes(definition: Definition) -> dict[str, tuple[int, ...]]:
    """The shape of each parameter before the classifier, by its name in a state dict."""
    shapes: dict[str, tuple[int, ...]] = {}

    def record(name: str, conv: Conv, x: Map) -> Map:
        shapes[f"{name}.conv.weight"] = (conv.out, x.shape[-1], *conv.kernel)
        shapes.update({f"{name}.bn.{part}": (conv.out,) for part in NORMALISATION})
        return _convolved(x, jnp.zeros((*conv.kernel, x.shape[-1], conv.out)), conv)

    image = jax.ShapeDtypeStruct((SIDE, SIDE, 3), jnp.float32)
    jax.eval_shape(lambda image: inception_v3(record, image, definition), image)
    return shapes


def folded(definition: Definition, arrays: Mapping[str, np.ndarray]) -> InceptionV3:
    """The network with these parameters."""
    kernels, biases = {}, {}
    for name in (k.removesuffix(".conv.weight") for k in arrays if k.endswith(".conv.weight")):
        scale, shift, mean, variance = (
            arrays[f"{name}.bn.{part}"].astype(np.float64) for part in NORMALISATION
        )
        scale = scale / np.sqrt(variance + EPSILON)
        kernel = arrays[f"{name}.conv.weight"].astype(np.float64).transpose(2, 3, 1, 0)
        kernels[name] = jnp.asarray(kernel * scale, jnp.float32)
        biases[name] = jnp.asarray(shift - mean * scale, jnp.float32)
    return InceptionV3(
        kernels=kernels,
        biases=biases,
        classifier_weight=jnp.asarray(arrays["fc.weight"].T, jnp.float32),
        classifier_bias=jnp.asarray(arrays["fc.bias"], jnp.float32),
        definition=definition,
    )


def digest(definition: Definition, arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 of the definition and of names, types, shapes and values of the parameters."""
    return digest_arrays({**arrays, "definition": np.asarray(definition)})
