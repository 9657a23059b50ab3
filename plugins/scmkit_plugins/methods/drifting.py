"""Drifting: a one-step generator whose samples are drawn to the data and pushed off each other."""

from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from annotated_types import Ge, Gt, MinLen
from jaxtyping import Array, Bool, Float

from scmkit.errors import OptionError
from scmkit.interfaces import (
    AbstractBatchLoss,
    AbstractEncoder,
    AbstractGroupLoss,
    LossOutput,
    Sample,
    Scene,
)
from scmkit.losses import generated, surrogate
from scmkit.models.model import Model
from scmkit.plugin import Context, Plugin, Slot
from scmkit.types import Key, Keys, Scalar
from scmkit_plugins.methods._bank import build_bank
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
    bank: Annotated[int, Ge(0)] = 0
    """Data samples of each class that a memory bank holds, in the place of those of the batch alone."""
    group: Annotated[int, Ge(0)] = 0
    """Samples made of one class, where there is a bank; without one each sample of the batch has its own."""


class Drifted(eqx.Module):
    """One view of generated samples and of the data that draws them, and which of either is of whose class.

    A view has a vector of each sample, or one at each of its positions.
    """

    x: Float[Array, "n *positions d"]
    data: Float[Array, "m *positions d"]
    alike: Bool[Array, "n n"]
    """Which generated samples are of one class."""
    drawn: Bool[Array, "n m"]
    """Which data are of the class of which generated sample."""


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

        n = len(keys)
        label = jnp.zeros(n) if batch.cond.label is None else batch.cond.label
        alike = label[:, None] == label[None]
        sets = Drifted(jax.vmap(make)(batch, keys), batch.x0, alike, alike)
        value, metrics = against_drift(sets, self.options, self.encoder)
        return LossOutput(value, metrics, jnp.full(n, model.process.ratio_max))


class BankedDriftingLoss(AbstractGroupLoss):
    """The same for groups of generated samples of one class, against all data of it in the memory bank.

    The class is that of the group's first sample; the others have come into the bank as well.
    """

    group: int
    options: Options
    encoder: AbstractEncoder | None = None

    def __call__(self, model: Model, scene: Scene, samples: Sample, *, key: Key) -> LossOutput:
        first = jax.tree.map(lambda a: a[0], samples)
        make = partial(generated, model, first.x0.shape, first.cond)
        x = jax.vmap(lambda key: make(key=key))(jr.split(key, self.group))
        bank: Any = scene.memories["bank"]
        data, filled = bank.of(first.cond)
        alike = jnp.ones((self.group, self.group), bool)
        drawn = jnp.broadcast_to(filled, (self.group, len(data)))
        value, metrics = against_drift(Drifted(x, data, alike, drawn), self.options, self.encoder)
        metrics = {name: jnp.mean(metric) for name, metric in metrics.items()}
        return LossOutput(jnp.mean(value), metrics, jnp.asarray(model.process.ratio_max))


def views(
    samples: Float[Array, "n *shape"], encoder: AbstractEncoder | None
) -> list[Float[Array, "n ..."]]:
    """What of samples drifts: each as a vector, or features `n c` and `n positions c` of them."""
    if encoder is None:
        return [samples.reshape(len(samples), -1)]
    found = []
    for layer in jax.vmap(encoder)(samples):
        if layer.ndim > 2:
            layer = layer.reshape(len(layer), -1, layer.shape[-1])
            found.append(layer.mean(1))
        found.append(layer)
    return found


def against_drift(
    sets: Drifted, options: Options, encoder: AbstractEncoder | None
) -> tuple[Float[Array, " n"], dict[str, Array]]:
    """For each generated sample a value whose gradient is minus its drift, summed over what drifts of it;
    and the size of the drift at each temperature, in the mean."""
    both = zip(views(sets.x, encoder), views(sets.data, encoder), strict=True)
    found = [
        against_one_drift(Drifted(x, data, sets.alike, sets.drawn), options) for x, data in both
    ]
    value = sum((value for value, _ in found), jnp.zeros(len(sets.x)))
    sizes = [drifts for _, drifts in found]
    return value, jax.tree.map(lambda *each: jnp.mean(jnp.stack(each), 0), *sizes)


