"""The probability-flow ODE, solved by diffrax."""

import diffrax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from scmkit.errors import OptionError, did_you_mean
from scmkit.interfaces import AbstractModel, Conditioning
from scmkit.sampling.unrolled import unrolled


def _concrete(base: type, excluding: tuple[type, ...] = ()) -> dict[str, type]:
    return {
        name: kind
        for name, kind in vars(diffrax).items()
        if isinstance(kind, type)
        and issubclass(kind, base)
        and not issubclass(kind, excluding)
        and not name.startswith("Abstract")
    }


SOLVERS = _concrete(
    diffrax.AbstractRungeKutta, excluding=(diffrax.AbstractSRK, diffrax.EulerHeun)
) | {"Euler": diffrax.Euler, "ImplicitEuler": diffrax.ImplicitEuler}
"""diffrax's solvers for ordinary differential equations, by name."""

CONTROLLERS = ("StepTo", "ConstantStepSize", "PIDController")
"""diffrax's step-size controllers, by name."""

FIRST = 100
"""An adaptive controller's first step is this part of the way; it then finds its own."""


def solver_called(name: str) -> diffrax.AbstractSolver:
    """The diffrax solver of that name; raises `OptionError` listing what there is."""
    if name not in SOLVERS:
        raise OptionError(
            f"no diffrax solver '{name}'{did_you_mean(name, SOLVERS)} "
            f"(solvers: {', '.join(sorted(SOLVERS))})"
        )
    return SOLVERS[name]()


def controller_called(
    name: str, times: Float[Array, " points"], rtol: float, atol: float
) -> diffrax.AbstractStepSizeController:
    """The diffrax controller of that name: `StepTo` visits `times`, `PIDController` adapts."""
    if name == "StepTo":
        return diffrax.StepTo(ts=times)
    if name == "ConstantStepSize":
        return diffrax.ConstantStepSize()
    if name == "PIDController":
        return diffrax.PIDController(rtol=rtol, atol=atol)
    raise OptionError(
        f"no step-size controller '{name}'{did_you_mean(name, CONTROLLERS)} "
        f"(controllers: {', '.join(CONTROLLERS)})"
    )


def solve_pf_ode(
    model: AbstractModel,
    x: Float[Array, "*shape"],
    cond: Conditioning,
    times: Float[Array, " points"],
    *,
    solver: str = "Heun",
    controller: str = "StepTo",
    rtol: float = 1e-4,
    atol: float = 1e-4,
    max_steps: int = 4096,
    dense: bool = False,
    kept: Float[Array, " times"] | None = None,
) -> diffrax.Solution:
    r"""Integrate $dx/dt = v(x, t)$ from `times[0]` to `times[-1]`, either way.

    Under `vmap` every sample has its own adaptive steps, but all take part in each: the loop runs as long as
    the slowest sample needs.

    **Arguments:**

    - `x`: the state at `times[0]`, in the model's units.
    - `times`: for fixed steps, every time visited (see `time_grid`); an adaptive controller uses its
        ends only.
    - `solver`, `controller`: names from diffrax.
    - `dense`: keep a continuous solution, for `solution.evaluate(t)`.
    - `kept`: times whose states come before the end's in `ys`.

    Raises `OptionError` for an unknown name. (arXiv 2011.13456, Section 4.3.)
    """
    method = solver_called(solver)
    stepping = controller_called(controller, times, rtol, atol)
    steps = times.shape[0] - 1
    adaptive = controller == "PIDController"
    return diffrax.diffeqsolve(
        diffrax.ODETerm(lambda t, x, _: model.velocity(x, jnp.asarray(t), cond)),
        method if adaptive or dense or kept is not None else unrolled(method),
        t0=times[0],
        t1=times[-1],
        dt0=None
        if controller == "StepTo"
        else (times[-1] - times[0]) / (FIRST if adaptive else steps),
        y0=x,
        stepsize_controller=stepping,
        saveat=diffrax.SaveAt(ts=kept, t1=True, dense=dense),
        # ConstantStepSize may need one step more than `steps` for the rounding of its last one.
        max_steps=max_steps if adaptive else steps + 1,
    )


def evaluations(solution: diffrax.Solution, solver: str, controller: str) -> Int[Array, ""]:
    """The number of velocity evaluations a solution took (-1 for implicit solvers: not counted).

    Under `vmap`, what each sample needed. The slowest decides what was computed: the largest of them.
    """
    steps = jnp.asarray(solution.stats["num_steps"], jnp.int32)
    if solver == "Euler":
        return steps
    method = solver_called(solver)
    tableau = getattr(method, "tableau", None)
    if not isinstance(tableau, diffrax.ButcherTableau) or tableau.implicit:
        return jnp.full_like(steps, -1)
    reused = 1 if tableau.fsal else 0
    return steps * (tableau.num_stages - reused) + reused


def at_end(solution: diffrax.Solution) -> Float[Array, "*shape"]:
    """The state at the last time."""
    assert solution.ys is not None
    return solution.ys[-1]
