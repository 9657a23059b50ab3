"""Latents: samples as the noise that the PF-ODE makes of them."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from scmkit.errors import InputError
from scmkit.interfaces import UNCONDITIONED, AbstractModel, Conditioning
from scmkit.models.change_of_process import angular_velocity
from scmkit.sampling import at_end, end_angles, integrate
from scmkit.types import Scalar


def encode(
    model: AbstractModel,
    x0: Float[Array, "*shape"],
    cond: Conditioning = UNCONDITIONED,
    *,
    ratio_min: float = 2e-3,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    solver: str = "Tsit5",
) -> Float[Array, "*shape"]:
    r"""The latent $x_T / \sigma_T$ that a diffusion model's PF-ODE takes `x0` to: unit noise.

    In units of the noise it means the same for every process, so that a model of another process, or a
    consistency model, may decode it. One sample, in the model's units (arXiv 2011.13456, Section 4.3).

    **Arguments:**

    - `ratio_min`: the noise-to-signal ratio as which `x0` is taken.
    - `rtol`, `atol`, `solver`: of the adaptive integration, see `scmkit.sampling.integrate`.
    """
    first, last = end_angles(model, ratio_min)
    solution = integrate(
        lambda angle, x: angular_velocity(model, x, angle, cond),
        jnp.cos(first) * x0,
        first,
        last,
        solver=solver,
        rtol=rtol,
        atol=atol,
    )
    return at_end(solution) / (model.parameterization.sigma_data * jnp.sin(last))


def decode(
    model: AbstractModel,
    latent: Float[Array, "*shape"],
    cond: Conditioning = UNCONDITIONED,
    *,
    ratio_min: float = 2e-3,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    solver: str = "Tsit5",
) -> Float[Array, "*shape"]:
    """The sample that a diffusion model's PF-ODE takes a latent to: the inverse of `encode`."""
    first, last = end_angles(model, ratio_min)
    solution = integrate(
        lambda angle, x: angular_velocity(model, x, angle, cond),
        model.parameterization.sigma_data * jnp.sin(last) * latent,
        last,
        first,
        solver=solver,
        rtol=rtol,
        atol=atol,
    )
    return at_end(solution) / jnp.cos(first)


def decode_at_once(
    model: AbstractModel, latent: Float[Array, "*shape"], cond: Conditioning = UNCONDITIONED
) -> Float[Array, "*shape"]:
    """The sample that a consistency model takes a latent to, in one step."""
    t = model.process.t_max
    return model.denoise(model.process.sigma(t) * latent, t, cond)


def interpolate(
    a: Float[Array, "*shape"], b: Float[Array, "*shape"], weight: Scalar | float
) -> Float[Array, "*shape"]:
    r"""The point at `weight` of the way from `a` to `b` along the great circle through them.

    $$\frac{\sin((1 - w)\,\Omega)}{\sin \Omega}\, a + \frac{\sin(w\,\Omega)}{\sin \Omega}\, b$$

    with $\Omega$ the angle between them. Latents of $D$ values lie near a sphere of radius $\sqrt D$; a
    straight line would leave it. `a` and `b` must not be opposite to each other. Raises `InputError` where
    their shapes differ.
    """
    if jnp.shape(a) != jnp.shape(b):
        raise InputError(f"a has shape {jnp.shape(a)}, b {jnp.shape(b)}: give two of one shape")
    left, right = a / jnp.linalg.norm(a.reshape(-1)), b / jnp.linalg.norm(b.reshape(-1))
    # Exact for small angles, too, where the arc cosine is not.
    apart, along = (jnp.linalg.norm(v.reshape(-1)) for v in (left - right, left + right))
    turn = 2 / jnp.pi * jnp.arctan2(apart, along)
    # sinc, since the quotients have a limit at an angle of 0.
    shares = [w * jnp.sinc(w * turn) / jnp.sinc(turn) for w in (1 - weight, weight)]
    return shares[0] * a + shares[1] * b
