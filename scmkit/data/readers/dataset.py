"""A data set that is there already, such as a plugin's, to be written into a store."""

from collections.abc import Iterator

import numpy as np

from scmkit.data.layout import StoredDtype
from scmkit.data.readers.source import Block, Source, rows_per_block
from scmkit.errors import DataError
from scmkit.interfaces import AbstractDataset, Split


def open_dataset(dataset: AbstractDataset, *, labels: bool | None = None) -> Source:
    """The samples of a data set: those of 256 levels as uint8, which is exact, others as float32.

    `labels` False takes none; True insists on them. Without test samples there is no test split. What a store
    cannot hold is in the source's remarks.
    """
    classes = 0 if labels is False else dataset.num_classes
    if labels and not classes:
        raise DataError("the data set has no labels; leave --labels out")
    dtype: StoredDtype = "uint8" if dataset.levels == 256 else "float32"
    sizes: dict[Split, int] = {"train": dataset.size("train")}
    if dataset.size("test"):
        sizes["test"] = dataset.size("test")

    def read(split: Split) -> Iterator[Block]:
        rows = rows_per_block(dataset.shape, 4)
        for start in range(0, sizes[split], rows):
            samples, known = dataset.read(split, np.arange(start, min(start + rows, sizes[split])))
            if dtype == "uint8":
                samples = np.rint((samples + 1) * 127.5).astype(np.uint8)
            yield samples, known if classes else None

    unused = {
        f"that samples have {dataset.levels} levels": dataset.levels not in (0, 256),
        "the noise of each sample": dataset.paired,
        "the density": dataset.density() is not None,
    }
    return Source(
        shape=dataset.shape,
        dtype=dtype,
        num_classes=classes,
        class_names=dataset.class_names if classes else (),
        sizes=sizes,
        read=read,
        remarks=tuple(
            f"unused   {what}: a store does not hold it" for what, is_so in unused.items() if is_so
        ),
        licences=dataset.licences,
    )
