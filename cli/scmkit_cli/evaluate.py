"""`scmkit eval`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from scmkit.errors import UsageError
from scmkit_cli.guidance import Guidance, Guide, Interval, guided
from scmkit_cli.options import Settings, by_plugin, parse_settings


def evaluate(
    run: Annotated[Path, typer.Argument(help="The run's directory.")],
    steps: Annotated[
        str | None,
        typer.Option(
            metavar="1,2,...",
            help="Numbers of sampling steps.  [default: 1,2 for a consistency model, else 18]",
            show_default=False,
        ),
    ] = None,
    sampler: Annotated[
        str | None,
        typer.Option(
            help="Sampler plugin.  [default: what fits the run's loss]", show_default=False
        ),
    ] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(
            help="Metric plugin.  [default: all that apply] Repeatable.", show_default=False
        ),
    ] = None,
    n: Annotated[
        int | None,
        typer.Option(
            "--n",
            min=2,
            help="Samples per row.  [default: as many as the test split]",
            show_default=False,
        ),
    ] = None,
    guidance: Guidance = None,
    guide: Guide = None,
    guidance_interval: Interval = None,
    seed: Annotated[int, typer.Option(help="Seed of noise and subsets.")] = 0,
    settings: Settings = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a row.")] = False,
) -> None:
    """Hold a run's samples against the test split; smaller is better.

    The first rows are real training data, which a perfect model would match, and a Gaussian fitted to the
    training data, which a briefly trained model often loses to. In brackets: multiples of the real row.
    """
    from scmkit import Run
    from scmkit import evaluate as measure
    from scmkit.evaluation import METRICS, REAL

    loaded = Run.load(run)
    try:
        counts = tuple(int(s) for s in steps.split(",")) if steps else None
    except ValueError:
        counts = (0,)
    if counts is not None and not all(c > 0 for c in counts):
        raise UsageError(f"--steps {steps}: give positive whole numbers, such as 1,2")
    rows = measure(
        loaded,
        steps=counts,
        sampler=sampler,
        metrics=metric or METRICS,
        n=n,
        seed=seed,
        settings=by_plugin(parse_settings(settings)),
        model=guided(loaded, guidance, guide, guidance_interval),
        guidance=guidance,
    )
    if as_json:
        for row in rows:
            typer.echo(json.dumps({"name": row.name, "nfe": row.nfe, **row.metrics}))
        return
    real = next((r.metrics for r in rows if r.name == REAL), {})
    names = list(dict.fromkeys(k for r in rows for k in r.metrics))
    table = [["", "NFE", *names]]
    for row in rows:
        cells = []
        for name in names:
            value = row.metrics.get(name)
            ratio = f" ({value / real[name]:.2f}x)" if value is not None and real.get(name) else ""
            cells.append("" if value is None else f"{value:.4f}{ratio}")
        table.append([row.name, "" if row.nfe is None else f"{row.nfe:g}", *cells])
    widths = [max(len(line[i]) for line in table) for i in range(len(table[0]))]
    for line in table:
        typer.echo("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip())