def against_one_drift(
    sets: Drifted, options: Options
) -> tuple[Float[Array, " n"], dict[str, Array]]:
    """The same in one view; of several positions the mean."""
    if sets.x.ndim > 2:
        every = jax.vmap(
            lambda x, data: against_one_drift(Drifted(x, data, sets.alike, sets.drawn), options),
            in_axes=1,
        )(sets.x, sets.data)
        return jax.tree.map(lambda a: jnp.mean(a, axis=0), every)
    still = jax.lax.stop_gradient(sets)
    unit = mean_distance(still)
    drifts = [drift(still, tau * unit, options) for tau in options.temperatures]
    sizes = [jnp.sqrt(jnp.mean(v**2)) for v in drifts]
    field = sum((v / jnp.maximum(s, 1e-8) for v, s in zip(drifts, sizes, strict=True)), 0 * still.x)
    metrics = {
        f"drift_{tau:g}": jnp.sqrt(jnp.mean(v**2, axis=1)) / unit
        for tau, v in zip(options.temperatures, drifts, strict=True)
    }
    return jax.vmap(surrogate)(sets.x / unit, -field), metrics


def drift(sets: Drifted, tau: Scalar | float, options: Options) -> Float[Array, "n d"]:
    """The drift of generated samples at one temperature, in the data's units."""
    x, data = sets.x, sets.data
    gap = jnp.sqrt(squares(x, jnp.concatenate([x, data]))) / tau
    force = -gap if options.kernel == "laplace" else -(gap**2) / 2
    others = sets.alike & ~jnp.eye(len(x), dtype=bool)
    pulls = jnp.concatenate([others, sets.drawn], axis=1)
    force = jnp.where(pulls, force, -1e30)  # A row or column of none that pulls stays finite.
    if options.normalize == "both":
        share = jnp.sqrt(jax.nn.softmax(force, axis=1) * jax.nn.softmax(force, axis=0))
    else:
        both = jnp.split(force, [len(x)], axis=1)
        share = jnp.concatenate([jax.nn.softmax(part, axis=1) for part in both], axis=1)
    away, towards = jnp.split(jnp.where(pulls, share, 0), [len(x)], axis=1)
    pushed, pulled = (jnp.sum(a, axis=1, keepdims=True) for a in (away, towards))
    return pushed * (towards @ data) - pulled * (away @ x)


def mean_distance(sets: Drifted) -> Scalar:
    """The mean distance of generated samples to data of their class, the unit of all temperatures."""
    distances = jnp.sqrt(squares(sets.x, sets.data))
    return jnp.maximum(jnp.mean(distances, where=sets.drawn), 1e-3)


def squares(x: Float[Array, "n d"], y: Float[Array, "m d"]) -> Float[Array, "n m"]:
    """The squared distances of two sets."""
    squares = jnp.sum(x**2, 1)[:, None] + jnp.sum(y**2, 1)[None] - 2 * x @ y.T
    return jnp.maximum(squares, 0)


def build_loss(config: Options, context: Context, *, key: Key) -> DriftingLoss | BankedDriftingLoss:
    if bool(config.bank) != bool(config.group):
        raise OptionError(
            f"drifting.bank={config.bank} and drifting.group={config.group}: the bank draws groups of one "
            "class; set both, such as drifting.bank=128 and drifting.group=16, or none"
        )
    if config.group == 1:
        raise OptionError(
            "drifting.group=1: a sample is pushed off the others of its group; give at least 2"
        )
    if config.bank:
        return BankedDriftingLoss(config.group, config, context.encoder)
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
    memories=lambda config, train: {"bank": build_bank} if config.bank else {},
)
