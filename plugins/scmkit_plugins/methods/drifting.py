"""Drifting: a one-step generator whose samples are drawn to the data and pushed off each other."""

from dataclasses import dataclass
from typing import Annotated, Literal

import jax
import jax.numpy as jnp
from annotated_types import Gt, MinLen
from jaxtyping import Array, Bool, Float

from scmkit.interfaces import AbstractBatchLoss, AbstractEncoder, LossOutput, Sample, Scene
from scmkit.losses import generated, surrogate
from scmkit.models.model import Model
from scmkit.plugin import Context, Plugin, Slot
from scmkit.types import Key, Keys, Scalar
from scmkit_plugins.methods._data_tangent import build_data_tangent


@dataclass(frozen=True)
class Options:
    """Options of drifting."""

    kernel: Literal["laplace", "gaussian"] = "laplace"
    """How the pull of two samples falls with their distance: `exp(-d / tau)` or `exp(-d^2 / 2 tau^2)`."""
    temperatures: Annotated[tuple[Annotated[float, Gt(0)], ...], MinLen(1)] = (0.02, 0.05, 0.2)
    """Each `tau`, in units of the mean distance of samples; the drifts of all are added."""
    normalize: Literal["both", "each"] = "both"
    """Over what pulls are shared out: over all of one sample and all by one sample, or over those of the data
    and those of the generated samples apart."""


class DriftingLoss(AbstractBatchLoss):
    r"""A value whose gradient in the generated samples is minus their drift $V$, summed over temperatures.

    $$V(x_i) = \sum_{jk} a^+_{ij}\, a^-_{ik}\, (y_j - x_k)$$

    $y_j$ are the data of the batch of the same class as $x_i$, $x_k$ the other generated samples of that
    class, and $a^+$, $a^-$ their kernels at $x_i$, shared out over rows and columns of all pulls:
    $a = \sqrt{\mathrm{softmax}_{row} \mathrm{softmax}_{column}}$ (arXiv 2602.04770, Algorithm 2). The drift
    is zero where both sets are alike. Each temperature's is brought to unit size.

    With `normalize=each` and the Gaussian kernel it is $\tau^2$ times the difference of the scores of the two
    sets smoothed by $N(0, \tau^2 I)$ (arXiv 2603.07514).

    With an encoder all of it happens to features, through which the gradient flows: to each layer's vectors,
    at each position apart, and to their mean over positions (the paper also has deviations, and
    means of patches). The values of all these are added, those of a layer's positions as their mean.
    """

    options: Options
    encoder: AbstractEncoder | None = None

    def __call__(self, model: Model, scene: Scene, batch: Sample, *, keys: Keys) -> LossOutput:
        def make(sample: Sample, key: Key) -> Array:
            return generated(model, sample.x0.shape, sample.cond, key=key)

        label = jnp.zeros(len(keys)) if batch.cond.label is None else batch.cond.label
        alike = label[:, None] == label[None]
        made, real = self.views(jax.vmap(make)(batch, keys)), self.views(batch.x0)
        found = [self.pulled(x, data, alike) for x, data in zip(made, real, strict=True)]
        value = sum((value for value, _ in found), jnp.zeros(len(keys)))
        metrics = {
            name: jnp.mean(jnp.stack([drifts[name] for _, drifts in found]), 0)
            for name in found[0][1]
        }
        return LossOutput(value, metrics, jnp.full(len(keys), model.process.ratio_max))

    def views(self, samples: Float[Array, "n *shape"]) -> list[Float[Array, "n ..."]]:
        """What of samples drifts: each as a vector, or features `n c` and `n positions c` of them."""
        if self.encoder is None:
            return [samples.reshape(len(samples), -1)]
        found = []
        for layer in jax.vmap(self.encoder)(samples):
            if layer.ndim > 2:
                layer = layer.reshape(len(layer), -1, layer.shape[-1])
                found.append(layer.mean(1))
            found.append(layer)
        return found

    def pulled(
        self, x: Float[Array, "n *p d"], data: Float[Array, "n *p d"], alike: Bool[Array, "n n"]
    ) -> tuple[Float[Array, " n"], dict[str, Float[Array, " n"]]]:
        """The value of generated samples in one view, and the size of their drift at each temperature."""
        if x.ndim > 2:
            every = jax.vmap(self.pulled, in_axes=(1, 1, None))(x, data, alike)
            return jax.tree.map(lambda a: jnp.mean(a, axis=0), every)
        still = jax.lax.stop_gradient(x)
        unit = mean_distance(still, data, alike)
        drifts = [self.drift(still, data, alike, tau * unit) for tau in self.options.temperatures]
        sizes = [jnp.sqrt(jnp.mean(v**2)) for v in drifts]
        field = sum((v / jnp.maximum(s, 1e-8) for v, s in zip(drifts, sizes, strict=True)), 0 * x)
        metrics = {
            f"drift_{tau:g}": jnp.sqrt(jnp.mean(v**2, axis=1)) / unit
            for tau, v in zip(self.options.temperatures, drifts, strict=True)
        }
        return jax.vmap(surrogate)(x / unit, -field), metrics

    def drift(
        self,
        x: Float[Array, "n d"],
        data: Float[Array, "n d"],
        alike: Bool[Array, "n n"],
        tau: Scalar | float,
    ) -> Float[Array, "n d"]:
        """The drift of generated samples at one temperature, in the data's units; `alike` says which sample
        of either set is of whose class."""
        gap = jnp.sqrt(squares(x, jnp.concatenate([x, data]))) / tau
        force = -gap if self.options.kernel == "laplace" else -(gap**2) / 2
        pulls = jnp.concatenate([alike & ~jnp.eye(len(x), dtype=bool), alike], axis=1)
        force = jnp.where(pulls, force, -1e30)  # A row or column of none that pulls stays finite.
        if self.options.normalize == "both":
            share = jnp.sqrt(jax.nn.softmax(force, axis=1) * jax.nn.softmax(force, axis=0))
        else:
            both = jnp.split(force, 2, axis=1)
            share = jnp.concatenate([jax.nn.softmax(part, axis=1) for part in both], axis=1)
        away, towards = jnp.split(jnp.where(pulls, share, 0), 2, axis=1)
        pushed, pulled = (jnp.sum(a, axis=1, keepdims=True) for a in (away, towards))
        return pushed * (towards @ data) - pulled * (away @ x)


