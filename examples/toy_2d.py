r"""Two dimensions: train a diffusion teacher, distill it, and look at one and two sampling steps.

The teacher is trained under the TrigFlow process $x_t = \cos t\, x_0 + \sin t\, z$. Its network gives the
velocity of the probability-flow ODE, $dx/dt = \sigma_d F(x_t / \sigma_d, t)$, and sampling means to integrate
that ODE from noise ($t \approx \pi/2$) to data ($t = 0$): here 18 steps of Heun's method.

The student's consistency function $f(x_t, t) = \cos t\, x_t - \sin t\, \sigma_d F(x_t / \sigma_d, t)$ is
to be constant along each path of that ODE. sCD (arXiv 2410.11081) drives

$$\frac{df}{dt} = \partial_t f + \partial_x f \cdot \frac{dx}{dt}$$

to zero, with $dx/dt$ from the teacher. Then $f(x_{t_{max}}, t_{max})$ is the end of the path: one step. Two
steps add noise to that end, up to $t = 1.1$, and apply $f$ again.

    python examples/toy_2d.py                   a few minutes on a laptop
    python examples/toy_2d.py --steps 2         to see that it runs

The picture has four panels, from left to right: data, teacher, student in one step, student in two steps.
"""

import argparse
from pathlib import Path

import numpy as np

import scmkit
from scmkit.sampling import save_png, side_by_side, vector_picture

DATA = "two-moons"  # or "checkerboard"
NETWORK = {"mlp.width": 128, "mlp.depth": 3, "mlp.embedding_dim": 64, "positional.channels": 64}
TEACHER = {"train.steps": 6000, "train.batch_size": 512, "train.lr": 1e-3}
STUDENT = {"train.steps": 6000, "train.batch_size": 512, "train.lr": 5e-4, "scd.warmup_steps": 1000}
BOTH = {"train.schedule": "cosine", "train.checkpoint_every": 2000, "train.sample_every": 2000}


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Train and distill a diffusion model in the plane."
    )
    parser.add_argument("--steps", type=int, help="steps of each training, instead of 6000")
    parser.add_argument("--samples", type=int, default=4000, help="points in each panel")
    parser.add_argument("--out", type=Path, default=Path("toy_2d.png"), help="the picture")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where runs go")
    args = parser.parse_args()
    n = args.samples
    shorter = {} if args.steps is None else {"train.steps": args.steps}

    recipe = scmkit.compose(
        ["trigflow", "diffusion"], {**NETWORK, **TEACHER, **BOTH, **shorter}, data=DATA
    )
    teacher = scmkit.train(recipe, out=args.runs)

    recipe = scmkit.compose(
        ["trigflow", "scd"],
        {**NETWORK, **STUDENT, **BOTH, **shorter},
        data=DATA,
        teacher=teacher.path,
    )
    student = scmkit.train(recipe, out=args.runs)

    dataset = scmkit.dataset_of(recipe)
    behind, _ = dataset.read("test", np.arange(n))
    data, _ = dataset.read("train", np.arange(n))
    panels = [
        data,
        scmkit.sample(teacher.model, recipe.data, n, "pf-ode", steps=18),
        scmkit.sample(student.model, recipe.data, n, "consistency", steps=1),
        scmkit.sample(student.model, recipe.data, n, "consistency", steps=2),
    ]
    save_png(args.out, side_by_side(*(vector_picture(panel, behind) for panel in panels)))

    for run, steps in ((teacher, (18,)), (student, (1, 2))):
        for row in scmkit.evaluate(
            run, steps=steps, metrics=("energy-distance",), n=min(n, 2000), baselines=run is teacher
        ):
            print(f"{row.name:<45} energy distance {row.metrics['energy-distance']:.4f}")
    print(args.out)


if __name__ == "__main__":
    main()
