"""Stage d: a whole sCM step over a diffusion step of one network, in time, memory and operations."""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import jax
from steps import Contestant, compare, noise_store

from gpu_stages.worker import Context, Row


class Network(NamedTuple):
    """A network of a usual size, and the same in tiny for the rehearsal."""

    plugin: str
    shape: tuple[int, ...]
    batch: int
    settings: dict[str, Any]
    tiny_shape: tuple[int, ...]
    tiny: dict[str, Any]


DIT = {"dit.preset": "none", "dit.width": 32, "dit.depth": 2, "dit.heads": 2}
UNET = {"unet.channels": 8, "unet.blocks": 1, "unet.head_dim": 8, "unet.embedding_dim": 16}
UNET |= {"unet.multipliers": (1,)}
EDM2 = {"edm2.channels": 8, "edm2.head_dim": 8, "edm2.multipliers": (1,), "edm2.blocks": 1}


def dit(preset: str, side: int, batch: int) -> Network:
    """A transformer over patches of 2 x 2 of a latent."""
    return Network("dit", (4, side, side), batch, {"dit.preset": preset}, (4, 8, 8), DIT)


NETWORKS = {
    "dit S/2": dit("S", 32, 128),
    "dit B/2": dit("B", 32, 64),
    "dit B/2, 1024 tokens": dit("B", 64, 16),
    "dit B/2, 4096 tokens": dit("B", 128, 4),
    "unet": Network(
        "unet",
        (3, 32, 32),
        128,
        {
            "unet.channels": 128,
            "unet.blocks": 2,
            "unet.embedding_dim": 512,
            "unet.head_dim": 64,
            "unet.attention_resolutions": (16, 8),
        },
        (3, 8, 8),
        UNET,
    ),
    "edm2 xs": Network("edm2", (3, 64, 64), 32, {"edm2.preset": "xs"}, (3, 8, 8), EDM2),
}


def rows(context: Context, network: str, precision: str, attention: str) -> Iterator[Row]:
    """Memory and operations of both steps, then their times in turn."""
    chosen = NETWORKS[network]
    shape, batch, settings = chosen.shape, chosen.batch, dict(chosen.settings)
    rounds, seconds = 5, 1.5
    if context.rehearse:
        shape, batch, settings, rounds, seconds = chosen.tiny_shape, 2, chosen.tiny, 1, 0.0
    settings["train.precision"] = precision
    device = jax.local_devices()[0]
    row: Row = {"network": network, "precision": precision, "attention": attention, "batch": batch}
    with TemporaryDirectory() as folder:
        data = noise_store(Path(folder) / "store", shape, 16)
        pair: dict[str, Contestant] = {}
        for name, loss in (("diffusion", "diffusion"), ("scm", "sct")):
            plugins = ["trigflow", loss, chosen.plugin, attention]
            pair[name] = Contestant(plugins, data, shape, batch, settings)
            row[f"{name}_planned_mib"] = pair[name].planned_bytes / 2**20
            row[f"{name}_gflop"] = pair[name].flops() / 1e9
            yield {**row, "compiled": name}
    others = {"scm": _held(pair["diffusion"]), "diffusion": _held(pair["scm"])}
    # The allocator's peak never goes down, so the smaller step comes first; of one that does not raise it
    # nothing is known but what was planned.
    before = (device.memory_stats() or {}).get("peak_bytes_in_use", 0)
    for name, contestant in pair.items():
        contestant.run(0)
        peak = (device.memory_stats() or {}).get("peak_bytes_in_use", 0)
        row[f"{name}_peak_mib"] = (peak - others[name]) / 2**20 if peak > before else None
        before = peak
    row |= compare(pair["diffusion"], pair["scm"], rounds, seconds)
    row["scm_ms"] = row["diffusion_ms"] * row["ratio"]
    ceiling = context.ceilings.get(precision)
    for name in pair:
        row[f"{name}_tflops"] = row[f"{name}_gflop"] / row[f"{name}_ms"]
        if ceiling is not None:
            row[f"{name}_percent"] = 100 * row[f"{name}_tflops"] / ceiling
    yield row | {"line": _line(row)}


def _held(contestant: Contestant) -> int:
    """Bytes of a contestant's state, which lie there while the other one runs."""
    leaves = jax.tree.leaves(contestant.state)
    return sum(leaf.nbytes for leaf in leaves if isinstance(leaf, jax.Array))


def _line(row: Row) -> str:
    percents = [row.get(f"{name}_percent") for name in ("diffusion", "scm")]
    of = "" if None in percents else f", {percents[0]:.0f}% and {percents[1]:.0f}% of the ceiling"
    return (
        f"{row['network']}, {row['precision']}, {row['attention']}: sCM / diffusion {row['ratio']:.3f} "
        f"[{row['min']:.2f}, {row['max']:.2f}], {row['diffusion_ms']:.1f} and {row['scm_ms']:.1f} ms, "
        f"{row['diffusion_planned_mib']:.0f} and {row['scm_planned_mib']:.0f} MiB{of}"
    )
