"""The log density of one sample, by the instantaneous change of variables along the PF-ODE."""

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, Int

from scmkit.errors import OptionError
from scmkit.evaluation.likelihood.divergence import along_directions
from scmkit.interfaces import UNCONDITIONED, AbstractModel, Conditioning
from scmkit.models.change_of_process import angular_velocity
from scmkit.sampling import end_angles, evaluations, integrate
from scmkit.types import Key, Scalar


class LogLikelihood(eqx.Module):
    """A log density and its accuracy.

    **Attributes:**

    - `value`: nats, in the model's units.
    - `error`: standard error over the probes; 0 for the exact trace, nan for a single probe.
    - `nfe`: evaluations of the velocity, each with as many Jacobian-vector products as there are
        dimensions (exact) or probes.
    """

    value: Scalar
    error: Scalar
    nfe: Int[Array, ""]


def log_likelihood(
    model: AbstractModel,
    x0: Float[Array, "*shape"],
    cond: Conditioning = UNCONDITIONED,
    *,
    probes: int | None = None,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    solver: str = "Tsit5",
    ratio_min: float | Scalar = 2e-3,
    max_steps: int = 4096,
    key: Key | None = None,
) -> LogLikelihood:
    r"""`log p(x0)` under a diffusion model, in nats; one sample, the caller vmaps.

    $$\log p(x_0) = \log N(x_T; 0, \sigma_T^2 I) + \int \nabla \cdot v\, dt$$

    along the PF-ODE's path through `x0` (arXiv 2011.13456, Eq. 39), solved adaptively in TrigFlow's
    coordinates (`angular_velocity`), whatever the process. It is the density of the samples that the
    ODE makes of the prior when stopped at the noise-to-signal ratio `ratio_min`: for a perfect model, that
    of data plus `ratio_min` times unit noise. It is normalized for any model.

    **Arguments:**

    - `x0`: in the model's units.
    - `probes`: None takes the divergence exactly, at the cost of one Jacobian-vector product per dimension;
        a number, by Hutchinson's estimator with as many random sign vectors, which stay the same along the
        path, so that the value is unbiased (arXiv 1810.01367, Section 3.1).
    - `rtol`, `atol`: tolerances of the state (model's units) and of the integral (nats per dimension).
    - `solver`: an adaptive solver of diffrax's, by name.
    - `key`: of the probes.

    Raises `OptionError` for an unknown solver, and for probes without a key.
    """
    directions: Array | None = None
    if probes is not None:
        if key is None or probes < 1:
            raise OptionError(f"probes={probes} of the trace: one at least, and a key to draw them")
        directions = jr.rademacher(key, (probes, *x0.shape), x0.dtype)
    first, last = end_angles(model, ratio_min)

    def rates(angle: Scalar, state: tuple[Array, Array]) -> tuple[Array, Array]:
        velocity, forms = along_directions(
            lambda x: angular_velocity(model, x, angle, cond), state[0], directions
        )
        # Per dimension, so that a tolerance means the same for every size of sample.
        growth = jnp.sum(forms, keepdims=True) if directions is None else forms
        return velocity, growth / x0.size

    start = jnp.cos(first) * x0, jnp.zeros(probes or 1, x0.dtype)
    solution = integrate(
        rates, start, first, last, solver=solver, rtol=rtol, atol=atol, max_steps=max_steps
    )
    assert solution.ys is not None
    x_T, growth = (y[-1] for y in solution.ys)
    std = model.parameterization.sigma_data * jnp.sin(last)
    log_prior = -0.5 * (x_T / std) ** 2 - jnp.log(std) - 0.5 * jnp.log(2 * jnp.pi)
    # The first state is cos(first) x0.
    value = jnp.sum(log_prior) + x0.size * (jnp.mean(growth) + jnp.log(jnp.cos(first)))
    if probes is None:
        error = jnp.zeros(())
    elif probes == 1:
        error = jnp.full((), jnp.nan)
    else:
        error = x0.size * jnp.std(growth, ddof=1) / probes**0.5
    return LogLikelihood(value, error, evaluations(solution, solver, "PIDController"))
