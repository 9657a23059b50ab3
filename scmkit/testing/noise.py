"""Checks of noise processes."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float

from scmkit.interfaces import AbstractNoiseProcess
from scmkit.plugin import Slot
from scmkit.testing.check import require, require_close, require_finite
from scmkit.testing.family import Family
from scmkit.testing.numeric import ratios, require_derivative_in_time, times
from scmkit.types import Scalar


def alpha_and_sigma_are_positive_float32_scalars(process: AbstractNoiseProcess) -> None:
    t = process.t_max
    named = {"time_at": t, "alpha": process.alpha(t), "sigma": process.sigma(t)}
    for name, value in named.items():
        require(
            value.shape == () and value.dtype == jnp.float32,
            f"{name} must return a float32 scalar, not {value.dtype} of shape {value.shape}",
        )
    alpha, sigma = _along(process, times(process))
    require_finite(alpha, "alpha over (0, t_max]")
    require_finite(sigma, "sigma over (0, t_max]")
    require(alpha.min() > 0, f"alpha must stay positive up to t_max, but falls to {alpha.min():g}")
    require(sigma.min() > 0, f"sigma must be positive for t > 0, but falls to {sigma.min():g}")


def data_is_unscaled_at_the_start(process: AbstractNoiseProcess) -> None:
    alpha = float(process.alpha(times(process)[0]))
    require(abs(alpha - 1) < 1e-2, f"alpha must go to 1 as t -> 0, but is {alpha:g} there")


def time_and_ratio_increase(process: AbstractNoiseProcess) -> None:
    t = np.asarray(times(process))
    require((np.diff(t) > 0).all(), f"time_at must increase with the ratio, but gives {t}")
    ratio = np.asarray(jax.vmap(process.ratio)(jnp.linspace(t[0], t[-1], 101)))
    require(
        (np.diff(ratio) > 0).all(), "sigma / alpha must increase with time, but falls somewhere"
    )


def time_at_inverts_the_ratio(process: AbstractNoiseProcess) -> None:
    wanted = ratios(process)
    found = jax.vmap(process.ratio)(jax.vmap(process.time_at)(wanted))
    worst = int(jnp.argmax(jnp.abs(found / wanted - 1)))
    require(
        abs(found[worst] / wanted[worst] - 1) < 1e-3,
        f"sigma / alpha at time_at({wanted[worst]:g}) is {found[worst]:g}: time_at must invert it",
    )


def derivatives_are_finite_and_right(process: AbstractNoiseProcess) -> None:
    every = times(process)
    for name, function in {"alpha": process.alpha, "sigma": process.sigma}.items():
        require_finite(_value_and_slope(function, every)[1], f"the time derivative of {name}")
        require_derivative_in_time(function, every[8:-3], name)


def time_at_is_differentiable(process: AbstractNoiseProcess) -> None:
    _, slope = _value_and_slope(process.time_at, ratios(process))
    require_finite(slope, "the derivative of time_at")
    _, inverse = _value_and_slope(process.ratio, times(process))
    require_close(slope * inverse, np.ones(25), "time_at' times (sigma / alpha)'", tolerance=1e-2)


def velocity_is_the_derivative_of_perturb(process: AbstractNoiseProcess) -> None:
    x0, eps = jr.normal(jr.key(0), (2, 25, 3))
    t = times(process)
    given = jax.vmap(process.velocity)(x0, eps, t)

    def expected(x0: Array, eps: Array, t: Scalar) -> Array:
        return jax.jvp(lambda t: process.perturb(x0, eps, t), (t,), (jnp.ones_like(t),))[1]

    require_close(given, jax.vmap(expected)(x0, eps, t), "velocity")


def sampling_starts_at_the_largest_ratio(process: AbstractNoiseProcess) -> None:
    ratio = float(process.ratio(process.t_max))
    require(
        abs(ratio / process.ratio_max - 1) < 1e-3,
        f"sigma / alpha at t_max is {ratio:g}, but ratio_max is {process.ratio_max:g}",
    )


def prior_has_the_noise_of_the_last_time(process: AbstractNoiseProcess) -> None:
    drawn = process.prior((64, 64), key=jr.key(0))
    again = process.prior((64, 64), key=jr.key(0))
    require(drawn.shape == (64, 64), f"prior((64, 64)) has shape {drawn.shape}")
    require((drawn == again).all(), "prior must depend on its key alone")
    std, sigma = float(drawn.std()), float(process.sigma(process.t_max))
    require(
        abs(std / sigma - 1) < 0.05,
        f"prior has standard deviation {std:g}, sigma(t_max) is {sigma:g}",
    )
    require(abs(float(drawn.mean())) < 0.1 * sigma, "prior must have mean 0")


def compiles(process: AbstractNoiseProcess) -> None:
    t = times(process)
    alpha, sigma = jax.jit(lambda t: _along(process, t))(t)
    one_alpha, one_sigma = _along(process, t)
    require_close(alpha, one_alpha, "alpha under jit")
    require_close(sigma, one_sigma, "sigma under jit")


def _along(
    process: AbstractNoiseProcess, t: Float[Array, " n"]
) -> tuple[Float[Array, " n"], Float[Array, " n"]]:
    return jax.vmap(process.alpha)(t), jax.vmap(process.sigma)(t)


def _value_and_slope(
    function: Callable[[Scalar], Scalar], t: Float[Array, " n"]
) -> tuple[Float[Array, " n"], Float[Array, " n"]]:
    return jax.vmap(lambda t: jax.jvp(function, (t,), (jnp.ones_like(t),)))(t)


FAMILY = Family(
    lambda bench: bench.build(Slot.noise),
    (
        alpha_and_sigma_are_positive_float32_scalars,
        data_is_unscaled_at_the_start,
        time_and_ratio_increase,
        time_at_inverts_the_ratio,
        derivatives_are_finite_and_right,
        time_at_is_differentiable,
        velocity_is_the_derivative_of_perturb,
        sampling_starts_at_the_largest_ratio,
        prior_has_the_noise_of_the_last_time,
        compiles,
    ),
)
