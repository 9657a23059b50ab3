"""Consistency sampling in one or more steps."""

from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float

from scmkit.interfaces import AbstractSampler, Conditioning, SamplerOutput
from scmkit.model import AbstractModel
from scmkit.plugin import Plugin, Slot
from scmkit.sampling import time_at_angle
from scmkit.types import Key


class ConsistencySampler(AbstractSampler):
    r"""$x \leftarrow f(x, t_{max})$, then $x \leftarrow f(\alpha_i x + \sigma_i \varepsilon_i, t_i)$.

    Fresh noise at every step (arXiv 2303.01469, Algorithm 1). `angles` are the times $t_i$ of the
    steps after the first, in TrigFlow's radians whatever the process.
    """

    angles: tuple[float, ...]
    usual_steps: ClassVar[tuple[int, ...]] = (1, 2)

    def deterministic(self, steps: int) -> bool:
        return steps == 1

    def __call__(
        self,
        model: AbstractModel,
        noise: Float[Array, "*shape"],
        cond: Conditioning | None,
        *,
        steps: int,
        key: Key,
    ) -> SamplerOutput:
        process = model.process
        x = model.denoise(noise, process.t_max, cond)
        for angle, k in zip(self.schedule(steps), jr.split(key, steps), strict=False):
            t = time_at_angle(model.parameterization, jnp.asarray(angle, jnp.float32))
            x_t = process.perturb(x, jr.normal(k, x.shape, x.dtype), t)
            x = model.denoise(x_t, t, cond)
        return SamplerOutput(x, jnp.asarray(steps, jnp.int32))

    def schedule(self, steps: int) -> tuple[float, ...]:
        """The angles of the steps after the first.

        Given ones where their number fits, else equal steps down from 1.1, the paper's two-step time.
        """
        if len(self.angles) == steps - 1:
            return self.angles
        return tuple(1.1 * (1 - i / (steps - 1)) for i in range(steps - 1))


@dataclass(frozen=True)
class Options:
    """Options of consistency sampling."""

    angles: tuple[float, ...] = ()
    """Times of the steps after the first, in TrigFlow's radians, for that many steps plus one."""

    def __post_init__(self) -> None:
        if not all(0 < a < jnp.pi / 2 for a in self.angles):
            raise ValueError(f"angles {self.angles} must lie between 0 and pi/2")


def build(config: Options) -> ConsistencySampler:
    return ConsistencySampler(config.angles)


plugin = Plugin(
    name="consistency",
    summary="one- and multistep consistency sampling (arXiv 2303.01469, Algorithm 1)",
    provides={Slot.sampler: build},
    config=Options,
)
