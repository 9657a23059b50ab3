"""Stage e: what it costs that a step which is not finite changes nothing, as `guard.py` measures it."""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import guard
from steps import SHAPE, noise_store

from gpu_stages.worker import Context, Row


def rows(context: Context, network: str) -> Iterator[Row]:
    """With over without, by a network."""
    batch, rounds, seconds = (2, 1, 0.0) if context.rehearse else (64, 9, 1.0)
    settings = guard.NETWORKS[network]
    if context.rehearse:
        settings = {"dit.width": 32, "dit.depth": 2, "dit.heads": 2}
    with TemporaryDirectory() as folder:
        data = noise_store(Path(folder) / "store", SHAPE, 64)
        row = guard.measure(network, settings, data, batch, rounds, seconds)
    span = f"[{row['min']:.3f}, {row['max']:.3f}]"
    line = (
        f"{network}: with / without {row['ratio']:.3f} {span}, {row['without_ms']:.2f} ms without"
    )
    yield {"network": network, "batch": batch, **row, "line": line}
