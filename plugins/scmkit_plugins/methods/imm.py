"""Inductive moment matching: jumps from two times land in one distribution, group by group."""

from dataclasses import dataclass
from typing import Annotated

import jax
import jax.numpy as jnp
import jax.random as jr
from annotated_types import Ge, Le
from jaxtyping import Array, Float

from scmkit.interfaces import (
    AbstractGroupLoss,
    AbstractNoiseProcess,
    AbstractParameterization,
    Conditioning,
    LossOutput,
    Sample,
    Scene,
)
from scmkit.losses import noised
from scmkit.models.model import Model
from scmkit.plugin import Context, Plugin, Slot
from scmkit.types import Key, Scalar
from scmkit_plugins.methods._data_tangent import build_data_tangent
from scmkit_plugins.methods._flowmap import maybe_unlabelled, rectified_time

NEAREST = 1e-6
"""The smallest distance that the kernel tells from none."""


@dataclass(frozen=True)
class Options:
    """Options of inductive moment matching."""

    group: Annotated[int, Ge(1)] = 4
    """Samples that share their times, the particles of a statistic; must divide the (micro-)batch."""
    halvings: Annotated[int, Ge(0)] = 12
    """How often the largest noise-to-signal ratio is halved to give the gap between the two starts."""
    bias: float = 5.0
    """`b`, the log signal-to-noise ratio beyond which times weigh less and less."""
    power: Annotated[float, Ge(0)] = 1.0
    """`a`, the power of the signal's share in the weight."""
    label_dropout: Annotated[float, Ge(0), Le(1)] = 0.1
    """Share of samples trained without their label, which guidance needs."""


class InductiveLoss(AbstractGroupLoss):
    r"""$w(t)\,\mathrm{MMD}^2$ of a group that jumps from `t` to `s` and its twin that jumps from `r < t`.

    $$y_i = G_\theta(x^i_t, t, s), \qquad z_i = G_{sg}(x^i_r, r, s), \qquad
      \mathrm{MMD}^2 = \tfrac{1}{M^2} \sum_{ij} k(y_i, y_j) + k(z_i, z_j) - 2 k(y_i, z_j)$$

    with the Laplace kernel $k(y, z) = \exp(-|y - z| / D |b|)$ of $G = a\,x + b\,F$. Both starts are one
    sample on one line, $x_r = \alpha_r x_0 + \sigma_r \varepsilon$, the DDIM interpolation between $x_t$ and
    $x_0$; `t` is the proposal's, `s` uniform below it in rectified flow's time $\tau$, and
    $\rho_r = \max(\rho_s, \rho_t - \rho_{max} / 2^k)$. With $\tau$ and the log signal-to-noise ratio
    $\lambda = 2 \log((1 - \tau) / \tau)$, both in units of the data's deviation,
    $w = \frac12\,\sigma(b - \lambda)\,(-\lambda')\,(1 - \tau)^a / ((1 - \tau)^2 + \tau^2)$
    (arXiv 2503.07565, Sections 4 and 5, Appendix C).

    Where all jumps are exact, both groups have one distribution; the statistic of finitely many is then
    $\frac{2}{M} (1 - \overline{k(y_i, z_i)})$ in expectation, and exactly zero at `r = t`.
    """

    group: int
    num_classes: int
    options: Options

    def __call__(self, model: Model, scene: Scene, samples: Sample, *, key: Key) -> LossOutput:
        k_t, k_s, k_noise, k_label, k_dropout = jr.split(key, 5)
        param, process = model.parameterization, model.process
        t = scene.proposal.sample(process, key=k_t)
        ratio = process.ratio(t) / param.sigma_data
        tau = ratio / (1 + ratio)
        below = jr.uniform(k_s) * process.ratio(t) / (1 + process.ratio(t))
        s = jnp.minimum(rectified_time(process, below), t)
        r = start_between(process, t, s, self.options.halvings)

        def pair(sample: Sample, keys: Array) -> tuple[Array, Array]:
            k_noise, k_label, k_dropout = keys
            here, cond = noised(process, sample, t, key=k_noise), sample.cond
            if cond.label is not None:
                share = self.options.label_dropout
                cond = Conditioning(maybe_unlabelled(cond, self.num_classes, share, key=k_label)[0])
            nearer = process.perturb(here.x0, here.eps, r)
            y = model.jump(here.x_t, t, s, cond, key=k_dropout)
            z = model.jump(nearer, r, s, cond, key=k_dropout)
            return y.ravel(), jax.lax.stop_gradient(z).ravel()

        keys = jnp.stack([jr.split(k, self.group) for k in (k_noise, k_label, k_dropout)], axis=1)
        y, z = jax.vmap(pair)(samples, keys)
        mmd = discrepancy(y, z, y.shape[1] * jump_scale(param, t, s))
        share = (1 - tau) ** self.options.power / ((1 - tau) ** 2 + tau**2)
        log_snr = -2 * jnp.log(ratio)
        weight = jax.nn.sigmoid(self.options.bias - log_snr) * share / (tau * (1 - tau))
        return LossOutput(weight * mmd, {"mmd": mmd}, process.ratio(t))


def start_between(process: AbstractNoiseProcess, t: Scalar, s: Scalar, halvings: int) -> Scalar:
    """The time, not before `s`, whose ratio is the given part of the largest one below that of `t`."""
    ratio = process.ratio(t) - process.ratio_max / 2**halvings
    return jnp.clip(process.time_at(jnp.maximum(ratio, process.ratio(s))), s, t)


def jump_scale(param: AbstractParameterization, t: Scalar, s: Scalar) -> Scalar:
    """`|b|`: how far a jump moves where the network's output does by one; positive also for no jump."""
    return jnp.maximum(jnp.abs(param.jump(t, s)[1]), 1e-4)


def discrepancy(y: Float[Array, "m d"], z: Float[Array, "n d"], width: Scalar) -> Scalar:
    r"""The squared MMD of two sets by its V-statistic with the kernel $\exp(-|y - z| / width)$."""

    def kernel(a: Float[Array, "m d"], b: Float[Array, "n d"]) -> Scalar:
        square = jnp.sum((a[:, None] - b[None]) ** 2, axis=-1)
        # Nearer particles count as equal: the kernel has a kink there, on whose sides rounding errors lie.
        return jnp.mean(jnp.exp(-jnp.sqrt(jnp.maximum(square, NEAREST**2)) / width))

    return kernel(y, y) + kernel(z, z) - 2 * kernel(y, z)


def build_loss(config: Options, context: Context, *, key: Key) -> InductiveLoss:
    return InductiveLoss(config.group, context.data.num_classes, config)


plugin = Plugin(
    name="imm",
    summary="inductive moment matching: flow maps by groups of samples (arXiv 2503.07565)",
    provides={Slot.loss: build_loss, Slot.tangent: build_data_tangent},
    config=Options,
    drops_labels=lambda config: config.label_dropout > 0,
    uses=(Slot.coupling,),
    suggests={Slot.sampler: "flow-map", Slot.proposal: "uniform"},
    settings={"train.lr": 1e-4, "train.beta2": 0.999},
    makes="flow-map",
    noise_labels=2,
)
