"""Error against network evaluations of all samplers, on a diffusion model of handwritten digits.

Left, for the deterministic ones: the RMS difference to a very fine solution of the model's own PF-ODE, in
multiples of the data's standard deviation. Right, for all: the energy distance of 1000 samples to the test
split. One set of noise for all.

    python benchmarks/samplers.py --picture docs/images/samplers.png --out benchmarks/results/samplers.json

trains the model first (`scmkit train -p trigflow -p diffusion`), unless `--run RUN` names one.
"""

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import jax.numpy as jnp
import jax.random as jr
import matplotlib as mpl
import numpy as np
from common import write

from scmkit import Run, compose, dataset_of, train
from scmkit.composing.build import build_free
from scmkit.interfaces import AbstractSampler, Evaluation
from scmkit.plugin import Slot
from scmkit.sampling import conditioning, draw, prior

mpl.use("agg")
from matplotlib import pyplot as plt

BUDGETS = (4, 6, 8, 12, 18, 26, 36, 52, 72, 104)
CHURN = {"churn": 40.0, "churn_min": 0.05, "churn_max": 50.0, "churn_noise": 1.003}
SAMPLERS: dict[str, tuple[str, dict[str, Any]]] = {
    "ddim": ("ddim", {}),
    "heun": ("heun", {}),
    "pf-ode, Heun": ("pf-ode", {}),
    "pf-ode, Tsit5": ("pf-ode", {"solver": "Tsit5"}),
    "dpm-solver, order 2": ("dpm-solver", {"order": 2}),
    "dpm-solver, order 3": ("dpm-solver", {"order": 3}),
    "dpm-solver-pp, 2S": ("dpm-solver-pp", {"method": "2S"}),
    "dpm-solver-pp, 2M": ("dpm-solver-pp", {"method": "2M"}),
    "dpm-solver-pp, 3M": ("dpm-solver-pp", {"method": "3M"}),
    "dpm-solver-pp, SDE-2M": ("dpm-solver-pp", {"method": "SDE-2M"}),
    "ancestral": ("ancestral", {}),
    "ancestral, forward": ("ancestral", {"variance": "forward", "grid": "log-snr"}),
    "predictor-corrector": ("predictor-corrector", {}),
    "heun, churn 40": ("heun", CHURN),
}
STAGES = {"heun": 2, "pf-ode, Heun": 2, "heun, churn 40": 2, "predictor-corrector": 2,
          "dpm-solver, order 2": 2, "dpm-solver-pp, 2S": 2, "dpm-solver, order 3": 3,
          "pf-ode, Tsit5": 6}  # fmt: skip
"""Evaluations a step, where it is not one."""
MARKERS = "os^vD<>PpX*dhH"


def measure(run: Run, n: int) -> tuple[dict[str, Any], dict[str, float]]:
    """The curves of every sampler, and what to hold them against."""
    model, data, dataset = run.model, run.recipe.data, dataset_of(run.recipe)
    noise, cond = prior(model, data, n, key=jr.key(0)), conditioning(data, n)
    (test, _), (real, _) = (
        dataset.read(split, np.arange(dataset.size(split))) for split in ("test", "train")
    )
    metric = build_free(Slot.metric, "energy-distance", {})

    def distance(samples: np.ndarray) -> float:
        flat = [a.reshape(len(a), -1) for a in (samples, test, real)]
        return metric(Evaluation(*flat))

    def drawn(sampler: AbstractSampler, steps: int) -> tuple[int, Any]:
        out = draw(model, sampler, noise, cond, steps=steps, key=jr.key(1))
        return int(out.nfe[0]), out.x

    # pf-ode ends above ratio 0, at the process's own scale: it has a reference of its own.
    ends = {}
    for to_zero in (True, False):
        fine = build_free(Slot.sampler, "dpm-solver", {"order": 3, "to_zero": to_zero})
        ends[to_zero] = drawn(fine, 250)[1]
    ends[False] = ends[False] * model.process.alpha(model.process.time_at(jnp.asarray(2e-3)))
    scale = float(ends[True].std())
    lines = {
        "training data": distance(real[:n]),
        "exact PF-ODE": distance(data.denormalize(np.asarray(ends[True]))),
    }
    curves = {}
    for label, (name, options) in SAMPLERS.items():
        sampler = build_free(Slot.sampler, name, options)
        curve: dict[str, list[float]] = {"nfe": [], "rms": [], "energy distance": []}
        for budget in BUDGETS:
            steps = round(budget / STAGES.get(label, 1))
            if steps < 2 or (label == "pf-ode, Tsit5" and budget > 52):
                continue
            nfe, x = drawn(sampler, steps)
            curve["nfe"].append(nfe)
            curve["energy distance"].append(distance(data.denormalize(np.asarray(x))))
            if sampler.deterministic(steps):
                error = x - ends[name != "pf-ode"]
                curve["rms"].append(float(jnp.sqrt(jnp.mean(error**2))) / scale)
        curves[label] = curve
        print(f"{label:<22}" + " ".join(
            f"{a}:{b:.4f}" for a, b in zip(curve["nfe"], curve["energy distance"], strict=True)
        ), flush=True)  # fmt: skip
    return curves, lines


def draw_curves(curves: dict[str, Any], lines: dict[str, float], path: Path) -> None:
    """Both panels, with one legend."""
    colours = [*plt.get_cmap("tab10").colors, "black", "navy", "gold", "teal"]  # pyright: ignore
    figure, (left, right) = plt.subplots(1, 2, figsize=(12.5, 5), layout="constrained")
    for (label, curve), colour, marker in zip(curves.items(), colours, MARKERS, strict=True):
        style = {"color": colour, "marker": marker, "ms": 5, "lw": 1.3, "label": label}
        if curve["rms"]:
            left.plot(curve["nfe"], curve["rms"], **style)
        dashed = {} if curve["rms"] else {"ls": "--"}
        right.plot(curve["nfe"], curve["energy distance"], **style, **dashed)
    for (label, value), ls in zip(lines.items(), (":", "-."), strict=True):
        right.axhline(value, color="grey", ls=ls, lw=1.2, label=label)
    left.set(ylabel="RMS difference / data's standard deviation", ylim=(2e-5, 3))
    left.set_title("to the exact PF-ODE solution")
    right.set(ylabel="energy distance", ylim=(0.012, 1))
    right.set_title("to the test split; dashed: with fresh noise")
    for axis in (left, right):
        axis.set(xscale="log", yscale="log", xlabel="network evaluations")
        axis.set_xticks([5, 10, 20, 50, 100], ["5", "10", "20", "50", "100"])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    handles, labels = right.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", fontsize="small")
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, help="a trained diffusion model of the digits")
    parser.add_argument("--n", type=int, default=1000)
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    with TemporaryDirectory() as folder:
        if args.run is None:
            run = train(compose(["trigflow", "diffusion"]), out=Path(folder), name="teacher")
        else:
            run = Run.load(args.run)
        curves, lines = measure(run, args.n)
    print(lines)
    if args.picture is not None:
        draw_curves(curves, lines, args.picture)
    write(args.out, {"curves": curves, "lines": lines})


if __name__ == "__main__":
    main()
