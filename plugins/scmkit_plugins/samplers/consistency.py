"""Consistency sampling in one or more steps."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from annotated_types import Ge
from jaxtyping import Array, Float, Int

from scmkit.interfaces import AbstractModel, AbstractSampler, Conditioning, SamplerOutput
from scmkit.plugin import Plugin, Slot
from scmkit.sampling import StepCounts, time_at_angle
from scmkit.types import Key, Scalar


class ConsistencySampler(AbstractSampler):
    r"""$x \leftarrow f(x, t_{max})$, then $x \leftarrow f(\alpha_i x + \sigma_i \varepsilon_i, t_i)$.

    Fresh noise at every step (arXiv 2303.01469, Algorithm 1). `angles` are the times $t_i$ of the
    steps after the first, in TrigFlow's radians whatever the process; for other numbers of steps they are
    equal steps down from 1.1, the paper's two-step time (arXiv 2410.11081, Section 5), and none below
    `least_ratio`.
    """

    angles: Float[Array, " k"] = eqx.field(converter=lambda a: jnp.asarray(a, jnp.float32))
    usual_steps: tuple[int, ...] = eqx.field(static=True, default=(1, 2))
    least_ratio: float = eqx.field(static=True, default=0.0)
    traces_steps: ClassVar[bool] = True

    def deterministic(self, steps: int) -> bool:
        return steps == 1

    def __call__(
        self,
        model: AbstractModel,
        noise: Float[Array, "*shape"],
        cond: Conditioning,
        *,
        steps: int | Int[Array, ""],
        key: Key,
    ) -> SamplerOutput:
        param, process = model.parameterization, model.process
        least = jnp.arctan(self.least_ratio / param.sigma_data)

        def again(i: Int[Array, ""], x: Array) -> tuple[Array, Scalar]:
            t = time_at_angle(param, self.angle(i, steps, least))
            eps = jr.normal(jr.fold_in(key, i), x.shape, x.dtype)
            return process.perturb(x, eps, t), t

        def step(i: Int[Array, ""], x: Array) -> Array:
            # One evaluation in the program, for the first step, too.
            x_t, t = jax.tree.map(
                lambda a, b: jnp.where(i == 0, a, b), (x, process.t_max), again(i, x)
            )
            return model.denoise(x_t, t, cond)

        x = jax.lax.fori_loop(0, steps, step, noise)
        return SamplerOutput(x, jnp.asarray(steps, jnp.int32))

    def angle(
        self, i: Int[Array, ""] | int, steps: int | Int[Array, ""], least: Scalar | float = 0.0
    ) -> Scalar:
        """The angle of step `i` of `steps`, for `i` from 1 to `steps - 1`; equal steps end at `least`."""
        count = self.angles.shape[0]
        left, most = (jnp.asarray(n, jnp.float32) for n in (steps - i, steps - 1))
        equal = jnp.maximum(1.1 * left / jnp.maximum(most, 1), least)
        if count == 0:
            return equal
        return jnp.where(steps - 1 == count, self.angles[jnp.clip(i - 1, 0, count - 1)], equal)


@dataclass(frozen=True)
class Options:
    """Options of consistency sampling."""

    angles: tuple[float, ...] = ()
    """Times of the steps after the first, in TrigFlow's radians, for that many steps plus one."""
    least_ratio: Annotated[float, Ge(0)] = 0.0
    """Noise-to-signal ratio below which no step begins for which `angles` names no time: that at which a
    model ends which has learned the noisy part of the path alone."""
    steps: StepCounts = (1, 2)
    """Numbers of steps to show where nobody asks for any; the first is the default."""

    def __post_init__(self) -> None:
        if not all(0 < a < jnp.pi / 2 for a in self.angles):
            raise ValueError(f"angles {self.angles} must lie between 0 and pi/2")


def build(config: Options) -> ConsistencySampler:
    return ConsistencySampler(
        angles=config.angles, usual_steps=config.steps, least_ratio=config.least_ratio
    )


plugin = Plugin(
    name="consistency",
    summary="one- and multistep consistency sampling (arXiv 2303.01469, Algorithm 1)",
    provides={Slot.sampler: build},
    config=Options,
    samples_from=("consistency", "flow-map"),
)
