"""DFNO: a neural operator from the noise to the whole trajectory that a sampler has gone."""

from dataclasses import dataclass
from typing import Annotated

import jax
import jax.numpy as jnp
from annotated_types import Ge
from jaxtyping import Array, Float

from scmkit.interfaces import (
    AbstractDistance,
    AbstractLoss,
    AbstractOperator,
    LossOutput,
    Sample,
    Scene,
)
from scmkit.losses import noised
from scmkit.models.model import Model
from scmkit.plugin import Context, Plugin, Slot
from scmkit.types import Key
from scmkit_plugins.methods._data_tangent import build_data_tangent


@dataclass(frozen=True)
class Options:
    """Options of DFNO."""

    weight_max: Annotated[float, Ge(1)] = 1e4
    """Largest weight of a time, that of the sample itself; the least is 1."""


class DFNOLoss(AbstractLoss):
    r"""$\frac{1}{T} \sum_i w_i\, d(G_i(x_T),\, x_{t_i})$ over the times of a stored trajectory.

    $w_i = \sqrt{SNR(t_i)} = \alpha / \sigma$, between 1 and its largest value, and $G_i = a_i x_T + b_i F_i$
    is the jump from the noise to $t_i$ by the operator's output there (arXiv 2211.13449, Section 3.3;
    devzhk/DSNO-pytorch, `train_cifar.py`). Of pairs without states between, the sample is the one time.
    """

    options: Options
    distance: AbstractDistance
    ratios: tuple[float, ...]

    def __call__(self, model: Model, scene: Scene, sample: Sample, *, key: Key) -> LossOutput:
        process, param, T = model.process, model.parameterization, model.process.t_max
        if self.ratios and sample.states is None:
            raise ValueError("the coupling hands no trajectories on; use the coupling 'stored'")
        noise = process.sigma(T) * noised(process, sample, T, key=key).eps
        ratios = jnp.asarray((*self.ratios, 0.0))
        times = jax.vmap(process.time_at)(ratios[:-1])
        alpha = jax.vmap(process.alpha)(times).reshape(-1, *[1] * noise.ndim)
        states = jnp.zeros((0, *noise.shape)) if sample.states is None else alpha * sample.states
        due = jnp.concatenate([states, sample.x0[None]])
        a, b = jax.vmap(lambda s: param.jump(T, s))(jnp.append(times, 0))
        jumps = jax.vmap(lambda a, F, b: a * noise + b * F)(
            a, _outputs(model, noise, sample, key), b
        )
        distances = jax.vmap(self.distance)(jumps, due)
        weights = jnp.clip(1 / ratios, 1, self.options.weight_max)
        value = jnp.mean(weights * distances)
        return LossOutput(value, {"distance": distances[-1]}, process.ratio(T))


def _outputs(
    model: Model, noise: Float[Array, "*shape"], sample: Sample, key: Key
) -> Float[Array, "times *shape"]:
    """The network's outputs at all times of its trajectory; of a network that is no operator, at the last."""
    T, network = model.process.t_max, model.network
    if not isinstance(network, AbstractOperator):
        return model.raw(noise, T, sample.cond, key=key)[None]
    c = model.parameterization.coefficients(T)
    low = (c.in_ * noise).astype(model.precision)
    return network.trajectory(low, c.noise, sample.cond, key=key).astype(noise.dtype)


def build_loss(config: Options, context: Context, *, key: Key) -> DFNOLoss:
    if context.data.times and not isinstance(context.built[Slot.network], AbstractOperator):
        raise TypeError(
            "a trajectory needs an operator as its network: --plugin operator-mlp, or for images "
            "--plugin operator-unet"
        )
    return DFNOLoss(config, context.distance, context.data.times)


plugin = Plugin(
    name="dfno",
    summary="a neural operator from noise to stored trajectories (DFNO, arXiv 2211.13449)",
    provides={Slot.loss: build_loss, Slot.tangent: build_data_tangent},
    config=Options,
    uses=(Slot.distance, Slot.coupling),
    suggests={
        Slot.network: "operator-mlp",
        Slot.distance: "l1",
        Slot.coupling: "stored",
        Slot.sampler: "consistency",
    },
    settings={"consistency.steps": (1,), "train.lr": 2e-4},
    makes="generator",
)
