"""What it costs that a step with a loss or gradient that is not finite changes nothing: with over without.

Whole sCM steps as `scmkit.training.step` compiles them, with loss weighting, optimizer and EMA, on random
28x28 images, in turn in one process. The baseline is the same code compiled with every number taken for
finite, so that XLA removes the selection; that none is left is checked in the compiled program. Pin it:

    taskset -c 0 python benchmarks/guard.py --out benchmarks/results/guard.json
"""

import argparse
import re
import statistics
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
from common import write
from jaxtyping import Array
from steps import SHAPE, Contestant, noise_store

NETWORKS: dict[str, dict[str, Any]] = {
    "dit": {"dit.width": 128, "dit.depth": 4},
    "unet": {"unet.channels": 16},
}


def all_finite(x: Array) -> Array:
    return jnp.ones_like(x, bool)


def selections(contestant: Contestant) -> int:
    """How many selections of the compiled program come from the step itself, those of the state."""
    text = contestant.step.compiled.as_text()
    names = dict(re.findall(r'^(\d+) "(.*)"$', text.partition("FunctionNames")[2], re.M))
    located = re.findall(r"^(\d+) \{file_name_id=\d+ function_name_id=(\d+)", text, re.M)
    places = {place: names[function] for place, function in located}
    framed = re.findall(r"^(\d+) \{file_location_id=(\d+)", text, re.M)
    frames = {frame: places[place] for frame, place in framed}
    used = re.findall(r" select\(.* stack_frame_id=(\d+)", text)
    assert used, "the compiled program does not say where its operations come from"
    return sum(frames[frame].startswith("make_step.<locals>.step") for frame in used)


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
            given = (["trigflow", "sct", network], data, SHAPE, args.batch, settings)
            with mock.patch.object(jnp, "isfinite", all_finite):
                without = Contestant(*given)
            jax.clear_caches()
            guarded = Contestant(*given)
            left, there = selections(without), selections(guarded)
            assert left == 0 < there, f"{left} selections without the guard, {there} with it"
            assert "is-finite" not in without.step.compiled.as_text()
            # Either goes first in half of the rounds: what drifts within a round favours neither.
            pairs = []
            for i in range(args.rounds):
                order = (without, guarded) if i % 2 else (guarded, without)
                times = {id(c): c.run(args.seconds) for c in order}
                pairs.append((times[id(without)], times[id(guarded)]))
            ratios = [b / a for a, b in pairs]
            results[network] = row = {
                "ratio": statistics.median(ratios),
                "min": min(ratios),
                "max": max(ratios),
                "without_ms": 1e3 * statistics.median(a for a, _ in pairs),
                "selections": there,
            }
            print(
                f"{network:<6} with / without {row['ratio']:.3f} [{row['min']:.3f}, "
                f"{row['max']:.3f}], {row['without_ms']:.1f} ms without"
            )
    write(args.out, results)


if __name__ == "__main__":
    main()
