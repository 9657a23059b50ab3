"""`scmkit eval`."""

from pathlib import Path
from typing import Annotated

import typer

from scmkit.bounds import LAST_SEED
from scmkit.errors import UsageError
from scmkit_cli.guidance import Guidance, Guide, Interval, guided
from scmkit_cli.options import (
    Features,
    Metrics,
    Samples,
    Settings,
    by_plugin,
    counts,
    parse_settings,
)
from scmkit_cli.streams import alone, print_json
from scmkit_cli.terminal import say


def evaluate(
    context: typer.Context,
    run: Annotated[Path, typer.Argument(help="The run's directory.")],
    steps: Annotated[
        str | None,
        typer.Option(
            metavar="1,2,...",
            help="Numbers of sampling steps. Default: what is usual of the sampler, such as 1,2.",
            show_default=False,
        ),
    ] = None,
    sampler: Annotated[
        str | None,
        typer.Option(help="Sampler plugin. Default: what fits the run's loss.", show_default=False),
    ] = None,
    metric: Metrics = None,
    n: Samples = None,
    features: Features = None,
    split: Annotated[
        str, typer.Option(metavar="test|train", help="What samples are held against.")
    ] = "test",
    resamples: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="One sampling seed, with so many resamples behind the 95% intervals; 0 for no intervals.",
            show_default=False,
        ),
    ] = None,
    seeds: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Sampling seeds that values are means of, with 95% intervals (Student's t); of one the "
            "intervals are by 20 resamples. Default: 4.",
            show_default=False,
        ),
    ] = None,
    calibrate: Annotated[
        bool,
        typer.Option(
            "--calibrate",
            help="Add rows of known corruptions of real data: noise, blur (of images), few samples "
            "repeated, uniform noise.",
        ),
    ] = False,
    guidance: Guidance = None,
    guide: Guide = None,
    guidance_interval: Interval = None,
    seed: Annotated[int, typer.Option(min=0, max=LAST_SEED, help="Seed of noise and subsets.")] = 0,
    settings: Settings = None,
    as_json: Annotated[
        bool, typer.Option("--json", callback=alone, help="One JSON object a row.")
    ] = False,
) -> None:
    """Hold a run's samples against the test split; smaller is better, except where an arrow points up.

    The first rows are real data, random splits of it, which a perfect model would match, and a Gaussian
    fitted to the training data, which a briefly trained model often loses to in data space. Images with
    classes are compared in the features of a classifier of them, other data as it is. Values are means over
    sampling seeds, with the half width of their 95% confidence interval and, in brackets, as multiples of the
    real row's, where that is not within noise of 0.

    Example: scmkit eval runs/NAME --steps 1,2 --n 500
    """
    from scmkit import Run
    from scmkit import evaluate as measure
    from scmkit.evaluation import RESAMPLES, SEEDS
    from scmkit_cli.scores import Drawing, chosen_features, lines, record

    loaded = Run.load(run)
    chosen = counts(steps)
    if split not in ("test", "train"):
        raise UsageError(f"--split {split}: there are test and train")
    if resamples is not None and (seeds or 1) > 1:
        raise UsageError(
            f"--resamples {resamples}: intervals of {seeds} seeds are over the seeds; leave one out"
        )
    with Drawing() as progress:
        rows = measure(
            loaded,
            steps=chosen,
            sampler=sampler,
            metrics=metric,
            n=n,
            seed=seed,
            seeds=seeds or (SEEDS if resamples is None else 1),
            settings=by_plugin(parse_settings(settings)),
            model=guided(loaded, guidance, guide, guidance_interval),
            guidance=guidance,
            features=features,
            resamples=RESAMPLES if resamples is None else resamples,
            split=split,
            calibrate=calibrate,
            progress=progress,
        )
    if loaded.recipe.data.digest is None:
        source = loaded.recipe.data.source
        say(
            f"run '{run}' has no digest of its data: whether '{source}' is what it was trained on cannot be "
            "told",
            err=True,
        )
    if features is None:
        chosen_features(rows)
    if as_json:
        for row in rows:
            print_json(context, record(row))
        return
    for line in lines(rows):
        say(line)
    if calibrate and len(loaded.recipe.data.shape) != 3:
        say("no rows of blur: it is of images, and these are vectors")
