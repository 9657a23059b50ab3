"""How good are a teacher, sCD and sCT on one data set, by number of steps, over seeds?

`scd` and `sct` start from the same teacher and have the same budget, the data set's recommended one. Every
value is a mean over sampling seeds and then over trainings, with the half width of its 95% interval over the
trainings (Student's t), or over the sampling seeds of a single one. The ratio is that of Fréchet distances
of student and teacher, training by training; the map error is that of `scmkit.evaluation.map_error`. Runs
that `--runs` already holds are finished and used.
"""

import argparse
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from common import write

from scmkit import Run, compose, evaluate, resume, train
from scmkit.evaluation import Row, map_error
from scmkit.evaluation.intervals import estimate

SOLVERS = (("pf-ode", (4, 9, 18)), ("dpm-solver-pp", (5, 9, 18)))
"""The teacher's samplers and their steps; `pf-ode` is Heun's method of two evaluations a step."""

TEACHER = "teacher, pf-ode, 18 steps"
"""The row that the students' ratios are over."""

METRICS = ("frechet-distance", "frechet-distance-infinity", "precision", "recall", "near-copies")


def trained(out: Path, name: str, plugins: list[str], **composed: Any) -> Run:
    """The run of that name, brought to its end if it is not there or not finished."""
    if not (out / name / "recipe.json").exists():
        return train(compose(plugins, **composed), out=out, name=name)
    run = Run.load(out / name)
    return run if run.finished else resume(run.path)


def measured(out: Path, seed: int, data: str, given: dict[str, Any]) -> tuple[list[Row], Any]:
    """Every line of the table for one seed of training, and the students' map errors."""
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
    found, errors = [], {}
    for i, (sampler, steps) in enumerate(SOLVERS):
        rows = evaluate(teacher, sampler=sampler, steps=steps, baselines=i == 0, seed=seed, **given)
        found += [row if row.nfe is None else named("teacher", row) for row in rows]
    for name, run in (("scd", scd), ("sct", sct)):
        rows = evaluate(run, steps=(1, 2, 4), baselines=False, seed=seed, **given)
        found += [named(name, row) for row in rows]
        errors[name] = map_error(run, teacher)
    return found, errors


def named(name: str, row: Row) -> Row:
    return replace(row, name=f"{name}, {row.name}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="digits")
    parser.add_argument("--seeds", type=int, default=3, help="trainings")
    parser.add_argument("--sampling-seeds", type=int, default=4)
    parser.add_argument("--features", help="feature space; by default what is usual of the data")
    parser.add_argument("--n", type=int, help="samples per row")
    parser.add_argument("--runs", type=Path, help="keep the runs here, or find them")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    given = {"n": args.n, "seeds": args.sampling_seeds, "metrics": METRICS}
    if args.features is not None:
        given["features"] = args.features
    with TemporaryDirectory() as folder:
        out = args.runs or Path(folder)
        seen = [measured(out, seed, args.data, given) for seed in range(args.seeds)]
    table: dict[str, dict[str, Any]] = {}
    for rows in zip(*(rows for rows, _ in seen), strict=True):
        line: dict[str, Any] = {"nfe": rows[0].nfe, "seconds a sample": rows[0].seconds}
        for metric in rows[0].metrics:
            line[metric] = asdict(estimate([row.metrics[metric] for row in rows]))
            if len(rows) == 1 and metric in rows[0].intervals:
                low, high = rows[0].intervals[metric]
                line[metric]["half"] = (high - low) / 2
        table[rows[0].name] = line
    theirs = table[TEACHER]["frechet-distance"]["each"]
    for name, line in table.items():
        if name.startswith(("scd", "sct")):
            ours = line["frechet-distance"]["each"]
            line["ratio"] = asdict(estimate([a / b for a, b in zip(ours, theirs, strict=True)]))
        cells = (f"{k} {told(cell)}" for k, cell in line.items() if isinstance(cell, dict))
        print(f"{name:<42} {'  '.join(cells)}")
    errors: dict[str, dict[str, Any]] = {}
    for name in ("scd", "sct"):
        each = [found[name] for _, found in seen]
        errors[name] = {f"{a:.3g}": asdict(estimate([e[a] for e in each])) for a in each[0]}
        cells = (f"from {angle}: {told(cell)}" for angle, cell in errors[name].items())
        print(f"{name}, error to the teacher's map  {'  '.join(cells)}")
    features = seen[0][0][0].features
    write(args.out, {"features": features, "rows": table, "map errors": errors})


def told(cell: dict[str, Any]) -> str:
    return f"{cell['mean']:.4g}" + ("" if cell["half"] is None else f" ± {cell['half']:.2g}")


if __name__ == "__main__":
    main()
