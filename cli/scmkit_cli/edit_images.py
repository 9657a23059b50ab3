"""The images that are edited: read, masked, and written with the results."""

from pathlib import Path
from typing import TYPE_CHECKING

from scmkit.errors import UsageError
from scmkit_cli.options import class_names, class_of
from scmkit_cli.terminal import say

if TYPE_CHECKING:
    import numpy as np

    from scmkit import Recipe

SIDES = ("left", "right", "top", "bottom", "centre")
"""The parts of an image that may be missing, by name."""


def chosen_images(
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


def missing_pixels(where: str, shape: tuple[int, ...]) -> "np.ndarray":
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


def write_images(out: Path, before: "np.ndarray", made: "np.ndarray") -> None:
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
