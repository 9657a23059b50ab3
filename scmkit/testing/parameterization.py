"""Checks of parameterizations."""

import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float

from scmkit.interfaces import AbstractParameterization, Coefficients, Point
from scmkit.losses import eulerian
from scmkit.plugin import Slot
from scmkit.testing.check import require, require_close, require_finite
from scmkit.testing.family import PROCESSES, Family
from scmkit.testing.numeric import require_derivative_in_time, times
from scmkit.testing.oracles import Gaussian, exact_model
from scmkit.testing.workbench import Bench


def coefficients_are_float32_and_finite(param: AbstractParameterization) -> None:
    c = param.coefficients(param.process.t_max)
    for name in ("skip", "out", "in_"):
        value = getattr(c, name)
        require(
            value.shape == () and value.dtype == jnp.float32,
            f"coefficients(t).{name} must be a float32 scalar, not {value.dtype} of shape {value.shape}",
        )
    require(
        c.noise.ndim == 1 and c.noise.dtype == jnp.float32,
        f"coefficients(t).noise must be a float32 vector, not {c.noise.dtype} of shape {c.noise.shape}",
    )
    every, slopes = _coefficients(param, times(param.process))
    for name in ("skip", "out", "in_", "noise"):
        require_finite(getattr(every, name), f"coefficients(t).{name} over (0, t_max]")
        require_finite(getattr(slopes, name), f"the time derivative of coefficients(t).{name}")
    smallest = float(jnp.abs(every.out).min())
    require(smallest > 0, "coefficients(t).out must not vanish for t > 0: losses divide by it")


def coefficient_derivatives_are_right(param: AbstractParameterization) -> None:
    for name in ("skip", "out", "in_", "noise"):
        require_derivative_in_time(
            lambda t, name=name: getattr(param.coefficients(t), name),
            times(param.process)[8:-3],
            f"coefficients(t).{name}",
        )


def denoising_almost_clean_data_is_the_identity(param: AbstractParameterization) -> None:
    x, F = _samples(1)
    x, F, t = param.sigma_data * x[0], F[0], times(param.process)[0]
    gap = float(jnp.abs(param.denoise(F, x, t) - x).max())
    require(
        gap < 0.02 * param.sigma_data,
        f"f(x, t) must go to x as t -> 0 whatever the network, but is {gap:g} away at t = {t:g}",
    )


def weight_is_positive(param: AbstractParameterization) -> None:
    weight = jax.vmap(param.weight)(times(param.process))
    require(weight.shape == (25,), f"weight(t) must be a scalar, not of shape {weight.shape[1:]}")
    require_finite(weight, "weight(t) over (0, t_max]")
    require(weight.min() > 0, f"weight(t) must be positive, but falls to {weight.min():g}")


def velocity_agrees_with_denoise(param: AbstractParameterization) -> None:
    t = times(param.process)[8:]
    x, F = _samples(t.shape[0])
    x = jax.vmap(lambda x, t: param.process.perturb(param.sigma_data * x, x[::-1], t))(x, t)
    denoised = jax.vmap(param.denoise)(F, x, t)
    expected = jax.vmap(param.process.velocity_from_denoised)(denoised, x, t)
    given = jax.vmap(param.velocity)(F, x, t)
    scale = jnp.abs(expected).max(axis=1, keepdims=True)
    require_close(
        given / scale,
        expected / scale,
        "velocity(F, x, t), against process.velocity_from_denoised(denoise(F, x, t), x, t),",
        tolerance=5e-3,
    )


def velocity_is_finite_at_both_ends(param: AbstractParameterization) -> None:
    t = times(param.process)
    x, F = _samples(t.shape[0])
    require_finite(jax.vmap(param.velocity)(F, x, t), "velocity over (0, t_max]")


def an_exact_network_gives_the_exact_denoiser(param: AbstractParameterization) -> None:
    data = Gaussian.isotropic(0.3)
    model = exact_model(param, data)
    t = times(param.process)[4::4]
    x, _ = _samples(t.shape[0])
    expected = jax.vmap(lambda x, t: data.denoise(param.process, x, t))(x, t)
    found = jax.jit(jax.vmap(model.denoise))(x, t)
    require_close(
        found,
        expected,
        "f(x, t) with the exact network, told the noise label alone,",
        tolerance=5e-3,
    )


def a_student_that_equals_its_teacher_stands_still(param: AbstractParameterization) -> None:
    data = Gaussian.isotropic(0.3)
    model, t = exact_model(param, data), times(param.process)[4::4]
    x, _ = _samples(t.shape[0])

    @jax.jit
    @jax.vmap
    def stable(x: Array, t: Array) -> tuple[Array, Array]:
        dx = data.velocity(param.process, x, t)
        point = Point(x, x, x, t)  # Neither data nor noise is looked at.
        terms = [
            eulerian(model, point, v, weight=param.weight(t)).stable
            for v in (dx, jnp.zeros_like(dx))
        ]
        return terms[0], terms[1]

    left, scale = stable(x, t)
    require_close(
        left + scale,
        scale,
        "the part of df/dt that is there before the tangent's warmup, of a student equal to its teacher,",
        tolerance=5e-3,
    )


def _samples(n: int) -> tuple[Float[Array, "n 3"], Float[Array, "n 3"]]:
    x, F = jr.normal(jr.key(0), (2, n, 3))
    return x, F


def _coefficients(
    param: AbstractParameterization, t: Float[Array, " n"]
) -> tuple[Coefficients, Coefficients]:
    """The coefficients and their derivatives at each time."""
    return jax.vmap(lambda t: jax.jvp(param.coefficients, (t,), (jnp.ones_like(t),)))(t)


def arrange(bench: Bench) -> AbstractParameterization:
    param: AbstractParameterization = bench.build(Slot.parameterization)
    process = bench.build(Slot.noise)
    require(
        param.process is process,
        f"the parameterization must keep the recipe's noise process, not a {param.process}",
    )
    require(
        param.sigma_data == bench.data.sigma_data,
        f"sigma_data must be the data's ({bench.data.sigma_data}), not {param.sigma_data}",
    )
    return param


FAMILY = Family(
    arrange,
    (
        coefficients_are_float32_and_finite,
        coefficient_derivatives_are_right,
        denoising_almost_clean_data_is_the_identity,
        weight_is_positive,
        velocity_agrees_with_denoise,
        velocity_is_finite_at_both_ends,
        an_exact_network_gives_the_exact_denoiser,
        a_student_that_equals_its_teacher_stands_still,
    ),
    PROCESSES,
)
