"""A picture of a data set: a grid of images, or points in the plane."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from scmkit.interfaces import AbstractDataset, Split


def write_picture(dataset: "AbstractDataset", file: Path) -> None:
    """Draws train samples into a PNG: a grid of 64 images, or vectors over those of the test split.

    Images are of all classes in turn, or of 64 at equal distances where there are more, each over its class.
    Raises `DataError` for samples of any other shape, `RunError` where `file` cannot be written.
    """
    import numpy as np

    from scmkit.errors import DataError
    from scmkit.sampling import class_captions, class_columns, image_grid, save_png, vector_picture

    def some(split: "Split", limit: int) -> np.ndarray:
        return dataset.read(split, np.arange(min(limit, dataset.size(split))))[0]

    if len(dataset.shape) == 3:
        images, labels = dataset.read("train", _in_turn(dataset))
        captions = None if labels is None else class_captions(labels.tolist(), dataset.class_names)
        present = 0 if labels is None else len(np.unique(labels))
        columns = class_columns(len(images), present)
        picture = image_grid(images, columns, captions=captions)
    elif len(dataset.shape) == 1:
        behind = some("test" if dataset.size("test") else "train", 10_000)
        picture = vector_picture(some("train", 10_000), behind)
    else:
        raise DataError(
            f"{file}: --png shows images and vectors, and these samples have shape "
            f"{dataset.shape}; leave --png out"
        )
    save_png(file, picture)


def _in_turn(dataset: "AbstractDataset", limit: int = 64) -> "np.ndarray":
    """Indices of train samples: one of each class after the other, until there are enough."""
    import numpy as np

    labels = dataset.labels("train")
    if labels is None:
        return np.arange(min(limit, dataset.size("train")))
    present = np.unique(labels)
    shown = present[np.linspace(0, len(present) - 1, min(limit, len(present))).astype(int)]
    each = max(1, limit // len(shown))
    # Rounds of one sample of each class; a class with fewer samples is left out of the later ones.
    rounds = [np.flatnonzero(labels == label)[:each] for label in shown]
    return np.asarray([group[i] for i in range(each) for group in rounds if i < len(group)])
