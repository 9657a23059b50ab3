"""`scmkit report`."""

from pathlib import Path
from typing import Annotated

import typer

from scmkit.bounds import LAST_SEED
from scmkit.errors import UsageError
from scmkit_cli.options import Features, Samples, counts
from scmkit_cli.terminal import say


def report(
    runs: Annotated[
        list[Path], typer.Argument(help="Runs to show side by side.", metavar="RUN...")
    ],
    out: Annotated[Path, typer.Option(help="The page, a .html.")] = Path("report.html"),
    steps: Annotated[
        str | None,
        typer.Option(
            metavar="1,2,...",
            help="Numbers of sampling steps of the runs. Default: 1,2,4 for a consistency model, else "
            "a quarter, half and all of its sampler's usual.",
            show_default=False,
        ),
    ] = None,
    n: Samples = None,
    features: Features = None,
    seed: Annotated[int, typer.Option(min=0, max=LAST_SEED, help="Seed of noise and subsets.")] = 0,
    metrics: Annotated[
        bool,
        typer.Option("--metrics/--no-metrics", help="Whether to measure, which takes longest."),
    ] = True,
) -> None:
    """Make one HTML page about runs: recipe, samples, trajectories, metrics, curves, neighbors.

    The page holds all it shows and fetches nothing. A teacher inside a run is shown beside it.
    """
    if out.suffix != ".html":
        raise UsageError(f"--out {out}: use a name that ends in .html")
    chosen = counts(steps)

    from scmkit.reporting import report as make
    from scmkit.storage.files import write_text

    page = make(
        runs,
        steps=chosen,
        n=n,
        features=features,
        seed=seed,
        metrics=metrics,
        progress=lambda line: say(line, err=True),
    )
    write_text(out, page)
    say(str(out))
