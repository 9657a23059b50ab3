"""What diffrax's fixed-step loop costs over a `lax.scan` of the same solver written by hand.

A tiny network under TrigFlow, a batch of samples, 100 steps; the contestants in turn in one process, and
the loops and operations in each compiled program. `diffrax` is diffrax's own solver, `scmkit` is
`solve_pf_ode`, which unrolls the stages of two-stage solvers. Pin it:

    taskset -c 0 python benchmarks/pf_ode_loop.py --out benchmarks/results/pf-ode-loop.json
"""

import argparse
import re
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import jax.random as jr
from common import write

from scmkit import build_model, compose
from scmkit.interfaces import UNCONDITIONED, AbstractModel
from scmkit.sampling import at_end, solve_pf_ode, time_grid

clock = time.process_time if jax.default_backend() == "cpu" else time.perf_counter


def by_hand(model: AbstractModel, times: Any, *, heun: bool) -> Callable[[Any], Any]:
    """Euler's or Heun's method as a scan over the times."""

    def step(x: Any, ends: tuple[Any, Any]) -> tuple[Any, None]:
        (t, s), h = ends, ends[1] - ends[0]
        slope = model.velocity(x, t)
        if heun:
            slope = 0.5 * (slope + model.velocity(x + h * slope, s))
        return x + h * slope, None

    return lambda x: jax.lax.scan(step, x, (times[:-1], times[1:]))[0]


def by_diffrax(model: AbstractModel, times: Any, solver: Any) -> Callable[[Any], Any]:
    """diffrax's own solver and loop."""
    term = diffrax.ODETerm(lambda t, x, _: model.velocity(x, jnp.asarray(t)))

    def solved(x: Any) -> Any:
        return diffrax.diffeqsolve(
            term,
            solver,
            times[0],
            times[-1],
            None,
            x,
            stepsize_controller=diffrax.StepTo(ts=times),
            max_steps=len(times),
        ).ys

    return solved


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--batch", type=int, nargs="+", default=[16, 64, 512])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    settings = {"mlp.width": 16, "mlp.depth": 1, "mlp.embedding_dim": 16, "positional.channels": 8}
    recipe = compose(["trigflow", "diffusion"], settings | {"gmm.size": 10}, data="gmm")
    model = build_model(recipe, key=jr.key(0))
    times = time_grid(model.parameterization, args.steps)

    def scmkit(solver: str) -> Callable[[Any], Any]:
        return lambda x: at_end(solve_pf_ode(model, x, UNCONDITIONED, times, solver=solver))

    contestants = {
        "Euler by hand": by_hand(model, times, heun=False),
        "Euler, diffrax": by_diffrax(model, times, diffrax.Euler()),
        "Euler, scmkit": scmkit("Euler"),
        "Heun by hand": by_hand(model, times, heun=True),
        "Heun, diffrax": by_diffrax(model, times, diffrax.Heun()),
        "Heun, scmkit": scmkit("Heun"),
    }
    results: dict[str, Any] = {}
    for batch in args.batch:
        x = jr.normal(jr.key(1), (batch, *recipe.data.shape))
        compiled = {k: jax.jit(jax.vmap(f)).lower(x).compile() for k, f in contestants.items()}
        seconds: dict[str, list[float]] = {k: [] for k in compiled}
        for _ in range(args.rounds):
            for name, run in compiled.items():
                start, runs = clock(), 0
                while clock() - start < 0.05:
                    jax.block_until_ready(run(x))
                    runs += 1
                seconds[name].append((clock() - start) / runs)
        print(f"batch {batch}")
        for name, run in compiled.items():
            base = seconds[f"{name.split(',')[0].split()[0]} by hand"]
            ratios = [a / b for a, b in zip(seconds[name], base, strict=True)]
            text = run.as_text() or ""
            row = {
                "ratio": statistics.median(ratios),
                "min": min(ratios),
                "max": max(ratios),
                "ms": 1e3 * statistics.median(seconds[name]),
                "loops": len(re.findall(r" while\(", text)),
                "buffer writes": len(re.findall(r" dynamic-update-slice\(", text)),
            }
            results.setdefault(f"batch {batch}", {})[name] = row
            print(
                f"  {name:<16} {row['ratio']:.2f} [{row['min']:.2f}, {row['max']:.2f}]  {row['ms']:.3f} ms  "
                f"{row['loops']} loops, {row['buffer writes']} buffer writes"
            )
    write(args.out, results)


if __name__ == "__main__":
    main()
