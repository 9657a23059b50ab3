"""Options of guidance, and the model they ask for."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scmkit.errors import UsageError

if TYPE_CHECKING:
    from scmkit import Run
    from scmkit.interfaces import AbstractModel

Guidance = Annotated[
    float | None,
    typer.Option(
        help="Guidance strength; 1 is none. Away from the prediction without a label, or from --guide.",
        show_default=False,
    ),
]
Guide = Annotated[
    Path | None,
    typer.Option(
        metavar="RUN", help="A weaker model to guide away from (autoguidance).", show_default=False
    ),
]
Interval = Annotated[
    str | None,
    typer.Option(
        metavar="LOW,HIGH",
        help="Noise-to-signal ratios between which guidance acts. Default: everywhere.",
        show_default=False,
    ),
]


def guided(
    run: "Run", strength: float | None, guide: Path | None, interval: str | None
) -> "AbstractModel":
    """The run's model, guided where the options ask for it; raises `UsageError`.

    A model that was distilled from guided teachers takes the strength as a condition.
    """
    from scmkit import Guided, Run
    from scmkit.arguments import as_strength
    from scmkit.models.guided import EVERYWHERE

    strength = None if strength is None else as_strength(strength)
    told = "guidance" in run.recipe.conditions
    if strength is None or told:
        extra = "--guide" if guide else "--guidance-interval" if interval else None
        if extra and told:
            raise UsageError(
                f"{extra}: '{run.path}' was distilled with guidance, give a strength only"
            )
        if extra:
            raise UsageError(f"{extra} needs a strength: add --guidance, such as --guidance 1.5")
        return run.model
    if run.recipe.makes != "diffusion":
        raise UsageError(
            f"--guidance: '{run.path}' is a {run.recipe.makes} model that is told no strength; guide a "
            "diffusion model, or distil one with scd and --set scd.guidance_range=1,2"
        )
    if guide is None and not run.recipe.data.num_classes:
        raise UsageError(
            f"--guidance: '{run.path}' has no classes to guide towards; name a weaker run with --guide"
        )
    bounds = EVERYWHERE if interval is None else _parsed(interval)
    weaker = None if guide is None else Run.load(guide).model
    return Guided(run.model, strength, guide=weaker, interval=bounds)


def _parsed(interval: str) -> tuple[float, float]:
    try:
        low, high = map(float, interval.split(","))
    except ValueError:
        low, high = 0.0, 0.0
    if not 0 <= low < high:
        raise UsageError(
            f"--guidance-interval {interval}: give two numbers, LOW,HIGH, such as 0.3,5"
        )
    return low, high
