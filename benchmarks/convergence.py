"""The order of convergence of every deterministic sampler, on the PF-ODE of Gaussian data, in float64.

Data N(m, s^2) with s from 0.05 to 0.9 in three coordinates, TrigFlow's process, Karras's grid from ratio 80
to 0.01, where the exact solution is known:

    python benchmarks/convergence.py --picture docs/images/convergence.png \
        --out benchmarks/results/convergence.json
"""

import argparse
from pathlib import Path
from typing import Any

import equinox as eqx
import jax

jax.config.update("jax_enable_x64", True)

import jax.numpy as jnp  # noqa: E402
import matplotlib as mpl  # noqa: E402
import numpy as np  # noqa: E402
from common import write  # noqa: E402

from scmkit import build, compose  # noqa: E402
from scmkit.composing.build import build_free  # noqa: E402
from scmkit.interfaces import UNCONDITIONED  # noqa: E402
from scmkit.plugin import Slot  # noqa: E402
from scmkit.testing.oracles import Gaussian, exact_model  # noqa: E402

mpl.use("agg")
from matplotlib import pyplot as plt  # noqa: E402

MEAN, STD = jnp.asarray([0.1, -0.2, 0.0]), jnp.asarray([0.05, 0.25, 0.9])
EPS = jnp.asarray([-1.3, 0.4, 0.9])
RATIO_MIN = 1e-2
STEPS = (8, 16, 32, 64, 128, 256, 512, 1024)
SAMPLERS: dict[str, tuple[str, dict[str, Any]]] = {
    "ddim": ("ddim", {}),
    "heun": ("heun", {}),
    "dpm-solver, order 2": ("dpm-solver", {"order": 2}),
    "dpm-solver, order 3": ("dpm-solver", {"order": 3}),
    "dpm-solver-pp, 2S": ("dpm-solver-pp", {"method": "2S"}),
    "dpm-solver-pp, 2M": ("dpm-solver-pp", {"method": "2M"}),
    "dpm-solver-pp, 3M": ("dpm-solver-pp", {"method": "3M"}),
    "pf-ode, Heun": ("pf-ode", {"solver": "Heun"}),
    "pf-ode, Tsit5": ("pf-ode", {"solver": "Tsit5"}),
}


def errors(name: str, options: dict[str, Any], model: Any) -> list[tuple[int, float]]:
    """Evaluations and RMS error for each number of steps."""
    process = model.process
    first, last = process.t_max.astype(EPS.dtype), process.time_at(jnp.asarray(RATIO_MIN))
    common: dict[str, Any] = {"grid": "karras", "ratio_min": RATIO_MIN}
    if name != "pf-ode":
        common["to_zero"] = False
    sampler = build_free(Slot.sampler, name, options | common)
    noise = process.sigma(first) * EPS
    # pf-ode ends in the process's own scale, the others in that of the data.
    scale = process.alpha(last) if name == "pf-ode" else 1.0
    spread = jnp.sqrt(STD**2 + jnp.stack([process.ratio(first), RATIO_MIN])[:, None] ** 2)
    exact = MEAN + (noise / process.alpha(first) - MEAN) * spread[1] / spread[0]

    @eqx.filter_jit
    def run(steps: Any) -> Any:
        return sampler(model, noise, UNCONDITIONED, steps=steps, key=jax.random.key(0))

    found = []
    for steps in STEPS:
        out = run(jnp.asarray(steps, jnp.int32) if sampler.traces_steps else steps)
        rms = jnp.sqrt(jnp.mean((out.x / scale - exact) ** 2))
        found.append((int(out.nfe), float(rms)))
    return found


def order(points: list[tuple[int, float]]) -> float:
    """The slope of the last four points above rounding."""
    nfe, rms = np.asarray([p for p in points if p[1] > 1e-11][-4:]).T
    return float(-np.polyfit(np.log(nfe), np.log(rms), 1)[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    recipe = compose(["trigflow", "diffusion"], {"gmm.dimension": 3, "gmm.size": 10}, data="gmm")
    param = build(recipe, key=jax.random.key(0)).model.parameterization
    model = exact_model(param, Gaussian(mean=MEAN, std=STD))
    results, (figure, axis) = {}, plt.subplots(figsize=(7.5, 5), layout="constrained")
    for (label, (name, options)), marker in zip(SAMPLERS.items(), "os^vD<>Pp", strict=True):
        points = errors(name, options, model)
        results[label] = {"nfe": [p[0] for p in points], "rms": [p[1] for p in points]}
        results[label]["order"] = order(points)
        print(f"{label:<22} order {order(points):.2f}  " + " ".join(f"{e:.1e}" for _, e in points))
        axis.plot(*zip(*points, strict=True), marker=marker, ms=5, lw=1.3,
                  label=f"{label}: {order(points):.2f}")  # fmt: skip
    axis.set(xscale="log", yscale="log", ylim=(1e-12, 3), xlabel="network evaluations")
    axis.set_ylabel("RMS error (data's units)")
    axis.set_title("PF-ODE of Gaussian data, float64: error and measured order")
    axis.grid(alpha=0.3)
    axis.legend(fontsize="small", loc="lower left")
    if args.picture is not None:
        figure.savefig(args.picture, dpi=120)
    write(args.out, results)


if __name__ == "__main__":
    main()
