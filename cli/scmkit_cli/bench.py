"""`scmkit bench`."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from scmkit.errors import ScmkitError, UsageError
from scmkit_cli.options import Features, Metrics, Samples, Settings, counts, parse_settings
from scmkit_cli.terminal import say


def bench(
    method: Annotated[
        list[str] | None,
        typer.Option(
            "--method",
            "-m",
            metavar="PLUGINS",
            help="Plugins of a method, joined by commas: trigflow,scd. Settings of it alone may follow: "
            "trigflow,scd,train.lr=1e-3. Repeatable.",
            show_default=False,
        ),
    ] = None,
    table: Annotated[
        Literal["one", "two"] | None,
        typer.Option(
            help="Methods, data, budget and metrics of a table of the sCM paper, and its form: one has every "
            "installed method, two the teacher, sct and scd in three sizes. Other options win over it.",
            show_default=False,
        ),
    ] = None,
    curve: Annotated[
        bool,
        typer.Option(
            "--curve",
            help="Draw the first metric over 1, 2, 4 and 8 steps, or --eval-steps, to OUT/curve.png.",
        ),
    ] = False,
    data: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME|PATH",
            help="A data set. Default: digits. Repeatable.",
            show_default=False,
        ),
    ] = None,
    seeds: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Seeds 0, 1, ... of each training and its samples, over which intervals are. Default: 3.",
            show_default=False,
        ),
    ] = None,
    sampling_seeds: Annotated[
        int, typer.Option(min=1, help="Sampling seeds that values of one training are means of.")
    ] = 1,
    steps: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Optimizer steps of every training, teachers' too. Default: 2000.",
            show_default=False,
        ),
    ] = None,
    batch_size: Annotated[int | None, typer.Option(help="Samples per optimizer step.")] = None,
    settings: Settings = None,
    eval_steps: Annotated[
        str | None,
        typer.Option(
            metavar="1,2,...",
            help="Numbers of sampling steps. Default: what is usual of the sampler.",
            show_default=False,
        ),
    ] = None,
    guidance: Annotated[
        str | None,
        typer.Option(
            metavar="1,1.5,...",
            help="Strengths of guidance at which every method is sampled; 1 is none. A distilled model is "
            "told it, if trained so: --set scd.guidance_range=1,3.",
            show_default=False,
        ),
    ] = None,
    metric: Metrics = None,
    n: Samples = None,
    features: Features = None,
    order: Annotated[
        list[str] | None,
        typer.Option(
            metavar="A>B>...",
            help="A claim: the first metric falls from method to method, such as 'ct>ict>ect', or one that "
            "is named: 'scd>vsd in recall'. It is judged pair by pair, seed by seed. Repeatable.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Directory of runs, bench.json and bench.html.")] = Path(
        "bench"
    ),
) -> None:
    """Train methods on data sets over seeds under one budget, and compare them.

    A teacher that a method needs is trained once for each data set and seed, and shared. The same command
    continues a bench that was stopped; what is finished is not done again, and metrics and numbers of steps
    that are new are measured on finished runs. The table goes to stdout with the methods that a Gaussian fit
    equals below it; numbers, page and table to OUT/bench.json, .html and .md.

    Example: scmkit bench --table one -m trigflow,diffusion -m trigflow,scd --seeds 1
    """
    sampling = counts(eval_steps, "--eval-steps")
    strengths = _strengths(guidance)

    if not method and table is None:
        raise UsageError("name a method, such as -m trigflow,scd, or a table, such as --table one")
    pyplot = _pyplot() if curve else None

    import dataclasses
    import shlex
    import sys

    from scmkit.composing.environment import environment
    from scmkit.reporting.trials import PRESETS, USUAL, Plan, Setting, setting
    from scmkit.reporting.trials import bench as run
    from scmkit_cli.bench_files import View, results_left

    given = {
        "methods": method,
        "data": data,
        "seeds": seeds,
        "steps": steps,
        "batch_size": batch_size,
        "sampling": None if curve else sampling,
        "metrics": metric,
        "n": n,
        "features": features,
        "orders": order,
        "guidance": strengths,
        "curve": (sampling or USUAL) if curve else None,
    }
    plan = dataclasses.replace(
        Plan(()) if table is None else PRESETS[table],
        settings=parse_settings(settings),
        sampling_seeds=sampling_seeds,
        **{name: value for name, value in given.items() if value is not None},
    )
    chosen = Setting(plan, {}, {}) if table is None else setting(table, plan)
    facts = environment(shlex.join(["scmkit", *sys.argv[1:]]))
    view = View(out, chosen, table, facts, pyplot, results_left(out))
    results = run(chosen.plan, out, progress=lambda line: say(line, err=True), finished=view.update)
    view.write(results)
    view.tell(results)
    view.draw(results)
    say(f"page            {out / 'bench.html'}", err=True)
    failed = [r for r in results if r.error is not None]
    if failed:
        first = failed[0]
        raise ScmkitError(
            f"{len(failed)} of {len(results)} runs failed; {first.cell.path}: {first.error}"
        )


def _strengths(given: str | None) -> tuple[float, ...] | None:
    """`"1,1.5"` as `(1.0, 1.5)`; raises `UsageError` for anything but different numbers."""
    if given is None:
        return None
    try:
        strengths = tuple(map(float, given.split(",")))
    except ValueError:
        strengths = ()
    if not strengths or len(set(strengths)) < len(strengths):
        raise UsageError(f"--guidance {given}: give different strengths, such as 1,1.5,2")
    return strengths


def _pyplot() -> Any:
    try:
        import matplotlib as mpl
    except ImportError:
        raise UsageError("--curve draws with matplotlib: pip install 'scmkit[plots]'") from None
    mpl.use("agg")
    from matplotlib import pyplot

    return pyplot
