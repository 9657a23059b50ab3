"""`scmkit edit`: latents and zero-shot editing."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scmkit.bounds import LARGEST, LAST_SEED
from scmkit.errors import UsageError
from scmkit_cli.options import class_names, class_of
from scmkit_cli.terminal import say

if TYPE_CHECKING:
    import numpy as np

    from scmkit import Recipe, Run

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
SIDES = ("left", "right", "top", "bottom", "centre")


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
    samples, labels = _samples(loaded.recipe, index, None, None)
    if len(samples) != 2:
        raise UsageError(f"--index {index}: name two samples, such as 0,1")
    made = interpolate_samples(loaded, samples, labels, frames=frames)
    _write(out, samples[None], made[None])


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
    known = Pixels(jnp.asarray(~_mask(missing, loaded.recipe.data.shape)))
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
    """Colour images of which only the luminance is looked at, with a consistency model."""
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
    samples, labels = _samples(loaded.recipe, index, image, label)
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
    _write(out, np.stack(before, axis=1), made)


def _samples(
    recipe: "Recipe", index: str, image: Path | None, label: str | None
) -> "tuple[np.ndarray, np.ndarray | None]":
    """The images to edit, in [-1, 1], and their labels."""
    import numpy as np

    from scmkit import dataset_of
    from scmkit.data.classes import listed
    from scmkit.sampling import conditioning

    data, chosen_class = recipe.data, class_of(recipe, label)
    if image is not None:
        samples = _read(image, data.shape)
        if label is None and data.num_classes:
            raise UsageError(
                f"--image {image}: add --class, one of {listed(data.num_classes, class_names(recipe))}"
            )
        labels = None
    else:
        dataset = dataset_of(recipe)
        size = dataset.size("test")
        if not size:
            raise UsageError(f"data '{data.source}' has no test split: give an --image")
        try:
            chosen = np.asarray([int(i) for i in index.split(",")])
        except ValueError:
            chosen = np.asarray([-1])
        if not 0 <= chosen.min() <= chosen.max() < size:
            raise UsageError(f"--index {index}: give numbers from 0 to {size - 1}, such as 0,5,9")
        samples, labels = dataset.read("test", chosen)
    if label is None:
        return samples, labels
    cond = conditioning(data, len(samples), label=chosen_class)
    return samples, None if cond is None else np.asarray(cond.label)


def _read(file: Path, shape: tuple[int, ...]) -> "np.ndarray":
    """A picture or an array as images in [-1, 1] of a shape."""
    import numpy as np
    from PIL import Image

    from scmkit.data.readers.decoding import loaded
    from scmkit.storage.inputs import check_input

    channels, height, width = shape
    try:
        check_input(file)
        if file.suffix == ".npy":
            # Mapped, so that a header that claims more than the file holds is refused before memory is taken.
            x = np.load(file, mmap_mode="r", allow_pickle=False).astype(np.float32)
            x = x[None] if x.ndim == 3 else x
            if x.shape[1:] != shape or not np.abs(x).max(initial=0) <= 1:
                raise UsageError(f"'{file}' holds {x.shape}, not images {shape} in [-1, 1]")
            return x
        fitting = loaded(file).convert("L" if channels == 1 else "RGB")
        # Of a smaller picture every pixel becomes a block, of a larger one every block a pixel.
        pixels = np.asarray(fitting.resize((width, height), Image.Resampling.BOX))
    except UsageError:
        raise
    except OSError as error:
        reason = error.strerror or error
        raise UsageError(f"'{file}' cannot be read as an image: {reason}") from None
    # What damaged files make numpy raise has no common base.
    except Exception as error:
        raise UsageError(f"'{file}' cannot be read as an image: {error}") from None
    x = pixels.reshape(height, width, -1).transpose(2, 0, 1)[None]
    return x.astype(np.float32) / np.float32(127.5) - np.float32(1)


def _mask(where: str, shape: tuple[int, ...]) -> "np.ndarray":
    """Where pixels are missing: half of the image, its middle, or what a picture shows in white."""
    import numpy as np

    _, h, w = shape
    if where not in SIDES:
        if not Path(where).exists():
            raise UsageError(f"--missing {where}: {', '.join(SIDES)}, or the file of a mask")
        return _read(Path(where), (1, h, w))[0] > 0
    rows, columns = np.arange(h)[None, :, None], np.arange(w)[None, None, :]
    masks = {
        "left": columns < w // 2,
        "right": columns >= w // 2,
        "top": rows < h // 2,
        "bottom": rows >= h // 2,
        "centre": (abs(2 * rows - h + 1) < h // 2) & (abs(2 * columns - w + 1) < w // 2),
    }
    return np.broadcast_to(masks[where], (1, h, w))


def _write(out: Path, before: "np.ndarray", made: "np.ndarray") -> None:
    """The results, `n k c h w`; in a picture a row each, behind the images `before`."""
    import io

    import numpy as np

    from scmkit.sampling import image_grid, save_png
    from scmkit.storage.files import write_bytes

    if out.suffix == ".npy":
        buffer = io.BytesIO()
        np.save(buffer, made.reshape(-1, *made.shape[2:]).astype(np.float32), allow_pickle=False)
        write_bytes(out, buffer.getvalue())
    else:
        rows = np.concatenate([before, made], axis=1)
        save_png(out, image_grid(rows.reshape(-1, *made.shape[2:]), columns=rows.shape[1]))
    say(str(out))
