"""CT: discrete consistency training, on a grid that grows finer as its target network lags less."""

import math
from dataclasses import dataclass
from typing import Annotated

import jax.numpy as jnp
import jax.random as jr
from annotated_types import Ge, Le, Lt
from jaxtyping import Array, Int

from scmkit.interfaces import (
    AbstractDistance,
    AbstractEMA,
    AbstractLoss,
    LossOutput,
    Sample,
    Scene,
)
from scmkit.models.model import Model
from scmkit.plugin import Context, Follower, Plugin, Slot
from scmkit.types import Key, Scalar
from scmkit_plugins.methods._bounds import FINEST
from scmkit_plugins.methods._data_tangent import build_data_tangent
from scmkit_plugins.methods._pair import any_interval, separation_on_grid


@dataclass(frozen=True)
class Options:
    """Options of discrete consistency training."""

    s0: Annotated[int, Ge(2)] = 2
    """Points of the grid at first."""
    s1: Annotated[int, Ge(2), Le(FINEST)] = 150
    """Intervals of the grid at the end."""
    mu0: Annotated[float, Ge(0), Lt(1)] = 0.9
    """Decay of the target network at first; with 0 it is the newest weights."""

    def __post_init__(self) -> None:
        if self.s1 < self.s0:
            raise ValueError(f"s1={self.s1} must not be below s0={self.s0}: the grid grows finer")


def points(options: Options, progress: Scalar) -> Scalar:
    r"""$N(k) = \lceil \sqrt{\tfrac{k}{K} ((s_1 + 1)^2 - s_0^2) + s_0^2} - 1 \rceil + 1$."""
    s0, s1 = options.s0, options.s1
    return jnp.ceil(jnp.sqrt(progress * ((s1 + 1) ** 2 - s0**2) + s0**2) - 1) + 1


class TargetEMA(AbstractEMA):
    r"""The decay $\mu(k) = \exp(s_0 \ln \mu_0 / N(k))$ of the update that ends step $k$ of $K$, from 0."""

    options: Options
    steps: int

    def gain(self, step: Int[Array, ""]) -> Scalar:
        if self.options.mu0 == 0:
            return jnp.ones((), jnp.float32)
        n = points(self.options, (step - 1).astype(jnp.float32) / self.steps)
        return -jnp.expm1(self.options.s0 * math.log(self.options.mu0) / n)


class CTLoss(AbstractLoss):
    r"""$d(f(x_0 + t_{n+1} z, t_{n+1}), f^-(x_0 + t_n z, t_n))$, the two on one line.

    $n$ is uniform on Karras's grid of $N(k)$ points, and $f^-$ a target network of decay $\mu(k)$
    (arXiv 2303.01469, Algorithm 3 and Appendix C).
    """

    distance: AbstractDistance
    options: Options

    def __call__(self, model: Model, scene: Scene, sample: Sample, *, key: Key) -> LossOutput:
        k_grid, k_pair = jr.split(key)
        n = points(self.options, scene.progress) - 1
        i = any_interval(n, key=k_grid)
        target = scene.followers.get("target", model)
        distance, ratio, _ = separation_on_grid(
            self.distance, model, target, scene, sample, i, n, key=k_pair
        )
        return LossOutput(distance, {"distance": distance}, ratio)


def build_loss(config: Options, context: Context, *, key: Key) -> CTLoss:
    return CTLoss(context.distance, config)


plugin = Plugin(
    name="ct",
    summary="discrete consistency training with a target network (arXiv 2303.01469)",
    provides={Slot.loss: build_loss, Slot.tangent: build_data_tangent},
    config=Options,
    uses=(Slot.distance, Slot.coupling),
    suggests={Slot.sampler: "consistency"},
    settings={
        "train.lr": 4e-4,
        "train.optimizer": "radam",
        "train.beta2": 0.999,
        "train.ema": "half-life:3500000",
    },
    makes="consistency",
    starts_from="scratch",
    followers=lambda config, train: (
        {"target": Follower(TargetEMA(config, train.steps))} if config.mu0 else {}
    ),
)
