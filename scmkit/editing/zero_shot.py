"""Zero-shot editing with a consistency model."""

import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float

from scmkit.editing.projections import Projection
from scmkit.interfaces import UNCONDITIONED, AbstractModel, AbstractParameterization, Conditioning
from scmkit.sampling import angle_of, time_at_angle
from scmkit.types import Key, Keys, Scalar

RATIO_MIN = 2e-3


def edit_times(
    parameterization: AbstractParameterization, steps: int, angle: float | None = None
) -> Float[Array, " steps"]:
    """`steps` times downwards, equally spaced in angle, from the last noise level or from `angle`."""
    process = parameterization.process
    ends = jnp.stack([process.t_max, process.time_at(jnp.asarray(RATIO_MIN, jnp.float32))])
    first, last = angle_of(parameterization, ends)
    start = first if angle is None else jnp.minimum(first, angle)
    return time_at_angle(parameterization, jnp.linspace(start, last, steps + 1)[:-1])


def edit(
    model: AbstractModel,
    start: Float[Array, "*shape"],
    known: Projection,
    cond: Conditioning = UNCONDITIONED,
    *,
    times: Float[Array, " steps"],
    key: Key,
) -> Float[Array, "*shape"]:
    r"""A sample of a consistency model whose known part is that of `start`.

    $$x \leftarrow f(\alpha_i x + \sigma_i \varepsilon_i,\, t_i), \qquad
      x \leftarrow P x_{start} + (x - P x)$$

    for each time in turn, from $x = x_{start}$ (arXiv 2303.01469, Algorithm 4; `projections` says how $P$
    stands for its $A$ and mask). With times from the last noise level on, what `start` is besides
    its known part does not matter: inpainting, colorization, super-resolution. With nothing
    known and a lower first time it is stroke-guided generation (SDEdit, arXiv 2108.01073). One sample, in
    the model's units; values that `known` keeps as they are come back bit for bit.

    **Arguments:**

    - `known`: the projection on what is known, see `Pixels`, `Luminance`, `BlockMeans`, `nothing`.
    - `times`: the process's, in descending order, see `edit_times`.
    """
    given = known(start)

    def step(
        x: Float[Array, "*shape"], at: tuple[Scalar, Key]
    ) -> tuple[Float[Array, "*shape"], None]:
        t, key = at
        x_t = model.process.perturb(x, jr.normal(key, x.shape, x.dtype), t)
        x = model.denoise(x_t, t, cond)
        return given + (x - known(x)), None

    keys: Keys = jr.split(key, times.shape[0])
    x, _ = jax.lax.scan(step, start, (times, keys))
    return x
