"""`scmkit bench`."""

from pathlib import Path
from typing import Annotated

import typer

from scmkit.errors import ScmkitError, UsageError
from scmkit_cli.options import Features, Metrics, Samples, Settings, counts, parse_settings
from scmkit_cli.tables import aligned
from scmkit_cli.terminal import say


def bench(
    method: Annotated[
        list[str],
        typer.Option(
            "--method",
            "-m",
            metavar="PLUGINS",
            help="Plugins of a method, joined by commas: trigflow,scd. Settings of it alone may follow: "
            "trigflow,scd,train.lr=1e-3. Repeatable.",
        ),
    ],
    data: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME|PATH",
            help="A data set. Default: digits. Repeatable.",
            show_default=False,
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Seeds 0, 1, ... of each training.")] = 3,
    steps: Annotated[
        int, typer.Option(min=1, help="Optimizer steps of every training, teachers' too.")
    ] = 2000,
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
    continues a bench that was stopped; what is finished is not done again. The table goes to stdout with the
    methods that a Gaussian fit equals below it; numbers, page and table to OUT/bench.json, .html and .md.
    """
    sampling = counts(eval_steps, "--eval-steps")
    strengths = _strengths(guidance)

    import dataclasses
    import shlex
    import sys

    from scmkit.composing.environment import environment
    from scmkit.evaluation import remarks
    from scmkit.reporting.trials import (
        Plan,
        Result,
        bench_page,
        markdown_of,
        summarise,
        table_of,
        verdicts,
    )
    from scmkit.reporting.trials import bench as run
    from scmkit.storage.containment import to_json
    from scmkit.storage.files import write_text

    plan = Plan(
        methods=method,
        data=data or ["digits"],
        seeds=seeds,
        steps=steps,
        batch_size=batch_size,
        settings=parse_settings(settings),
        sampling=sampling,
        metrics=metric,
        n=n,
        features=features,
        orders=order or (),
        guidance=strengths,
    )
    facts = environment(shlex.join(["scmkit", *sys.argv[1:]]))

    def write(results: list[Result]) -> None:
        content = {
            "environment": facts,
            "plan": dataclasses.asdict(plan),
            "table": [dataclasses.asdict(line) for line in summarise(results)],
            "results": [dataclasses.asdict(result) for result in results],
        }
        write_text(out / "bench.json", to_json(content, indent=1) + "\n")
        write_text(out / "bench.html", bench_page(plan, results, facts))
        parts = []
        for source in plan.data:
            mine = [line for line in summarise(results) if line.data == source]
            told = [f"- {line}" for line in verdicts(plan, results, source)]
            parts += [f"## {source}\n", markdown_of(mine), *told, ""] if mine else []
        write_text(out / "bench.md", "\n".join(parts))

    results = run(plan, out, progress=lambda line: say(line, err=True), finished=write)
    lines = summarise(results)
    for source in plan.data:
        mine = [line for line in lines if line.data == source]
        if mine:
            say(source)
            for row in aligned(table_of(mine)):
                say(row)
            for line in verdicts(plan, results, source):
                say(line)
            for line in remarks([row for r in results if r.cell.data == source for row in r.rows]):
                say(line)
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
