"""Sampling along the probability-flow ODE."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import jax.numpy as jnp
from annotated_types import Gt
from diffrax import Solution
from jaxtyping import Array, Float, Int

from scmkit.interfaces import AbstractModel, AbstractPathSampler, Conditioning, SamplerOutput
from scmkit.plugin import Plugin, Slot
from scmkit.sampling import (
    GridOptions,
    at_end,
    controller_called,
    evaluations,
    solve_pf_ode,
    solver_called,
    time_grid,
)
from scmkit.types import Key


@dataclass(frozen=True)
class Options(GridOptions):
    """Options of the PF-ODE sampler."""

    solver: str = "Heun"
    """Any diffrax ODE solver, by name: Euler (DDIM), Heun, Tsit5, Dopri5, ..."""
    controller: str = "StepTo"
    """`StepTo` (the fixed grid), `ConstantStepSize` or `PIDController` (adaptive)."""
    rtol: Annotated[float, Gt(0)] = 1e-4
    """Relative tolerance of `PIDController`."""
    atol: Annotated[float, Gt(0)] = 1e-4
    """Absolute tolerance of `PIDController`."""

    def __post_init__(self) -> None:
        solver_called(self.solver)
        controller_called(self.controller, jnp.zeros(2), self.rtol, self.atol)


class PFODESampler(AbstractPathSampler):
    """The PF-ODE from the prior to the data, by diffrax (arXiv 2011.13456, Section 4.3).

    `steps` is the number of fixed steps; an adaptive controller takes as many as it needs. In a batch each
    sample adapts its own steps and reports its own evaluations, but the batch takes the time of the slowest:
    it computes the largest number for all.
    """

    options: Options
    usual_steps: ClassVar[tuple[int, ...]] = (18,)

    def deterministic(self, steps: int) -> bool:
        return True

    def __call__(
        self,
        model: AbstractModel,
        noise: Float[Array, "*shape"],
        cond: Conditioning,
        *,
        steps: int | Int[Array, ""],
        key: Key,
    ) -> SamplerOutput:
        o, solution = self.options, self._solved(model, noise, cond, int(steps))
        return SamplerOutput(at_end(solution), evaluations(solution, o.solver, o.controller))

    def ratios(self, model: AbstractModel, times: int) -> Float[Array, " times"]:
        return jnp.vectorize(model.process.ratio)(self._grid(model, times)[1:])

    def path(
        self,
        model: AbstractModel,
        noise: Float[Array, "*shape"],
        cond: Conditioning,
        *,
        steps: int,
        times: int,
    ) -> Float[Array, "times *shape"]:
        kept = self._grid(model, times)[1:-1]
        states = self._solved(model, noise, cond, steps, kept).ys
        assert states is not None
        return states

    def _grid(self, model: AbstractModel, steps: int) -> Float[Array, " points"]:
        o = self.options
        return time_grid(model.parameterization, steps, grid=o.grid, ratio_min=o.ratio_min)

    def _solved(
        self,
        model: AbstractModel,
        noise: Float[Array, "*shape"],
        cond: Conditioning,
        steps: int,
        kept: Float[Array, " times"] | None = None,
    ) -> Solution:
        o = self.options
        return solve_pf_ode(
            model,
            noise,
            cond,
            self._grid(model, steps),
            solver=o.solver,
            controller=o.controller,
            rtol=o.rtol,
            atol=o.atol,
            kept=kept,
        )


plugin = Plugin(
    name="pf-ode",
    summary="the probability-flow ODE by any diffrax solver",
    provides={Slot.sampler: PFODESampler},
    config=Options,
    samples_from=("diffusion", "flow-map"),
)
