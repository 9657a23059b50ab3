r"""Distill a flow-matching teacher into a TrigFlow student, on handwritten digits.

Every affine process $x_t = \alpha(t)\, x_0 + \sigma(t)\, \varepsilon$ is one process up to a change of time
and scale; what two of them share is the noise-to-signal ratio $\rho = \sigma / \alpha$. The student at
$(x_t, t)$ therefore asks the teacher at the time $\tau$ where the teacher's ratio is the same, and at the
state $y = x_t / k$ with $k = \alpha(t) / \alpha_{teacher}(\tau)$:

$$\frac{dx_t}{dt} = k'(t)\, y + k\, \tau'(t)\, v_{teacher}(y, \tau).$$

That is all sCD needs of its teacher, so `--teacher` may name a run of any process and any network. Only
where network and parameterization agree does the student also start from the teacher's weights; here it
starts from fresh ones.

    python examples/distillation.py                         trains a teacher first
    python examples/distillation.py --teacher runs/NAME     uses that run
    python examples/distillation.py --steps 2               to see that it runs

Prints metrics of pixels against the test split (smaller is better), beside those of real data and of a
Gaussian.
"""

import argparse
from pathlib import Path

import scmkit
from scmkit.evaluation import Row

DATA = "digits"
# The data set recommends settings for teachers and for students that start from their teacher's weights. This
# student starts from fresh ones, and trains for twice as long.
STUDENT = {"train.steps": 8000, "train.lr": 5e-4}
PACE = {"train.checkpoint_every": 2000, "train.sample_every": 2000}
METRICS = ("energy-distance", "sliced-wasserstein", "mmd", "near-copies")


def print_table(rows: list[Row]) -> None:
    """One line for each row: name, network evaluations, metrics."""
    print(f"{'':<45}{'NFE':>6}" + "".join(f"{name:>20}" for name in METRICS))
    for row in rows:
        nfe = "" if row.nfe is None else f"{row.nfe:g}"
        values = [f"{row.metrics[m]:.4f}" if m in row.metrics else "" for m in METRICS]
        print(f"{row.name:<45}{nfe:>6}" + "".join(f"{value:>20}" for value in values))


def main() -> None:
    parser = argparse.ArgumentParser(description="Distill a teacher of another noise process.")
    parser.add_argument("--teacher", type=Path, help="a run to distill; otherwise one is trained")
    parser.add_argument("--steps", type=int, help="steps of each training")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where runs go")
    args = parser.parse_args()
    shorter = {} if args.steps is None else {"train.steps": args.steps}

    if args.teacher is None:
        recipe = scmkit.compose(["flow-matching", "diffusion"], {**PACE, **shorter}, data=DATA)
        teacher = scmkit.train(recipe, out=args.runs)
    else:
        teacher = scmkit.Run.load(args.teacher)

    recipe = scmkit.compose(
        ["trigflow", "scd"], {**STUDENT, **PACE, **shorter}, data=DATA, teacher=teacher.path
    )
    student = scmkit.train(recipe, out=args.runs)

    given = {"metrics": METRICS, "features": "data"}
    rows = scmkit.evaluate(teacher, **given)
    rows += scmkit.evaluate(student, steps=(1, 2), baselines=False, **given)
    print(f"teacher: {teacher.path}   student: {student.path}")
    print_table(rows)


if __name__ == "__main__":
    main()