def mean_distance(
    x: Float[Array, "n d"], data: Float[Array, "n d"], alike: Bool[Array, "n n"]
) -> Scalar:
    """The mean distance of generated samples to data of their class, the unit of all temperatures."""
    return jnp.maximum(jnp.mean(jnp.sqrt(squares(x, data)), where=alike), 1e-3)


def squares(x: Float[Array, "n d"], y: Float[Array, "m d"]) -> Float[Array, "n m"]:
    """The squared distances of two sets."""
    squares = jnp.sum(x**2, 1)[:, None] + jnp.sum(y**2, 1)[None] - 2 * x @ y.T
    return jnp.maximum(squares, 0)


def build_loss(config: Options, context: Context, *, key: Key) -> DriftingLoss:
    return DriftingLoss(config, context.encoder)


plugin = Plugin(
    name="drifting",
    summary="drifting: one-step generators without teacher or second network (arXiv 2602.04770)",
    provides={Slot.loss: build_loss, Slot.tangent: build_data_tangent},
    config=Options,
    drops_labels=lambda config: False,
    uses=(Slot.encoder,),
    suggests={Slot.sampler: "consistency"},
    settings={
        "consistency.steps": (1,),
        "train.lr": 2e-4,
        "train.beta2": 0.95,
        "train.clip": 2.0,
        "train.warmup": 1000,
    },
    makes="generator",
)
