"""Flow-map sampling: jumps from noise to data, in one or more steps, without fresh noise."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import jax
import jax.numpy as jnp
import jax.random as jr
from annotated_types import Ge, Le
from jaxtyping import Array, Float, Int

from scmkit.interfaces import AbstractModel, AbstractSampler, Conditioning, SamplerOutput
from scmkit.plugin import Plugin, Slot
from scmkit.sampling import StepCounts, time_at_angle
from scmkit.types import Key


@dataclass(frozen=True)
class Options:
    """Options of flow-map sampling."""

    gamma: Annotated[float, Ge(0), Le(1)] = 0.0
    """Share of fresh noise between jumps: 0 is deterministic, 1 multistep consistency sampling."""
    steps: StepCounts = (1, 2, 4)
    """Numbers of jumps to show where nobody asks for any; the first is the default."""


class FlowMapSampler(AbstractSampler):
    r"""$x \leftarrow G(x, t_i, t_{i+1})$ over steps that are equal in TrigFlow's angle, to the data.

    With `gamma` each jump goes further, to the time whose noise is $\sqrt{1 - \gamma^2}$ of that of
    $t_{i+1}$, and fresh noise makes up for the rest (CTM's gamma sampling, arXiv 2310.02279, Algorithm 2).
    """

    options: Options
    traces_steps: ClassVar[bool] = True

    @property
    def usual_steps(self) -> tuple[int, ...]:
        return self.options.steps

    def deterministic(self, steps: int) -> bool:
        return steps == 1 or self.options.gamma == 0

    def __call__(
        self,
        model: AbstractModel,
        noise: Float[Array, "*shape"],
        cond: Conditioning,
        *,
        steps: int | Int[Array, ""],
        key: Key,
    ) -> SamplerOutput:
        param, process, gamma = model.parameterization, model.process, self.options.gamma
        most = jnp.arctan(process.ratio_max / param.sigma_data)
        count = jnp.asarray(steps, jnp.float32)

        def step(i: Int[Array, ""], x: Array) -> Array:
            here, there = (time_at_angle(param, most * (1 - j / count)) for j in (i, i + 1))
            there = jnp.where(i + 1 == steps, 0, there)
            here = jnp.where(i == 0, process.t_max, here)
            if gamma == 0:
                return model.jump(x, here, there, cond)
            ratio = process.ratio(there)
            low = process.time_at(ratio * (1 - gamma**2) ** 0.5)
            x = model.jump(x, here, low, cond) / process.alpha(low)
            fresh = gamma * ratio * jr.normal(jr.fold_in(key, i), x.shape, x.dtype)
            return process.alpha(there) * (x + fresh)

        x = jax.lax.fori_loop(0, steps, step, noise)
        return SamplerOutput(x, jnp.asarray(steps, jnp.int32))


plugin = Plugin(
    name="flow-map",
    summary="jumps of a flow map (arXiv 2310.02279, 2505.13447)",
    provides={Slot.sampler: FlowMapSampler},
    config=Options,
    samples_from=("diffusion", "consistency", "flow-map"),
)
