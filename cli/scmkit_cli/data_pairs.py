"""`scmkit data pairs`: noise and the samples that a run makes of it, as data."""

from pathlib import Path
from typing import Annotated

import typer

from scmkit.bounds import LARGEST, LAST_SEED
from scmkit_cli.data_facts import describe, summary
from scmkit_cli.guidance import Guidance, Guide, Interval, guided
from scmkit_cli.options import Settings, options_of
from scmkit_cli.progress import counting
from scmkit_cli.terminal import say


def pairs(
    run: Annotated[Path, typer.Argument(help="The run's directory.")],
    dest: Annotated[Path, typer.Argument(help="The store to create. Nothing may be there yet.")],
    n: Annotated[
        int | None,
        typer.Option(
            "--n",
            min=1,
            max=LARGEST,
            help="Number of pairs. Default: as many as the run's data has training samples.",
            show_default=False,
        ),
    ] = None,
    sampler: Annotated[
        str | None,
        typer.Option(
            help="Sampler plugin, one without fresh noise. Default: what fits the kind of model, such as "
            "pf-ode.",
            show_default=False,
        ),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=LARGEST,
            help="Sampling steps. Default: what is usual of the sampler, such as 18.",
            show_default=False,
        ),
    ] = None,
    times: Annotated[
        int | None,
        typer.Option(
            min=2,
            max=LARGEST,
            help="Store trajectories of so many times, equal steps of the sampler's grid, the last of "
            "which is the sample; for dfno.",
            show_default=False,
        ),
    ] = None,
    guidance: Guidance = None,
    guide: Guide = None,
    guidance_interval: Interval = None,
    seed: Annotated[int, typer.Option(min=0, max=LAST_SEED, help="Seed of noise and labels.")] = 0,
    settings: Settings = None,
) -> None:
    """Draw pairs of noise and sample from RUN into a new store at DEST, for the coupling `stored`.

    Labels are drawn as the run's data has them, and the data's test split is copied into the store.
    """
    from dataclasses import asdict

    from scmkit import Run, Slot, dataset_of
    from scmkit.composing.build import build_free
    from scmkit.composing.entries import find
    from scmkit.composing.loading import load
    from scmkit.composing.slots import USUAL_SAMPLERS
    from scmkit.data.layout import PairsRecord
    from scmkit.data.writer import refuse_existing
    from scmkit.sampling import times_of, write_pairs
    from scmkit.settings import configure

    refuse_existing(dest)
    loaded = Run.load(run)
    recipe, dataset = loaded.recipe, dataset_of(loaded.recipe)
    sampler = sampler or USUAL_SAMPLERS[recipe.makes]
    named, recorded = recipe.recorded(sampler)
    options = {**recorded, **options_of(sampler, settings)}
    method = build_free(Slot.sampler, named, options)
    model, process = guided(loaded, guidance, guide, guidance_interval), recipe.slots[Slot.noise]
    taken = steps or int(method.usual_steps[0])
    record = PairsRecord(
        run=str(loaded.path.resolve()),
        step=loaded.step,
        digest=loaded.digest(),
        process=process,
        process_options=dict(recipe.plugins[process].config),
        noise_std=float(model.process.sigma(model.process.t_max)),
        sampler=sampler,
        sampler_options=asdict(configure(load(find(named)).config, options, sampler)),
        steps=taken,
        seed=seed,
        guidance=guidance,
        guide=None if guide is None else str(guide.resolve()),
        guidance_interval=guidance_interval,
        times=() if times is None else times_of(method, sampler, model, taken, times),
    )
    n = n or dataset.size("train")
    with counting("drawing") as counted:
        store = write_pairs(dest, model, recipe.data, dataset, n, method, record, progress=counted)
    say(f"{dest}: {summary(describe(store))}")
