"""The README's run over seeds: teacher, sCD and sCT on handwritten digits, against the test split.

sCT starts from the same teacher and has the same budget. Each row is the mean over seeds of every metric,
as a value and as a multiple of what real training data scores, and the worst seed beside it.
"""

import argparse
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from common import write

from scmkit import Run, compose, evaluate, train
from scmkit.evaluation import REAL, Row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--runs", type=Path, help="keep the runs here")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    rows: dict[str, list[Row]] = {}
    seconds: dict[str, list[float]] = {}
    with TemporaryDirectory() as folder:
        out = args.runs or Path(folder)
        for seed in range(args.seeds):
            settings = {"train.seed": seed}
            start = time.perf_counter()
            student = train(compose(["trigflow", "scd"], settings), out=out, name=f"scd-{seed}")
            seconds.setdefault("teacher and scd", []).append(time.perf_counter() - start)
            teacher = student.path / "teacher"
            recipe = compose(["trigflow", "sct"], settings, teacher=teacher)
            trained = train(recipe, out=out, name=f"sct-{seed}")
            for name, run in (("teacher", Run.load(teacher)), ("scd", student), ("sct", trained)):
                for row in evaluate(run, baselines=name == "teacher", seed=seed):
                    label = row.name if row.nfe is None else f"{name}, {row.name}"
                    rows.setdefault(label, []).append(row)
    real = rows[REAL]
    results = {"seconds": seconds, "rows": {}}
    for label, seen in rows.items():
        results["rows"][label] = {}
        for metric in seen[0].metrics:
            values = [row.metrics[metric] for row in seen]
            cell = {"mean": float(np.mean(values)), "each": values}
            if metric in real[0].metrics:
                ratios = [v / r.metrics[metric] for v, r in zip(values, real, strict=True)]
                cell |= {"ratio": float(np.mean(ratios)), "worst ratio": max(ratios)}
            results["rows"][label][metric] = cell
        cells = [
            f"{k} {c['mean']:.4f}" + (f" ({c['ratio']:.2f}x)" if "ratio" in c else "")
            for k, c in results["rows"][label].items()
        ]
        print(f"{label:<42} {'  '.join(cells)}")
    write(args.out, results)


if __name__ == "__main__":
    main()
