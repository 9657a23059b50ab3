"""How good are the samples that `gpu.py` brought back from its training? On a CPU, from the files alone.

    python benchmarks/gpu_samples.py gpu --data images.npz --out benchmarks/results/gpu-samples.json

Teacher and student, beside real images of the training split and a Gaussian of their mean and covariance, all
in the same number, against the test split: in the features of a classifier that is trained on the data
once, or in data space. The interval is the bootstrap's, of 95%.
"""

import argparse
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
from common import write
from gpu_stages import images
from jaxtyping import Float

from scmkit.composing.build import build_free
from scmkit.data import Store
from scmkit.data.derived import cache_directory, digest
from scmkit.data.store import from_uint8
from scmkit.errors import ScmkitError
from scmkit.evaluation import DATA, RESAMPLES
from scmkit.evaluation.baselines import gaussian, subset
from scmkit.evaluation.comparison import Comparison
from scmkit.evaluation.intervals import resampled_indices
from scmkit.evaluation.real import RealData
from scmkit.evaluation.spaces import BATCH, Selection, Space
from scmkit.evaluation.usual import usual_metrics
from scmkit.interfaces import Split
from scmkit.plugin import Slot

MODELS = ("teacher", "student")


def compare(
    samples: dict[str, Float[np.ndarray, "n *shape"]],
    data: Store,
    features: str,
    split: Split,
    most: int,
) -> dict[str, Any]:
    """Metrics of each set of samples and of what they are seen beside, by name."""
    rng = np.random.default_rng(0)
    n = min(most, data.size(split), *(len(x) for x in samples.values()))
    metrics = {name: build_free(Slot.metric, name, {}) for name in usual_metrics(features)}
    directory = cache_directory() / digest(data)[:32]
    found = None if features == DATA else build_free(Slot.features, features, {}, data, directory)
    space = Space(features, metrics, found, batch=min(BATCH, n))
    train = Selection("train", subset(rng, data.size("train"), max(20_000, n)))
    reference = Selection(split, np.sort(rng.permutation(data.size(split))[:n]))
    held, pool = (space.of_real(data, s, None, lambda *_: None) for s in (reference, train))
    indices = resampled_indices(n, RESAMPLES, 0)
    comparison = Comparison(space, held, pool, pool, indices)
    rows: dict[str, Any] = {}
    if split == "test":
        splits = RealData(data, reference, train, train).splits(n, 5, rng)
        rows["real"] = comparison.of_real(splits)
    real, _ = data.read("train", train.indices)
    fit = gaussian(rng, real.reshape(len(real), -1), n).reshape(n, *data.shape)
    for name, x in {"gaussian": np.clip(fit, -1, 1), **samples}.items():
        # Samples come class by class: any n of them must have all classes.
        rows[name] = comparison(space(x[np.sort(rng.permutation(len(x))[:n])]))
    facts = {} if found is None else dict(found.facts)
    return {"n": n, "split": split, "features": features, "facts": facts, "rows": _named(rows)}


def _named(rows: dict[str, Any]) -> dict[str, Any]:
    return {
        name: {k: {"value": v, "interval": intervals.get(k)} for k, v in values.items()}
        for name, (values, intervals) in rows.items()
    }


def report(found: dict[str, Any]) -> None:
    """Print a row for each set."""
    print(
        f"{found['n']} of each against the {found['split']} split, {found['features']} {found['facts']}"
    )
    names = list(found["rows"][MODELS[0]])
    print(f"{'':<10}" + "".join(f"{name:>24}" for name in names))
    for label, row in found["rows"].items():
        cells = [_cell(row[name]) if name in row else "-" for name in names]
        print(f"{label:<10}" + "".join(f"{cell:>24}" for cell in cells))


def _cell(metric: dict[str, Any]) -> str:
    low, high = metric["interval"] or (np.nan, np.nan)
    return f"{metric['value']:.4f} ± {(high - low) / 2:.4f}"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "folder", type=Path, help="what gpu.py wrote to, with the samples of its stage f"
    )
    parser.add_argument(
        "--data", help="the images it trained on; by default Debian's Fashion-MNIST"
    )
    parser.add_argument("--features", default="classifier", help=f"a feature space, or '{DATA}'")
    parser.add_argument(
        "--split", choices=("test", "train"), default="test", help="held against it"
    )
    parser.add_argument("--n", type=int, default=10_000, help="of each at the most")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    split: Literal["test", "train"] = args.split
    with TemporaryDirectory() as folder:
        try:
            samples = {name: from_uint8(images.load(args.folder, name)) for name in MODELS}
            data = images.store(args.data, Path(folder))
            for name, x in samples.items():
                if x.shape[1:] != data.shape:
                    raise ValueError(f"{name}'s samples are {x.shape[1:]}, the data's {data.shape}")
            found = compare(samples, data, args.features, split, args.n)
        except (OSError, ValueError, ScmkitError) as error:
            print(f"gpu_samples.py: {error}", file=sys.stderr)
            return 1
    report(found)
    write(args.out, found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
