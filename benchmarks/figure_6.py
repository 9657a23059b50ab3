"""Is the student's Fréchet distance a constant multiple of its teacher's, whatever the size of the model?

The sCM paper's Figure 6 (arXiv 2410.11081) says so of sCD, and that sCT falls behind at size. Teacher, sCD
and sCT of each width are trained for the same number of steps, over seeds, by `scmkit bench`, which a second
call of the same command continues. The ratio is taken seed by seed; intervals are Student's t at 95%.

    python benchmarks/figure_6.py --runs figure-6 --out benchmarks/results/figure-6.json
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from common import write

from scmkit.reporting.trials import Plan, bench
from scmkit.reporting.trials.running import Result
from scmkit.reporting.trials.summary import estimate

METHODS = ("diffusion", "scd", "sct")
METRIC = "frechet-distance"


def method(name: str, width: int) -> str:
    return f"trigflow,{name},mlp.width={width}"


def ratios(results: list[Result], widths: list[int]) -> dict[str, Any]:
    """For each student and number of steps, by width: its distance, its teacher's, and their ratio."""
    by_method: dict[str, list[Result]] = {}
    for result in results:
        if result.error is not None:
            raise SystemExit(f"{result.cell.path}: {result.error}")
        by_method.setdefault(result.cell.method, []).append(result)
    found: dict[str, Any] = {}
    for width in widths:
        teachers = [
            max(result.rows, key=lambda row: row.nfe or 0)
            for result in by_method[method("diffusion", width)]
        ]
        theirs = [row.metrics[METRIC] for row in teachers]
        for name in METHODS[1:]:
            students = by_method[method(name, width)]
            for steps in (1, 2):
                ours = [
                    row.metrics[METRIC]
                    for result in students
                    for row in result.rows
                    if row.nfe == steps
                ]
                found.setdefault(f"{name}, {steps} step{'s'[: steps - 1]}", []).append(
                    {
                        "width": width,
                        "parameters": students[0].parameters,
                        "student": asdict(estimate(ours)),
                        "teacher": asdict(estimate(theirs)),
                        "nfe of the teacher": teachers[0].nfe,
                        "ratio": asdict(
                            estimate([a / b for a, b in zip(ours, theirs, strict=True)])
                        ),
                    }
                )
    return found


def draw(found: dict[str, Any], picture: Path) -> None:
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
    for i, (label, rows) in enumerate(found.items()):
        for axis, quantity in zip(axes, ("student", "ratio"), strict=True):
            axis.errorbar(
                [row["parameters"] * 1.03**i for row in rows],  # Side by side, not on each other.
                [row[quantity]["mean"] for row in rows],
                yerr=[row[quantity]["half"] or 0 for row in rows],
                fmt="o",
                ms=4,
                capsize=3,
                color=f"C{i // 2}",
                fillstyle=("none", "full")[i % 2],
                ls=("--", "-")[i % 2],
                label=label,
            )
    rows = next(iter(found.values()))
    axes[0].errorbar(
        [row["parameters"] for row in rows],
        [row["teacher"]["mean"] for row in rows],
        yerr=[row["teacher"]["half"] or 0 for row in rows],
        fmt="s-",
        ms=4,
        capsize=3,
        color="grey",
        label=f"teacher, {rows[0]['nfe of the teacher']:g} evaluations",
    )
    axes[0].set(title="Fréchet distance", xlabel="parameters", xscale="log", yscale="log")
    axes[1].set(title="over the teacher's of the same size", xlabel="parameters", xscale="log")
    axes[1].axhline(1, ls=":", color="grey")
    for axis in axes:
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=8)
    figure.savefig(picture, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--widths", type=int, nargs="+", default=[64, 128, 256, 512])
    parser.add_argument("--data", default="digits")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--runs", type=Path, default=Path("figure-6"))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--picture", type=Path)
    args = parser.parse_args()
    plan = Plan(
        [method(name, width) for width in args.widths for name in METHODS],
        data=(args.data,),
        seeds=args.seeds,
        steps=args.steps,
        metrics=(METRIC,),
    )
    found = ratios(bench(plan, args.runs, progress=print), args.widths)
    for label, rows in found.items():
        for row in rows:
            cells = {k: row[k] for k in ("student", "teacher", "ratio")}
            told = "  ".join(
                f"{k} {c['mean']:.3g}" + ("" if c["half"] is None else f" ± {c['half']:.2g}")
                for k, c in cells.items()
            )
            print(f"{label:<14} width {row['width']:<5} {row['parameters']:>9,} parameters  {told}")
    write(args.out, {"plan": json.loads(json.dumps(asdict(plan))), "rows": found})
    if args.picture is not None:
        draw(found, args.picture)


if __name__ == "__main__":
    main()
