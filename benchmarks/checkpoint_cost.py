"""What share of training does saving a checkpoint once a minute take, and of which parts?

A save is timed whole; of it apart: SHA-256 of its files, and fsync, as the difference to a save without;
beside it the time that training waits for a save that goes on while it trains.
The state is that of Adam with an EMA: four arrays a parameter, in float32.
"""

import argparse
import hashlib
import os
import statistics
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
from common import write

from scmkit.runs import checkpoint
from scmkit.runs.saver import Saver

INTERVAL = 60.0
LEAVES = 40


def seconds(call) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def hash_all(path: Path) -> None:
    for file in path.rglob("*"):
        if file.is_file():
            with file.open("rb") as opened:
                hashlib.file_digest(opened, "sha256")


def measure(parameters: int, saves: int, folder: Path) -> dict[str, float]:
    each = parameters // LEAVES
    state = {str(i): jnp.full((4, each), 0.5, jnp.float32) for i in range(LEAVES)}
    jax.block_until_ready(state)
    whole, unsynced, hashed, held = [], [], [], []
    saver = Saver()
    real = os.fsync
    for number in range(1, saves + 1):
        whole.append(seconds(lambda n=number: checkpoint.save(folder, 2 * n - 1, state, keep=1)))
        hashed.append(seconds(lambda: hash_all(checkpoint.latest(folder))))
        held.append(seconds(lambda n=number: saver.save(folder, 2 * n - 1, state, keep=1)))
        saver.wait()
        os.fsync = lambda descriptor: None
        try:
            unsynced.append(seconds(lambda n=number: checkpoint.save(folder, 2 * n, state, keep=1)))
        finally:
            os.fsync = real
    save = statistics.median(whole)
    return {
        "parameters": parameters,
        "state_bytes": 16 * each * LEAVES,
        "save_seconds": save,
        "held_seconds_beside_training": statistics.median(held),
        "fsync_seconds": max(0.0, save - statistics.median(unsynced)),
        "sha256_seconds_one_thread": statistics.median(hashed),
        "share_at_60_s": save / (INTERVAL + save),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--parameters", type=int, nargs="+", default=[100_000, 1_000_000, 10_000_000, 100_000_000]
    )
    parser.add_argument("--saves", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="On the disk to measure.")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    rows = []
    for parameters in args.parameters:
        with tempfile.TemporaryDirectory(dir=args.folder) as folder:
            rows.append(measure(parameters, args.saves, Path(folder)))
        row = rows[-1]
        print(
            f"{parameters / 1e6:8.1f}M  {row['state_bytes'] / 2**20:8.1f} MiB  "
            f"save {row['save_seconds']:.3f} s  "
            f"held {row['held_seconds_beside_training']:.3f} s  fsync {row['fsync_seconds']:.3f} s  "
            f"sha256 {row['sha256_seconds_one_thread']:.3f} s  "
            f"{100 * row['share_at_60_s']:.2f} %"
        )
    write(args.out, {"interval_seconds": INTERVAL, "cpus": os.cpu_count(), "rows": rows})


if __name__ == "__main__":
    main()
