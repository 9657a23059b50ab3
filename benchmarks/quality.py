"""How good are a teacher, sCD and sCT on one data set, by number of steps, over seeds?

`scd` and `sct` start from the same teacher and have the same budget, the data set's recommended one. Every
metric comes as a value, with the half width of its interval (over seeds where there are several, else by
the bootstrap), and as a multiple of what real training data scores. Runs that `--runs` already holds are
finished and used.
"""

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from common import write

from scmkit import Run, compose, evaluate, resume, train
from scmkit.evaluation import REAL, Row

SOLVERS = (("pf-ode", (4, 9, 18)), ("dpm-solver-pp", (5, 9, 18)))
"""The teacher's samplers and their steps; `pf-ode` is Heun's method of two evaluations a step."""


def trained(out: Path, name: str, plugins: list[str], **composed: Any) -> Run:
    """The run of that name, brought to its end if it is not there or not finished."""
    if not (out / name / "recipe.json").exists():
        return train(compose(plugins, **composed), out=out, name=name)
    run = Run.load(out / name)
    return run if run.finished else resume(run.path)


def rows_of(out: Path, seed: int, data: str, given: dict[str, Any]) -> dict[str, Row]:
    """Every line of the table for one seed."""
    settings = {"train.seed": seed}
    scd = trained(out, f"scd-{seed}", ["trigflow", "scd"], settings=settings, data=data)
    teacher = Run.load(scd.path / "teacher")
    sct = trained(
        out,
        f"sct-{seed}",
        ["trigflow", "sct"],
        settings=settings,
        data=data,
        teacher=teacher.path,
    )
    found = {}
    for i, (sampler, steps) in enumerate(SOLVERS):
        for row in evaluate(
            teacher, sampler=sampler, steps=steps, baselines=i == 0, seed=seed, **given
        ):
            found[row.name if row.nfe is None else f"teacher, {row.name}"] = row
    for name, run in (("scd", scd), ("sct", sct)):
        for row in evaluate(run, steps=(1, 2, 4), baselines=False, seed=seed, **given):
            found[f"{name}, {row.name}"] = row
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="digits")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--features", default="data", help="feature space; by default the data's own"
    )
    parser.add_argument("--n", type=int, help="samples per row")
    parser.add_argument("--runs", type=Path, help="keep the runs here, or find them")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    given = {"features": args.features, "n": args.n}
    with TemporaryDirectory() as folder:
        out = args.runs or Path(folder)
        seen = [rows_of(out, seed, args.data, given) for seed in range(args.seeds)]
    real = [rows[REAL].metrics for rows in seen]
    table = {}
    for label in seen[0]:
        rows = [rows[label] for rows in seen]
        table[label] = {"nfe": rows[0].nfe, "seconds a sample": rows[0].seconds}
        for metric in rows[0].metrics:
            values = [row.metrics[metric] for row in rows]
            low, high = rows[0].intervals.get(metric, (np.nan, np.nan))
            spread = 1.96 * np.std(values, ddof=1) if len(rows) > 1 else (high - low) / 2
            cell: dict[str, Any] = {"mean": float(np.mean(values)), "half width": float(spread)}
            if all(metric in r for r in real):
                ratios = [v / r[metric] for v, r in zip(values, real, strict=True)]
                cell["ratio"] = float(np.mean(ratios))
            table[label][metric] = cell | {"each": values}
        cells = [
            f"{k} {c['mean']:.4f} ± {c['half width']:.4f}"
            + (f" ({c['ratio']:.2f}x)" if "ratio" in c else "")
            for k, c in table[label].items()
            if isinstance(c, dict)
        ]
        print(f"{label:<42} {'  '.join(cells)}")
    write(args.out, {"features": seen[0][REAL].features, "rows": table})


if __name__ == "__main__":
    main()
