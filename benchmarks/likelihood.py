"""Bits per dimension of the digits teacher: do the exact trace and Hutchinson's estimator agree?

The same test digits with the same dequantisation noise, by the exact trace and by 1 and 16 probes. Beside
them the exact trace at other noise-to-signal ratios than the dequantisation's, and for scale a uniform
code and a Gaussian with the dequantised training data's mean and covariance. All but these two are
given the digit's class.
"""

import argparse
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from common import write

from scmkit import Run, compose, dataset_of, train
from scmkit.evaluation.likelihood import bits_per_dimension
from scmkit.interfaces import AbstractDataset

CASES: dict[str, dict[str, Any]] = {
    "exact": {},
    "hutchinson, 1 probe": {"probes": 1},
    "hutchinson, 16 probes": {"probes": 16},
    "exact, ratio 0.002": {"ratio_min": 0.002},
    "exact, ratio 0.01": {"ratio_min": 0.01},
    "exact, ratio 0.05": {"ratio_min": 0.05},
}


def interval(values: np.ndarray) -> list[float]:
    """The mean's 95% confidence interval."""
    half = 1.96 * values.std(ddof=1) / len(values) ** 0.5
    return [float(values.mean() - half), float(values.mean() + half)]


def gaussian_fit(dataset: AbstractDataset) -> float:
    """Bits per dimension of the test split under a Gaussian fitted to the training split."""
    width = 2 / (dataset.levels - 1)
    rng = np.random.default_rng(0)
    train, test = (
        dataset.read(split, np.arange(dataset.size(split)))[0].reshape(dataset.size(split), -1)
        for split in ("train", "test")
    )
    covariance = np.cov(train, rowvar=False) + width**2 / 12 * np.eye(train.shape[1])
    x = test + width * (rng.random(test.shape) - 0.5) - train.mean(0)
    mahalanobis = np.sum(x * np.linalg.solve(covariance, x.T).T, axis=1)
    log_det = np.linalg.slogdet(2 * np.pi * covariance)[1]
    nats = 0.5 * (mahalanobis.mean() + log_det) / train.shape[1] - np.log(width)
    return float(nats / np.log(2))


def measure(run: Run, n: int | None) -> dict[str, Any]:
    """Every case, and by how much it differs from the exact trace, sample by sample."""
    levels = dataset_of(run.recipe).levels
    results: dict[str, Any] = {
        "uniform code": {"bits": float(np.log2(levels))},
        "Gaussian fit": {"bits": gaussian_fit(dataset_of(run.recipe))},
    }
    exact = np.empty(0)
    for name, options in CASES.items():
        start = time.perf_counter()
        found = bits_per_dimension(run, n=n, **options)
        row = {
            "bits": found.mean,
            "interval": list(found.interval),
            "nfe": float(found.nfe.mean()),
            "n": len(found.bits),
            "dequantisation": found.dequantization,
            "ratio_min": found.ratio_min,
            "seconds, compiling included": time.perf_counter() - start,
        }
        if name == "exact":
            exact = found.bits
        elif "probes" in options:
            row |= {"minus exact": float(np.mean(found.bits - exact))}
            row |= {"interval of minus exact": interval(found.bits - exact)}
            row |= {"largest of minus exact": float(np.abs(found.bits - exact).max())}
        results[name] = row
        low, high = row["interval"]
        print(
            f"{name:<24} {row['bits']:.4f} ({low:.4f} to {high:.4f})  NFE {row['nfe']:.1f}"
            f"  {row['seconds, compiling included']:.0f} s"
            + (f"  minus exact {row['interval of minus exact']}" if "minus exact" in row else "")
        )
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--run", type=Path, help="a diffusion run on digits; otherwise one is trained"
    )
    parser.add_argument("--n", type=int, help="test digits, instead of all 500")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    with TemporaryDirectory() as folder:
        if args.run is None:
            run = train(compose(["trigflow", "diffusion"]), out=Path(folder))
        else:
            run = Run.load(args.run)
        write(args.out, measure(run, args.n))


if __name__ == "__main__":
    main()
