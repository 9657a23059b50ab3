"""What would sCD of EDM2's sizes and of DiT-XL/2 take on H100s? The figures of docs/plans.md.

    python benchmarks/plans.py --out benchmarks/results/plans.json [--only edm2-xxl] [--table]

Each plan is a command of its own. With `--only` those whose names begin so are planned anew, the others kept;
`--table` prints those that there are, and plans none.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common import write

EDM2 = ("examples/edm2_scd.toml", "--shape", "4,64,64", "--classes", "1000")
DIT = ("examples/dit_scd.toml", "--shape", "4,32,32", "--classes", "1000")

PASSES = 4
"""How often a step of sCD runs through a network's activations: the teacher's, the student's with its
tangent, and back."""


def commands() -> dict[str, tuple[str, ...]]:
    """The arguments of `scmkit plan` by the name of the plan."""
    found = {}
    for preset in ("s", "m", "l", "xl", "xxl"):
        size = (*EDM2, "--set", f"edm2.preset={preset}", "--devices", "256")
        found[f"edm2-{preset} data=32,fsdp=8"] = (*size, "--mesh", "data=32,fsdp=8")
    found["dit-xl data=32,fsdp=8"] = (*DIT, "--devices", "256", "--mesh", "data=32,fsdp=8")
    found["dit-xl data=256"] = (*DIT, "--devices", "256")
    found["edm2-xxl data=256"] = (*EDM2, "--set", "edm2.preset=xxl", "--devices", "256")
    wide = (*EDM2, "--set", "edm2.preset=xxl", "--devices", "256", "--mesh", "data=4,fsdp=64")
    found["edm2-xxl data=4,fsdp=64"] = wide
    found["edm2-s data=256"] = (*EDM2, "--devices", "256")
    found["edm2-s on 8"] = (*EDM2, "--devices", "8")
    found["edm2-s on 8, accumulate=4"] = (*found["edm2-s on 8"], "--set", "train.accumulate=4")
    return found


def summed(name: str) -> float:
    """The bytes of activations, in bfloat16, that tensor parallelism would sum in a step for every sample.

    One sum for each pair of layers, of which the first is divided by its outputs and the second by its
    inputs: two in a block of `dit`, one in a block of `edm2` and one more where it attends.
    """
    import equinox as eqx
    import jax.random as jr

    from scmkit import compose
    from scmkit.composing.build import build_model
    from scmkit.interfaces import DataSpec

    kind, _, preset = name.partition(" ")[0].partition("-")
    side = 64 if kind == "edm2" else 32
    data = DataSpec("none", (4, side, side), 1000, (0.0,) * 4, (1.0,) * 4)
    options = {f"{kind}.preset": preset if kind == "edm2" else preset.upper()}
    recipe = compose(["trigflow", "diffusion", kind], options, data=data)
    network: Any = eqx.filter_eval_shape(build_model, recipe, key=jr.key(0)).network
    if kind == "dit":
        depth, width = network.blocks.out.weight.shape[:2]
        values = 2 * depth * (side // 2) ** 2 * width
    else:
        values = 0
        for block in (*network.encoder, *network.decoder):
            side = {"down": side // 2, "up": side * 2}.get(block.resample, side)
            sums = 1 if block.attention is None else 2
            values += sums * side**2 * block.conv1.weight.shape[-1]
    return 2.0 * PASSES * values


def table(results: dict[str, Any]) -> Iterator[str]:
    """The plans as rows of Markdown."""
    yield (
        "| plan | parameters | memory: state + temporary | TFLOP | products + update, ms | passing, ms | "
        "images/s | device-hours | planned in |"
    )
    yield "| --- | --- | --- | --- | --- | --- | --- | --- | --- |"
    for name in commands():
        if (one := results.get(name)) is None:
            continue
        state = sum(one["memory"]["lasting"].values())
        computing = one["multiplying_seconds"] + one["updating_seconds"]
        (fast, slow), (least, most) = one["images_per_second"], one["device_hours"]
        fits = "" if one["fits"] else ", too much"
        yield (
            f"| {name} | {one['parameters']['generator'] / 1e6:,.0f}M "
            f"| {state / 1e9:.1f} + {one['memory']['temporary'] / 1e9:.1f} GB{fits} "
            f"| {one['flops'] / 1e12:.1f} | {1000 * computing:.1f} | {1000 * one['passing_seconds']:.1f} "
            f"| {slow:,.0f} to {fast:,.0f} | {least:,.0f} to {most:,.0f} | {one['seconds']:.0f} s |"
        )


def tensor_table(results: dict[str, Any]) -> Iterator[str]:
    """What tensor parallelism over the eight devices of a node would pass in the place of whole weights."""
    from scmkit.planning import TARGETS

    yield "| network | whole weights | sum activations instead | equal at | all at data=256 |"
    yield "| --- | --- | --- | --- | --- |"
    for name, one in results.items():
        network, _, mesh = name.partition(" ")
        whole = results.get(f"{network} data=256")
        if mesh != "data=32,fsdp=8":
            continue
        weights = sum(
            passed["seconds"]
            for passed in one["collectives"]
            if passed["kind"] in ("all-gather", "reduce-scatter")
        )
        a_sample = 8 * one["summed_bytes_per_sample"] * 2 * 7 / 8 / TARGETS[one["target"]].near
        samples = one["batch_size"] // 256
        plain = f"{1000 * whole['passing_seconds']:.1f} ms" if whole else ""
        yield (
            f"| {network} | {1000 * weights:.1f} ms | {1000 * samples * a_sample:.1f} ms "
            f"| {weights / a_sample:.1f} samples a device | {plain} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--only", default="")
    parser.add_argument("--table", action="store_true")
    args = parser.parse_args()
    results: dict[str, Any] = {}
    if args.out is not None and args.out.exists():
        results = json.loads(args.out.read_text())["results"]
    for name, given in commands().items():
        if args.table or not name.startswith(args.only):
            continue
        print(name, flush=True)
        start = time.perf_counter()
        command = [sys.executable, "-c", "from scmkit_cli.main import main; main()", "plan", *given]
        done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True)
        seconds = time.perf_counter() - start
        results[name] = {
            "command": " ".join(["scmkit", "plan", *given]),
            "seconds": seconds,
            "summed_bytes_per_sample": summed(name),
            **json.loads(done.stdout),
        }
        write(args.out, results)
    for line in (*table(results), "", *tensor_table(results)):
        print(line)


if __name__ == "__main__":
    main()
