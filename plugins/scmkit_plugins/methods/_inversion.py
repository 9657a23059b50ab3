"""Distillation by inversion: a model whose one DDIM step leads where several steps of another do."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from scmkit.interfaces import (
    AbstractEMA,
    AbstractNoiseProcess,
    AbstractParameterization,
    AbstractTangentEstimator,
    Point,
)
from scmkit.losses import inv_ddim
from scmkit.models.model import LEAST_RATIO, Model
from scmkit.sampling import ratio_on_grid, time_at_angle
from scmkit.types import Key, Scalar


class AtStages(AbstractEMA):
    """All of the newest weights at the end of each stage, and nothing in between."""

    ends: tuple[int, ...] = eqx.field(static=True)

    def gain(self, step: Int[Array, ""]) -> Scalar:
        return jnp.any(step == jnp.asarray(self.ends, jnp.int32)).astype(jnp.float32)


def stage_ends(steps: int, stages: int) -> tuple[int, ...]:
    """The steps at which all but the last of so many equal stages end."""
    return tuple(steps * i // stages for i in range(1, stages))


def time_on_grid(
    param: AbstractParameterization,
    i: Scalar | Int[Array, ""],
    n: Scalar | int | Int[Array, ""],
) -> Scalar:
    """Point `i` of a grid of `n` steps equal in TrigFlow's angle (the cosine schedule); 0 is the data."""
    most = jnp.arctan(param.process.ratio_max / param.sigma_data)
    return time_at_angle(param, most * jnp.asarray(i, float) / jnp.asarray(n, float))


def time_on_karras_grid(
    param: AbstractParameterization, i: Int[Array, ""], n: int | Int[Array, ""], finest: int
) -> Scalar:
    """The same of every `finest / n`-th point of Karras's grid, which has `finest` points beside the data."""
    u = 1 - jnp.asarray(i * (finest // n) - 1, float) / (finest - 1)
    ratio = ratio_on_grid(param, jnp.minimum(u, 1), grid="karras")
    return param.process.time_at(jnp.where(i == 0, 0, ratio))


def heun_in_ratio(
    process: AbstractNoiseProcess, tangent: AbstractTangentEstimator, point: Point, r: Scalar
) -> Point:
    r"""The point at time `r < t` by Heun's method in the noise-to-signal ratio, whatever the process.

    With $x'_r$ a DDIM step from $x_t$, and $x'_t$ one from there back, it is
    $x'_r + \frac{\alpha_r}{\alpha_t} (x_t - x'_t) / 2$ (arXiv 2206.00364, Algorithm 1). To the data it is
    DDIM.
    """
    there, least = tangent.advance(point, r), process.time_at(jnp.asarray(LEAST_RATIO, r.dtype))
    inside = Point(point.x0, point.eps, there.x_t, jnp.maximum(r, least), point.cond)
    back = tangent.advance(inside, point.t)
    half = process.alpha(r) / process.alpha(point.t) * (point.x_t - back.x_t) / 2
    return Point(point.x0, point.eps, there.x_t + jnp.where(r > least, half, 0), r, point.cond)


def addim(
    process: AbstractNoiseProcess,
    tangent: AbstractTangentEstimator,
    point: Point,
    r: Scalar,
    variance: Scalar | float,
) -> Point:
    r"""The point at time `r < t` by adjusted DDIM, whose noise makes up for the spread of $x_0$ given $x_t$.

    $$x_r = \alpha_r D + \sqrt{\sigma_r^2 + k^2\, v / \overline{\hat\varepsilon^2}}\; \hat\varepsilon, \qquad
      k = \alpha_r - \alpha_t \sigma_r / \sigma_t$$

    With the variance `v` = 0 it is DDIM (arXiv 2403.06807, Section 3).
    """
    alpha, sigma = process.alpha(point.t), process.sigma(point.t)
    alpha_r, sigma_r = process.alpha(r), process.sigma(r)
    denoised = process.denoised_from_velocity(tangent(point), point.x_t, point.t)
    eps = (point.x_t - alpha * denoised) / sigma
    k = alpha_r - alpha * sigma_r / sigma
    noise = jnp.sqrt(sigma_r**2 + k**2 * variance / jnp.maximum(jnp.mean(eps**2), 1e-12))
    return Point(point.x0, point.eps, alpha_r * denoised + noise * eps, r, point.cond)


def jumped(
    model: Model, there: Point, end: Scalar, arrived: Bool[Array, ""], *, key: Key | None = None
) -> Float[Array, "*shape"]:
    """Where the model's DDIM step leads from a point to the time `end`; the point, where it `arrived`."""
    least = model.process.time_at(jnp.asarray(LEAST_RATIO, there.t.dtype))
    x = model.jump(there.x_t, jnp.maximum(there.t, least), end, there.cond, key=key)
    return jnp.where(arrived, there.x_t, x)


def inverted(
    model: Model, point: Point, x_s: Float[Array, "*shape"], s: Scalar, *, key: Key | None = None
) -> tuple[Float[Array, "*shape"], Float[Array, "*shape"]]:
    """`f(x_t, t)`, and without gradient what it should be for its DDIM step to lead to `x_s`."""
    target = jax.lax.stop_gradient(inv_ddim(model.process, point.x_t, x_s, point.t, s))
    return model.denoise(point.x_t, point.t, point.cond, key=key), target


def signal_to_noise(param: AbstractParameterization, t: Scalar) -> Scalar:
    r"""$(\sigma_d\, \alpha / \sigma)^2$: what the papers' $\alpha^2/\sigma^2$ is for data of deviation 1."""
    return (param.sigma_data / param.process.ratio(t)) ** 2
