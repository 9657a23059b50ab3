"""`scmkit edit`: latents and zero-shot editing."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scmkit.bounds import LARGEST, LAST_SEED
from scmkit.errors import UsageError
from scmkit_cli.edit_images import SIDES, chosen_images, missing_pixels, write_images

if TYPE_CHECKING:
    from scmkit import Run

app = typer.Typer(no_args_is_help=True)

RunPath = Annotated[Path, typer.Argument(help="The run's directory.")]
Index = Annotated[
    str,
    typer.Option(metavar="I,J,...", help="Samples of the run's test split, by index."),
]
Picture = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="An image instead, resized to the model's size, or a .npy of `(c, h, w)` or `(n, c, h, w)` "
        "in [-1, 1].",
        show_default=False,
    ),
]
Label = Annotated[
    str | None,
    typer.Option(
        "--class",
        metavar="C",
        help="Class to draw, by name or number. Default: the sample's.",
        show_default=False,
    ),
]
Steps = Annotated[int, typer.Option(min=1, max=LARGEST, help="Consistency steps.")]
Variations = Annotated[int, typer.Option(min=1, help="Results for each image.")]
Seed = Annotated[int, typer.Option(min=0, max=LAST_SEED, help="Seed of the noise.")]
Out = Annotated[
    Path,
    typer.Option(
        help="A .png (a row for each image: it, what is known of it, the results) or a .npy of the results."
    ),
]
OUT = Path("edited.png")


@app.command("interpolate")
def interpolate(
    run: RunPath,
    index: Index = "0,1",
    frames: Annotated[int, typer.Option(min=2, help="Samples on the way, ends included.")] = 8,
    out: Out = OUT,
) -> None:
    """Walk from one test sample to another, on the great circle between their latents.

    A diffusion model encodes and decodes along its probability-flow ODE. For a consistency model its
    teacher encodes, and it decodes in one step.
    """
    from scmkit.editing import interpolate_samples

    loaded = _load(run, out)
    samples, labels = chosen_images(loaded.recipe, index, None, None)
    if len(samples) != 2:
        raise UsageError(f"--index {index}: name two samples, such as 0,1")
    made = interpolate_samples(loaded, samples, labels, frames=frames)
    write_images(out, samples[None], made[None])


@app.command("inpaint")
def inpaint(
    run: RunPath,
    index: Index = "0,1,2,3",
    image: Picture = None,
    missing: Annotated[
        str,
        typer.Option(
            metavar="WHERE",
            help=f"{', '.join(SIDES)}, or an image that is white where pixels are missing.",
        ),
    ] = "right",
    label: Label = None,
    steps: Steps = 16,
    variations: Variations = 4,
    seed: Seed = 0,
    out: Out = OUT,
) -> None:
    """Fill in missing pixels with a consistency model; the others stay exactly as they are."""
    import jax.numpy as jnp

    from scmkit.editing import Pixels

    loaded = _load(run, out)
    known = Pixels(jnp.asarray(~missing_pixels(missing, loaded.recipe.data.shape)))
    _edit(loaded, known, index, image, label, steps, variations, seed, out)


@app.command("colorize")
def colorize(
    run: RunPath,
    index: Index = "0,1,2,3",
    image: Picture = None,
    label: Label = None,
    steps: Steps = 16,
    variations: Variations = 4,
    seed: Seed = 0,
    out: Out = OUT,
) -> None:
    """Color images of which only the luminance is looked at, with a consistency model."""
    from scmkit.editing import Luminance

    _edit(_load(run, out), Luminance(), index, image, label, steps, variations, seed, out)


@app.command("superres")
def superres(
    run: RunPath,
    index: Index = "0,1,2,3",
    image: Picture = None,
    factor: Annotated[int, typer.Option(min=2, help="Side of the blocks that are known.")] = 2,
    label: Label = None,
    steps: Steps = 16,
    variations: Variations = 4,
    seed: Seed = 0,
    out: Out = OUT,
) -> None:
    """Refine images of which only means over blocks are looked at, with a consistency model."""
    from scmkit.editing import BlockMeans

    _edit(_load(run, out), BlockMeans(factor), index, image, label, steps, variations, seed, out)


@app.command("stroke")
def stroke(
    run: RunPath,
    index: Index = "0,1,2,3",
    image: Picture = None,
    angle: Annotated[
        float,
        typer.Option(
            min=0.01, max=1.57, help="How far to noise, in radians: the smaller, the closer."
        ),
    ] = 1.1,
    label: Label = None,
    steps: Steps = 4,
    variations: Variations = 4,
    seed: Seed = 0,
    out: Out = OUT,
) -> None:
    """Turn a sketch into a sample: noise it part of the way, and come back (SDEdit)."""
    from scmkit.editing import nothing

    _edit(_load(run, out), nothing, index, image, label, steps, variations, seed, out, angle=angle)


def _load(run: Path, out: Path) -> "Run":
    from scmkit import Run

    if out.suffix not in (".png", ".npy"):
        raise UsageError(f"--out {out}: use a name that ends in .png or .npy")
    loaded = Run.load(run)
    shape = loaded.recipe.data.shape
    if len(shape) != 3:
        raise UsageError(f"'{run}' draws samples of shape {shape}, and this edits images")
    return loaded


def _edit(
    loaded: "Run",
    known: Any,
    index: str,
    image: Path | None,
    label: str | None,
    steps: int,
    variations: int,
    seed: int,
    out: Path,
    *,
    angle: float | None = None,
) -> None:
    import jax
    import numpy as np

    from scmkit.editing import edit_samples

    model, data = loaded.consistency_model, loaded.recipe.data
    samples, labels = chosen_images(loaded.recipe, index, image, label)
    made = edit_samples(
        model,
        data,
        samples,
        known,
        labels,
        steps=steps,
        angle=angle,
        variations=variations,
        seed=seed,
    )
    before = [samples] if angle is not None else [samples, np.asarray(jax.vmap(known)(samples))]
    write_images(out, np.stack(before, axis=1), made)
