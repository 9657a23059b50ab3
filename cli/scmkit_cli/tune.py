"""`scmkit tune`."""

from pathlib import Path
from typing import Annotated

import typer

from scmkit.bounds import LAST_SEED
from scmkit_cli.options import Settings, by_plugin, parse_settings
from scmkit_cli.streams import alone, print_json
from scmkit_cli.terminal import say


def tune(
    context: typer.Context,
    run: Annotated[Path, typer.Argument(help="The directory of a consistency model's run.")],
    steps: Annotated[int, typer.Option(min=2, help="Sampling steps.")] = 2,
    metric: Annotated[str, typer.Option(help="Metric plugin to search by.")] = "energy-distance",
    n: Annotated[int, typer.Option("--n", min=2, help="Samples per candidate.")] = 1000,
    seed: Annotated[int, typer.Option(min=0, max=LAST_SEED, help="Seed of noise and subsets.")] = 0,
    settings: Settings = None,
    as_json: Annotated[
        bool, typer.Option("--json", callback=alone, help="One JSON object.")
    ] = False,
) -> None:
    """Search the intermediate times of multistep consistency sampling.

    One time after the other, by golden-section search, against the training split: the test split stays for
    `scmkit eval`. Times are angles in radians, as for the option consistency.angles.
    """
    from dataclasses import asdict

    from scmkit import Run, search_angles

    loaded = Run.load(run)

    def progress(angles: tuple[float, ...], score: float) -> None:
        say(f"  {_shown(angles)}  {score:.5f}", err=True)

    found = search_angles(
        loaded,
        steps=steps,
        metric=metric,
        n=n,
        seed=seed,
        settings=by_plugin(parse_settings(settings)),
        progress=progress,
    )
    option = f"--set consistency.angles={','.join(map(str, found.angles))}"
    if as_json:
        print_json(context, {**asdict(found), "better": found.better, "option": option})
        return
    say(f"{'':<8}  {'angles':<20}  {metric} to the training split, fresh noise")
    say(f"{'default':<8}  {_shown(found.default):<20}  {found.default_score:.5f}")
    say(f"{'found':<8}  {_shown(found.angles):<20}  {found.score:.5f}")
    for angle, (low, high) in zip(found.angles, found.ties, strict=True):
        if low < high:
            say(
                f"{angle:.3f} is the middle of candidates that score alike, from {low:.3f} to {high:.3f}"
            )
    verdict = "better" if found.better else "no better than the default within its noise"
    say(f"gain {found.gain:.5f}, standard error {found.noise:.5f}: {verdict}")
    say(f"scmkit sample {run} --steps {steps} {option}")


def _shown(angles: tuple[float, ...]) -> str:
    return ", ".join(f"{a:.3f}" for a in angles)
