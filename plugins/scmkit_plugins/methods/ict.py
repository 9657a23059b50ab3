"""iCT: improved consistency training, on grids that double and with no lagging target."""

import math
from dataclasses import dataclass
from typing import Annotated

import jax
import jax.numpy as jnp
import jax.random as jr
from annotated_types import Ge, Gt, Le
from jax.scipy.special import erf
from jaxtyping import Array, Float, Int

from scmkit.interfaces import (
    AbstractDistance,
    AbstractLoss,
    AbstractParameterization,
    LossOutput,
    Sample,
    Scene,
)
from scmkit.models.model import Model
from scmkit.plugin import Context, Plugin, Slot
from scmkit.types import Key
from scmkit_plugins.methods._bounds import FINEST
from scmkit_plugins.methods._data_tangent import build_data_tangent
from scmkit_plugins.methods._pair import on_grid, separation_on_grid


@dataclass(frozen=True)
class Options:
    """Options of improved consistency training."""

    s0: Annotated[int, Ge(1)] = 10
    """Intervals of the grid at first."""
    s1: Annotated[int, Ge(1), Le(FINEST)] = 1280
    """Intervals of the grid at the end."""
    mean: float = -1.1
    """Mean of the log noise-to-signal ratio by which intervals are drawn."""
    std: Annotated[float, Gt(0)] = 2.0
    """Standard deviation of the log noise-to-signal ratio by which intervals are drawn."""

    def __post_init__(self) -> None:
        if self.s1 < self.s0:
            raise ValueError(f"s1={self.s1} must not be below s0={self.s0}: the grid grows finer")


class ICTLoss(AbstractLoss):
    r"""$d(f(x_{t_{i+1}}, t_{i+1}), f^-(x_{t_i}, t_i)) / (\rho_{i+1} - \rho_i)$, $f^-$ of the newest weights.

    The grid is Karras's, of $N(k) = \min(s_0 2^{\lfloor k/K' \rfloor}, s_1) + 1$ points with
    $K' = \lfloor K / (\log_2 \lfloor s_1/s_0 \rfloor + 1) \rfloor$, and its intervals are drawn with

    $$p(i) \propto \mathrm{erf}\Big(\frac{\ln\rho_{i+1} - P_{mean}}{\sqrt2\, P_{std}}\Big)
        - \mathrm{erf}\Big(\frac{\ln\rho_i - P_{mean}}{\sqrt2\, P_{std}}\Big)$$

    instead of by the time proposal (arXiv 2310.14189, Sections 3.4 and 3.5, Table 1).
    """

    distance: AbstractDistance
    options: Options
    steps: int

    def points(self, step: Int[Array, ""]) -> Int[Array, ""]:
        """N at a step of training."""
        o = self.options
        each = max(math.floor(self.steps / (math.log2(o.s1 // o.s0) + 1)), 1)
        doublings = jnp.minimum(step // each, (o.s1 // o.s0).bit_length())
        return jnp.minimum(o.s0 * 2**doublings, o.s1) + 1

    def shares(
        self, parameterization: AbstractParameterization, points: Int[Array, ""]
    ) -> Float[Array, " s1"]:
        """How often each interval is drawn, in proportion; those that the grid does not have, never."""
        o = self.options
        n, i = (points - 1).astype(float), jnp.arange(o.s1 + 1.0)
        ratio = jax.vmap(lambda i: on_grid(parameterization, i, n))(i)
        cdf = erf((jnp.log(ratio) - o.mean) / (math.sqrt(2) * o.std))
        return jnp.where(i[:-1] < n, jnp.diff(cdf), 0)

    def __call__(self, model: Model, scene: Scene, sample: Sample, *, key: Key) -> LossOutput:
        k_grid, k_pair = jr.split(key)
        points = self.points(scene.step)
        shares = self.shares(model.parameterization, points)
        i, n = (a.astype(float) for a in (jr.categorical(k_grid, jnp.log(shares)), points - 1))
        distance, high, low = separation_on_grid(
            self.distance, model, model, scene, sample, i, n, key=k_pair
        )
        return LossOutput(distance / (high - low), {"distance": distance}, high)


def build_loss(config: Options, context: Context, *, key: Key) -> ICTLoss:
    return ICTLoss(context.distance, config, context.train.steps)


plugin = Plugin(
    name="ict",
    summary="improved consistency training (arXiv 2310.14189)",
    provides={Slot.loss: build_loss, Slot.tangent: build_data_tangent},
    config=Options,
    uses=(Slot.distance, Slot.coupling),
    suggests={Slot.distance: "pseudo-huber", Slot.sampler: "consistency"},
    settings={
        "train.lr": 1e-4,
        "train.optimizer": "radam",
        "train.beta2": 0.999,
        "train.ema": "half-life:10000000",
        "consistency.angles": (1.024,),
    },
    makes="consistency",
    starts_from="scratch",
)
