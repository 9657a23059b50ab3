"""`scmkit likelihood`."""

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from scmkit.bounds import LAST_SEED
from scmkit_cli.streams import alone, print_json
from scmkit_cli.terminal import say


def likelihood(
    context: typer.Context,
    run: Annotated[Path, typer.Argument(help="The run's directory: a diffusion model.")],
    n: Annotated[
        int | None,
        typer.Option("--n", min=2, help="Samples. Default: the whole split.", show_default=False),
    ] = None,
    trace: Annotated[
        Literal["exact", "hutchinson"],
        typer.Option(
            help="The Jacobian's trace: exact, at one product per dimension, or Hutchinson's estimate."
        ),
    ] = "exact",
    probes: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Random vectors of Hutchinson's estimate, for each sample. Default: 8.",
            show_default=False,
        ),
    ] = None,
    rtol: Annotated[float, typer.Option(min=1e-9, help="Relative tolerance of the ODE.")] = 1e-5,
    atol: Annotated[float, typer.Option(min=1e-9, help="Absolute tolerance of the ODE.")] = 1e-5,
    ratio_min: Annotated[
        float | None,
        typer.Option(
            min=1e-5,
            help="Noise-to-signal ratio at which the density is taken.  "
            "Default: that of the dequantization noise, else 0.002.",
            show_default=False,
        ),
    ] = None,
    split: Annotated[
        Literal["train", "test"], typer.Option(help="The split to take samples from.")
    ] = "test",
    seed: Annotated[
        int, typer.Option(min=0, max=LAST_SEED, help="Seed of subset, dequantization and probes.")
    ] = 0,
    as_json: Annotated[
        bool, typer.Option("--json", callback=alone, help="One JSON object.")
    ] = False,
) -> None:
    """Bits per dimension of a split under a diffusion model; smaller is better.

    The log density is integrated along the probability-flow ODE. Discrete data, such as 8-bit images, is
    dequantized by uniform noise, and the figure is an upper bound on its code length; for continuous
    data it is a density in the data's units, which may be negative. Where the data has classes, the
    density is that given the class.
    """
    from scmkit import Run, bits_per_dimension, dataset_of
    from scmkit.errors import UsageError

    if trace == "exact" and probes is not None:
        raise UsageError(f"--probes {probes} are Hutchinson's: add --trace hutchinson")
    count = None if trace == "exact" else probes or 8
    loaded = Run.load(run)
    _ = loaded.diffusion_model
    total = dataset_of(loaded.recipe).size(split)
    size = total if n is None else min(n, total)
    with typer.progressbar(length=size, label="likelihood", file=sys.stderr) as bar:
        found = bits_per_dimension(
            loaded,
            split=split,
            n=size,
            probes=count,
            rtol=rtol,
            atol=atol,
            ratio_min=ratio_min,
            seed=seed,
            done=bar.update,
        )
    low, high = found.interval
    if as_json:
        values = {
            "bits_per_dimension": found.mean,
            "interval": [low, high],
            "n": len(found.bits),
            "split": split,
            "trace": trace,
            "probes": count,
            "nfe": float(found.nfe.mean()),
            "levels": found.levels,
            "dequantisation": found.dequantization,
            "ratio_min": found.ratio_min,
            "given_labels": found.given_labels,
            "each": found.bits.tolist(),
        }
        print_json(context, values)
        return
    given = ", given their class" if found.given_labels else ""
    method = trace if count is None else f"{trace}, {count} probe{'s' if count > 1 else ''}"
    say(f"bits/dim        {found.mean:.4f}  (95% interval {low:.4f} to {high:.4f})")
    say(f"samples         {len(found.bits)} of the {split} split{given}")
    say(f"dequantization  {found.dequantization}")
    say(f"density         at the noise-to-signal ratio {found.ratio_min:.4g}")
    say(f"trace           {method}")
    say(f"NFE             {found.nfe.mean():.1f}")
