"""Fashion-MNIST: 70000 gray images of clothes, 28x28, in ten classes (arXiv 1708.07747).

Nothing is downloaded. Debian's package `dataset-fashion-mnist` has the four files; so has any copy of the
set, and whatever else comes in MNIST's format can be named instead.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from scmkit.data import ArrayDataset
from scmkit.data.readers.idx import has_idx, open_idx_folder
from scmkit.data.readers.source import Source
from scmkit.data.store import from_uint8
from scmkit.errors import DataError
from scmkit.interfaces import Split
from scmkit.plugin import Plugin, Slot


@dataclass(frozen=True)
class Options:
    """Options of Fashion-MNIST."""

    path: str = "/usr/share/datasets/fashion-mnist"
    """Folder with the four files, `train-images-idx3-ubyte.gz` and so on, gzipped or not."""


def build_dataset(config: Options) -> ArrayDataset:
    """60000 train and 10000 test images `1 28 28` in [-1, 1] (`x / 127.5 - 1`), of ten classes.

    Raises `DataError` where the folder has not the four files, or a damaged one.
    """
    folder = Path(config.path)
    if not has_idx(folder):
        raise DataError(
            f"fashion-mnist: no such files in '{folder}'; install Debian's package "
            "dataset-fashion-mnist, or name a folder that has them: --set fashion-mnist.path=FOLDER"
        )
    source = open_idx_folder(folder)
    if "test" not in source.sizes or not source.num_classes:
        raise DataError(f"fashion-mnist: '{folder}' has no t10k files; add those two")
    train, train_labels = _whole(source, "train")
    test, test_labels = _whole(source, "test")
    return ArrayDataset(
        train,
        test,
        train_labels=train_labels,
        test_labels=test_labels,
        num_classes=source.num_classes,
        class_names=source.class_names,
        levels=256,
    )


def _whole(
    source: Source, split: Split
) -> tuple[Float[np.ndarray, "n 1 h w"], Int[np.ndarray, " n"]]:
    images, labels = zip(*source.read(split), strict=True)
    return from_uint8(np.concatenate(images)), np.concatenate(labels)


# What trains in about three quarters of an hour on one core: enough to tell methods apart, no more. As
# with digits the student is trained at higher noise, and its whole run is tangent warmup.
STUDENT = {
    "train.steps": 2000,
    "train.lr": 3.5e-4,
    "train.beta2": 0.999,
    "train.ema": "power:0.05",
    "train.warmup": 50,
    "log-normal.mean": 0.0,
    "log-normal.std": 1.6,
}
TEACHER = {
    "train.steps": 2500,
    "train.lr": 2e-3,
    "train.ema": "power:0.1",
    "train.warmup": 100,
    "log-normal.mean": -0.9,
    "log-normal.std": 1.3,
}

plugin = Plugin(
    name="fashion-mnist",
    summary="Fashion-MNIST: 70000 gray images of clothes, 28x28, ten classes; from files you have",
    provides={Slot.dataset: build_dataset},
    config=Options,
    settings={
        "train.batch_size": 64,
        "train.schedule": "cosine",
        "unet.channels": 16,
        "unet.blocks": 1,
        "unet.attention_resolutions": (7,),
        "unet.head_dim": 16,
        "unet.embedding_dim": 128,
    },
    settings_for={"diffusion": TEACHER, "consistency": STUDENT},
)
