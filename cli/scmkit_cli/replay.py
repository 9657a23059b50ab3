"""`scmkit replay`."""

import math
from pathlib import Path
from typing import Annotated

import typer

from scmkit_cli.terminal import say


def replay(
    run: Annotated[Path, typer.Argument(help="The run's directory.")],
    step: Annotated[
        int | None, typer.Option(help="The faulty step. Default: the newest.", show_default=False)
    ] = None,
) -> None:
    """Evaluate the batch again whose loss or gradient was not finite, and name the samples."""
    from scmkit.training.faults import replay

    fault = replay(run, step)
    values = f"loss {fault.loss:g}, gradient norm {fault.grad_norm:g}"
    say(f"step {fault.step}: {values}; the first that is not finite: {fault.cause}")
    say(f"{len(fault.culprits)} of {len(fault.samples)} samples are not finite")
    for sample in fault.culprits:
        bad = [f"{n} {v:g}" for n, v in sample["parts"].items() if not math.isfinite(v)]
        label = "" if sample["label"] is None else f", label {sample['label']}"
        say(
            f"  sample {sample['index']}{label}: t {sample['time']:.6g}, "
            f"sigma/alpha {sample['ratio']:.6g}: {', '.join(bad)}"
        )
