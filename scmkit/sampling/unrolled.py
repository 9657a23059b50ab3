"""Explicit Runge-Kutta steps without diffrax's loop over stages."""

from typing import Any, ClassVar

import diffrax
from jaxtyping import Array, Float

MOST_STAGES = 2
"""Every stage is a copy of the network in the program; more cost more compiling than the loop costs."""


def unrolled(solver: diffrax.AbstractSolver) -> diffrax.AbstractSolver:
    """`solver`, stage by stage in the program where it has few; for fixed steps without dense output.

    diffrax loops over the stages of a step, writing them to a buffer: on a tiny network up to a third of the
    time of Heun's method, and most of what its fixed-step loop costs over one written by hand
    (`benchmarks/pf_ode_loop.py`).
    """
    tableau = getattr(solver, "tableau", None)
    if (
        isinstance(solver, diffrax.AbstractERK)
        and isinstance(tableau, diffrax.ButcherTableau)
        and tableau.num_stages <= MOST_STAGES
    ):
        return Unrolled(solver)
    return solver


class Unrolled(diffrax.AbstractSolver):
    """The steps of an explicit Runge-Kutta method of diffrax, by its tableau."""

    method: diffrax.AbstractERK
    term_structure: ClassVar = diffrax.AbstractTerm
    interpolation_cls: ClassVar = diffrax.LocalLinearInterpolation

    def init(self, terms: diffrax.AbstractTerm, t0: Any, t1: Any, y0: Array, args: Any) -> None:
        return None

    def func(
        self, terms: diffrax.AbstractTerm, t0: Any, y0: Float[Array, "*shape"], args: Any
    ) -> Float[Array, "*shape"]:
        return terms.vf(t0, y0, args)

    def step(
        self,
        terms: diffrax.AbstractTerm,
        t0: Any,
        t1: Any,
        y0: Float[Array, "*shape"],
        args: Any,
        solver_state: None,
        made_jump: Any,
    ) -> tuple[Array, None, dict[str, Array], None, diffrax.RESULTS]:
        tableau: Any = self.method.tableau
        control = terms.contr(t0, t1)

        def plus(weights: Any, stages: list[Array]) -> Array:
            used = [(float(w), k) for w, k in zip(weights, stages, strict=True) if w != 0]
            return sum((w * k for w, k in used), start=y0)

        stages = [terms.vf_prod(t0, y0, args, control)]
        for c, row in zip(tableau.c, tableau.a_lower, strict=True):
            t = t0 + float(c) * (t1 - t0)
            stages.append(terms.vf_prod(t, plus(row, stages), args, control))
        y1 = plus(tableau.b_sol, stages)
        return y1, None, {"y0": y0, "y1": y1}, None, diffrax.RESULTS.successful
