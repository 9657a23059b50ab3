"""What it costs that a step with a loss or gradient that is not finite changes nothing: with over without.

Whole sCM steps as `scmkit.training.guarded` compiles them, with loss weighting, optimizer and EMA, on random
28x28 images, in turn in one process. The baseline is the same code that always advances. A batch is
small by default, which makes the share of the update large. Pin it:

    taskset -c 0 python benchmarks/guard.py --out benchmarks/results/guard.json
"""

import argparse
import statistics
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

import jax
from common import write
from jaxtyping import Array
from steps import SHAPE, Contestant, noise_store

from scmkit.training import guarded
from scmkit.training.state import TrainState

NETWORKS: dict[str, dict[str, Any]] = {
    "dit": {"dit.width": 128, "dit.depth": 4},
    "unet": {"unet.channels": 16},
}


def always(
    hold: Array, update: Callable[[TrainState], TrainState], state: TrainState
) -> TrainState:
    return update(state)


def copies(contestant: Contestant) -> int:
    """How many arrays the compiled program copies; the guard should add none."""
    return contestant.step.compiled.as_text().count(" copy(")


def measure(
    network: str, settings: dict[str, Any], data: Path, batch: int, rounds: int, seconds: float
) -> dict[str, Any]:
    """Both steps of one network, in turn."""
    given = (["trigflow", "sct", network], data, SHAPE, batch, settings)
    with mock.patch.object(guarded, "unless", always):
        without = Contestant(*given)
    jax.clear_caches()
    with_guard = Contestant(*given)
    assert without.step.compiled.as_text() != with_guard.step.compiled.as_text()
    # Either goes first in half of the rounds: what drifts within a round favours neither.
    pairs = []
    for i in range(rounds):
        order = (without, with_guard) if i % 2 else (with_guard, without)
        times = {id(c): c.run(seconds) for c in order}
        pairs.append((times[id(without)], times[id(with_guard)]))
    ratios = [b / a for a, b in pairs]
    return {
        "ratio": statistics.median(ratios),
        "min": min(ratios),
        "max": max(ratios),
        "without_ms": 1e3 * statistics.median(a for a, _ in pairs),
        "copies": [copies(without), copies(with_guard)],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=1.0, help="CPU seconds per block")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    results = {}
    with TemporaryDirectory() as folder:
        data = noise_store(Path(folder) / "store", SHAPE, 64)
        for network, settings in NETWORKS.items():
            row = measure(network, settings, data, args.batch, args.rounds, args.seconds)
            results[network] = row
            print(
                f"{network:<6} with / without {row['ratio']:.3f} [{row['min']:.3f}, "
                f"{row['max']:.3f}], {row['without_ms']:.1f} ms without"
            )
    write(args.out, results)


if __name__ == "__main__":
    main()
