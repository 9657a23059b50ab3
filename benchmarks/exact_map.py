"""The one-step map against the exact one, on Gaussian mixtures in product form.

Each coordinate's PF-ODE is the monotone transport between its marginals, so the exact consistency
function is known (`scmkit.data.Mixture`). Reported is the RMS error over 2000 draws of the prior, in the
data's units (data standard deviation about 0.63).

sCT with tangent normalization is biased in low dimension: g / (|g| + c) of one sample is a median-type
estimator. So it is shown without normalization, too.
"""

import argparse
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from common import write

from scmkit import compose, evaluate, train

NETWORK = {"mlp.width": 128, "mlp.depth": 3, "mlp.embedding_dim": 64, "positional.channels": 32}
TRAINING = {"train.schedule": "cosine", "train.warmup": 100, "train.lr": 1e-3}
NOISE = {"log-normal.mean": 0.0, "log-normal.std": 1.8}
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "scd": ("scd", {}),
    "sct": ("sct", {}),
    "sct, not normalized": ("sct", {"sct.normalize": "none"}),
}


def run(method: str, dimension: int, steps: int, batch: int, seed: int, out: Path) -> float:
    """The RMS error of one training."""
    plugin, options = METHODS[method]
    settings = NETWORK | TRAINING | NOISE | options
    settings |= {f"teacher.{k}": v for k, v in (TRAINING | NOISE).items()}
    settings |= {
        "train.steps": steps,
        "train.batch_size": batch,
        "train.seed": seed,
        "gmm.dimension": dimension,
        "gmm.size": 200_000,
    }
    recipe = compose(["trigflow", plugin], settings, data="gmm")
    trained = train(
        recipe, out=out, name=f"{method.replace(', ', '-').replace(' ', '-')}-{dimension}-{seed}"
    )
    [row] = evaluate(trained, steps=(1,), metrics=("exact-map",), n=2000, baselines=False)
    return row.metrics["exact-map"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--dimensions", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    results = []
    with TemporaryDirectory() as folder:
        for dimension in args.dimensions:
            for method in args.methods:
                for seed in range(args.seeds):
                    start = time.perf_counter()
                    error = run(method, dimension, args.steps, args.batch, seed, Path(folder))
                    seconds = round(time.perf_counter() - start)
                    row = {"method": method, "dimension": dimension, "seed": seed, "rms": error}
                    results.append(
                        row | {"steps": args.steps, "batch": args.batch, "seconds": seconds}
                    )
                    print(
                        f"{method:<20} {dimension:>3}-D  seed {seed}  rms {error:.4f}  {seconds} s"
                    )
    write(args.out, results)


if __name__ == "__main__":
    main()
