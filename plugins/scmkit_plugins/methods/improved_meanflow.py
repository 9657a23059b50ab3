"""Improved MeanFlow: a loss on the velocity, whose guidance and its interval the network is told."""

from dataclasses import dataclass
from typing import Annotated

import jax
import jax.numpy as jnp
import jax.random as jr
from annotated_types import Ge, Gt, Le
from jaxtyping import Array, Bool

from scmkit.interfaces import AbstractLoss, Conditioning, LossOutput, Sample, Scene
from scmkit.losses import Derivative, adaptive, eulerian, noised, velocity_gain
from scmkit.models.model import Model
from scmkit.plugin import Context, Plugin, Slot
from scmkit.types import Key, Scalar
from scmkit_plugins.methods._data_tangent import build_data_tangent
from scmkit_plugins.methods._flowmap import classes_to_guide, maybe_unlabelled, two_times

CONDITIONS = ("guidance", "guidance_from", "guidance_to")
"""The strength of guidance, and the interval of rectified flow's times in which it acts."""


@dataclass(frozen=True)
class Options:
    """Options of improved MeanFlow."""

    equal: Annotated[float, Ge(0), Le(1)] = 0.5
    """Share of samples whose jump ends where it starts: plain flow matching."""
    power: Annotated[float, Ge(0)] = 1.0
    """Power of the squared residual in the adaptive weight; 0 leaves the square as it is."""
    constant: Annotated[float, Gt(0)] = 0.01
    """Added to the squared residual in the adaptive weight."""
    head: bool = True
    """Whether every sample also trains the velocity along which the network is differentiated."""
    guidance_max: Annotated[float, Ge(1)] = 1.0
    """Guidance strengths are drawn log-uniformly from 1 up to this (8 in the paper); at 1 there is none."""
    label_dropout: Annotated[float, Ge(0), Le(1)] = 0.1
    """Share of samples trained without their label, where there is guidance."""
    derivative: Derivative = "jvp"
    """How the network is differentiated along the path."""


class ImprovedMeanFlowLoss(AbstractLoss):
    r"""$|V - v_g|^2 + |v - v_g|^2$, each by its adaptive weight, in units of the network's output.

    $$V - v_g = F - F^- - \tfrac{1}{q} \tfrac{d}{dt} G(x_t, t, s), \qquad
      v_g = \dot x + (1 - \tfrac1\omega)\,(v_c - v_u)$$

    For flow matching ($q = \partial v / \partial F = 1$) $V = u + (t - s)\,\mathrm{sg}(du/dt)$. $du/dt$ is
    taken along the network's own velocity `v`, that of its jump from `t` to `t`; with it the target no
    longer depends on the sample's noise. `v` is the v-head: the network tells it from `u` by the second
    time that it is told (the paper gives it layers of its own). $\omega$ and the interval of rectified
    flow's times in which it acts are drawn for each sample and told to the network; outside, and without a
    label, $\omega = 1$ (arXiv 2512.02012, Section 4; Lyy-iiis/imeanflow, `imf.py`).
    """

    options: Options
    num_classes: int

    def __call__(self, model: Model, scene: Scene, sample: Sample, *, key: Key) -> LossOutput:
        k_times, k_equal, k_noise, k_guidance, k_dropout = jr.split(key, 5)
        o, process, stop = self.options, model.process, jax.lax.stop_gradient
        t, s = two_times(scene, process, key=k_times)
        s = jnp.where(jr.bernoulli(k_equal, o.equal), t, s)
        cond, here = self.drawn(process.ratio(t), s == t, sample.cond, key=k_guidance)
        point = noised(process, Sample(sample.x0, cond, sample.eps), t, key=k_noise)
        dx, v = scene.tangent(point), model.velocity(point.x_t, t, here, key=k_dropout)
        if o.guidance_max > 1:
            weak = model.velocity(point.x_t, t, key=k_dropout)
            dx = dx + (1 - 1 / here.scalars["guidance"]) * (v - weak)
        dx, q = stop(dx), velocity_gain(model.parameterization, t)
        told = {"along": stop(v), "derivative": o.derivative, "key": k_dropout}
        F, _, whole = eulerian(model, point, dx, s, weight=1 / q, **told)
        square = jnp.sum((F - stop(F) - whole) ** 2)
        value = adaptive(square, o.power, o.constant)
        head = jnp.sum(((v - dx) / q) ** 2)
        if o.head:
            value = value + adaptive(head, o.power, o.constant)
        return LossOutput(value, {"square": square, "head": head}, process.ratio(t))

    def drawn(
        self, ratio: Scalar, equal: Bool[Array, ""], cond: Conditioning, *, key: Key
    ) -> tuple[Conditioning, Conditioning]:
        """What a jump is told, and what the velocity at its start is."""
        o = self.options
        if o.guidance_max == 1:
            return cond, cond
        k_label, k_strength, k_low, k_high = jr.split(key, 4)
        label, lost = maybe_unlabelled(cond, self.num_classes, o.label_dropout, key=k_label)
        strength = jnp.where(lost, 1, o.guidance_max ** jr.uniform(k_strength))
        low = jnp.where(equal, 0, jr.uniform(k_low, maxval=0.5))
        high = jnp.where(equal, 1, jr.uniform(k_high, minval=0.5))
        tau = ratio / (1 + ratio)
        here = jnp.where((low <= tau) & (tau <= high), strength, 1)
        told = {"guidance": strength, "guidance_from": low, "guidance_to": high}
        return Conditioning(label, told), Conditioning(label, {"guidance": here})


def build_loss(config: Options, context: Context, *, key: Key) -> ImprovedMeanFlowLoss:
    return ImprovedMeanFlowLoss(config, classes_to_guide(config.guidance_max, context))


plugin = Plugin(
    name="improved-meanflow",
    summary="improved MeanFlow, told the strength and interval of guidance (arXiv 2512.02012)",
    provides={Slot.loss: build_loss, Slot.tangent: build_data_tangent},
    config=Options,
    differentiates=True,
    normalizes=lambda config: "--set improved-meanflow.power=0" if config.power else "",
    conditions=lambda config: CONDITIONS if config.guidance_max > 1 else (),
    drops_labels=lambda config: config.guidance_max > 1 and config.label_dropout > 0,
    uses=(Slot.coupling,),
    suggests={Slot.sampler: "flow-map"},
    settings={
        "log-normal.mean": -0.4,
        "log-normal.std": 1.0,
        "train.lr": 1e-4,
        "train.beta2": 0.95,
        "train.ema": "half-life:2000000",
    },
    makes="flow-map",
    noise_labels=2,
)
