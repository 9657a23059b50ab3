"""`scmkit sample`."""

from pathlib import Path
from typing import Annotated

import typer

from scmkit.bounds import LARGEST, LAST_SEED
from scmkit.errors import UsageError
from scmkit_cli.guidance import Guidance, Guide, Interval, guided
from scmkit_cli.options import Settings, class_names, class_of, options_of
from scmkit_cli.terminal import say


def sample(
    run: Annotated[Path, typer.Argument(help="The run's directory.")],
    n: Annotated[int, typer.Option("--n", min=1, max=LARGEST, help="Number of samples.")] = 64,
    steps: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=LARGEST,
            help="Sampling steps. Default: what is usual of the sampler, such as 1.",
            show_default=False,
        ),
    ] = None,
    sampler: Annotated[
        str | None,
        typer.Option(help="Sampler plugin. Default: what fits the run's loss.", show_default=False),
    ] = None,
    label: Annotated[
        str | None,
        typer.Option(
            "--class",
            metavar="C",
            help="Class to draw, by name or number. Default: all in turn.",
            show_default=False,
        ),
    ] = None,
    guidance: Guidance = None,
    guide: Guide = None,
    guidance_interval: Interval = None,
    seed: Annotated[int, typer.Option(min=0, max=LAST_SEED, help="Seed of the noise.")] = 0,
    out: Annotated[
        Path,
        typer.Option(
            help="A .png (a grid) or a .npy (float32; images in [-1, 1], vectors in the data's units)."
        ),
    ] = Path("samples.png"),
    settings: Settings = None,
) -> None:
    """Draw samples from a run."""
    if out.suffix not in (".png", ".npy"):
        raise UsageError(f"--out {out}: use a name that ends in .png or .npy")

    import io

    import numpy as np

    from scmkit import Run, dataset_of
    from scmkit import sample as draw
    from scmkit.composing.build import build_sampler
    from scmkit.data.classes import listed
    from scmkit.distribution import processes
    from scmkit.sampling import class_captions, class_columns, image_grid, save_png, vector_picture
    from scmkit.storage.files import write_bytes

    loaded = Run.load(run)
    recipe = loaded.recipe
    classes, names, index = recipe.data.num_classes, class_names(recipe), class_of(recipe, label)
    sampler = sampler or recipe.sampler
    method = build_sampler(recipe, sampler, options_of(sampler, settings) or None)
    count = steps or method.usual_steps[0]
    x = draw(
        guided(loaded, guidance, guide, guidance_interval),
        recipe.data,
        n,
        method,
        steps=count,
        labels=index,
        guidance=guidance,
        seed=seed,
    )
    if not processes.first():  # All have drawn together, and one writes.
        return
    if out.suffix == ".npy":
        buffer = io.BytesIO()
        np.save(buffer, x.astype(np.float32), allow_pickle=False)
        write_bytes(out, buffer.getvalue())
    elif x.ndim == 4:
        each = [i % classes if index is None else index for i in range(n)] if classes else None
        captions = None if each is None else class_captions(each, names)
        save_png(out, image_grid(x, class_columns(n, classes), captions=captions))
    else:
        data = dataset_of(recipe)
        reference, _ = data.read("test", np.arange(min(data.size("test"), 2000)))
        save_png(out, vector_picture(x.reshape(n, -1), reference.reshape(len(reference), -1)))
    drawn = min(n, classes)  # Of the first ones only, where fewer are asked for than there are.
    if drawn == 1 and index is None:
        index = 0
    of = f" of classes {listed(drawn, names[:drawn])} in turn" if classes else ""
    if index is not None:
        of = f" of class '{names[index]}' (number {index})" if names else f" of class {index}"
    guided_by = "" if guidance is None else f", guidance {guidance:g}"
    drew, took = (
        f"{k} {noun}{'s' if k > 1 else ''}" for k, noun in ((n, "sample"), (count, "step"))
    )
    say(f"{drew}{of}, {sampler}, {took}{guided_by}", err=True)
    say(str(out))
