"""Flow-anchored consistency models: a consistency function, and in the same batch the flow that holds it."""

from dataclasses import dataclass
from typing import Annotated

import jax
import jax.numpy as jnp
import jax.random as jr
from annotated_types import Ge, Gt
from jaxtyping import Array, Float

from scmkit.interfaces import AbstractLoss, LossOutput, Sample, Scene
from scmkit.losses import (
    Derivative,
    Normalization,
    adaptive,
    bound,
    eulerian,
    noised,
    velocity_gain,
)
from scmkit.models.model import Model
from scmkit.plugin import Context, Plugin, Slot
from scmkit.types import Key, Scalar
from scmkit_plugins.methods._data_tangent import build_data_tangent


@dataclass(frozen=True)
class Options:
    """Options of flow-anchored consistency models."""

    relaxation: Annotated[float, Gt(0)] = 0.5
    """Power of the data's share in the relaxation of the target."""
    normalize: Normalization = "clip"
    """How the tangent is bounded: divided by its L2 or RMS norm plus `constant`, clipped, or not."""
    constant: Annotated[float, Gt(0)] = 1.0
    """Added to the norm, or the bound when clipping."""
    power: Annotated[float, Ge(0)] = 0.5
    """Power of the mean squared residual in the adaptive weight; 0 leaves the square as it is."""
    offset: Annotated[float, Gt(0)] = 1e-3
    """Added to the mean squared residual in the adaptive weight."""
    cosine: Annotated[float, Ge(0)] = 1.0
    """Weight of one minus the cosine between the anchor's velocity and the path's, over channels."""
    derivative: Derivative = "jvp"
    """How the network is differentiated along the path."""


class FlowAnchoredLoss(AbstractLoss):
    r"""A consistency model's tangent, and flow matching that anchors it.

    $$\beta\,\frac{\Delta^2}{\mathrm{sg}(\Delta^2 + c)^{1/2}} + \frac{|v_\theta - \dot x|^2}{q^2} +
      1 - \cos(v_\theta, \dot x),$$
    $$\Delta = F - F^- - a\,\hat g, \qquad g = \tfrac{1}{q} \tfrac{d}{dt} f(x_t, t), \qquad
      a = 1 - (1 - \tau)^p, \quad \beta = \sin(\pi \tau / 2)$$

    with $\tau$ rectified flow's time and $\hat g$ clipped. The first term is a consistency model's, whose
    network is told that its jump ends at the data; the others, the anchor, are flow matching of the same
    network, told that it ends where it starts (arXiv 2507.03738, with the auxiliary time
    condition; ali-vilab/FACM, `losses.py`). The paper distills a guided teacher: `-p facm -p tangent=scd`.
    """

    options: Options

    def __call__(self, model: Model, scene: Scene, sample: Sample, *, key: Key) -> LossOutput:
        k_time, k_noise, k_dropout = jr.split(key, 3)
        o, process, stop = self.options, model.process, jax.lax.stop_gradient
        t = scene.proposal.sample(process, key=k_time)
        point = noised(process, sample, t, key=k_noise)
        dx, q = stop(scene.tangent(point)), velocity_gain(model.parameterization, t)
        v = model.velocity(point.x_t, t, point.cond, key=k_dropout)
        flow = jnp.mean(((v - dx) / q) ** 2)
        anchor = flow + o.cosine * (1 - cosine(v, dx))
        F, _, whole = eulerian(
            model, point, dx, weight=1 / q, derivative=o.derivative, key=k_dropout
        )
        tau = process.ratio(t) / (1 + process.ratio(t))
        relaxed = (1 - (1 - tau) ** o.relaxation) * bound(whole, o.normalize, o.constant)
        square = jnp.mean((F - stop(F) - relaxed) ** 2)
        value = anchor + jnp.sin(jnp.pi / 2 * tau) * adaptive(square, o.power, o.offset)
        return LossOutput(value, {"flow": flow, "square": square}, process.ratio(t))


def cosine(x: Float[Array, "*shape"], y: Float[Array, "*shape"]) -> Scalar:
    """The cosine between two samples over their channels, the mean over all places."""
    square = jnp.sum(x**2, axis=0) * jnp.sum(y**2, axis=0)
    return jnp.mean(jnp.sum(x * y, axis=0) * jax.lax.rsqrt(square + 1e-8))


def build_loss(config: Options, context: Context, *, key: Key) -> FlowAnchoredLoss:
    return FlowAnchoredLoss(config)


def plain(config: Options) -> str:
    """What leaves the residuals as they are: neither powers, nor bounds, nor a cosine."""
    plain = {"power": 0.0, "normalize": "none", "cosine": 0.0}
    changed = [f"--set facm.{k}={v}" for k, v in plain.items() if getattr(config, k) != v]
    return " ".join(changed)


plugin = Plugin(
    name="facm",
    summary="flow-anchored consistency models (arXiv 2507.03738)",
    provides={Slot.loss: build_loss, Slot.tangent: build_data_tangent},
    config=Options,
    differentiates=True,
    normalizes=plain,
    uses=(Slot.coupling,),
    suggests={Slot.sampler: "consistency"},
    settings={
        "log-normal.mean": -0.8,
        "log-normal.std": 1.6,
        "train.lr": 1e-4,
        "train.beta2": 0.999,
        "train.clip": 1.0,
        "train.ema": "power:0.2",
    },
    makes="consistency",
    starts_from="weights",
    noise_labels=2,
)
