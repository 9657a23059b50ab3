"""Checks of data sets."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import get_args

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array

from scmkit.interfaces import AbstractDataset, AbstractNoiseProcess, Split
from scmkit.plugin import Slot
from scmkit.testing.check import require, require_close, require_finite
from scmkit.testing.family import Family
from scmkit.testing.workbench import Bench

SPLITS: tuple[Split, ...] = get_args(Split)
MANY = 20_000
"""Samples looked at, of larger splits."""


@dataclass(frozen=True)
class Data:
    """A data set, how to build it again, and a noise process to noise it with."""

    dataset: AbstractDataset
    again: Callable[[], AbstractDataset]
    process: AbstractNoiseProcess

    def some(self, split: Split) -> tuple[np.ndarray, np.ndarray | None]:
        """The first samples of a split, and their labels."""
        return self.dataset.read(split, np.arange(min(MANY, self.dataset.size(split))))


def samples_are_float32_of_one_shape(given: Data) -> None:
    shape = given.dataset.shape
    sized = isinstance(shape, tuple) and shape and all(isinstance(s, int) and s > 0 for s in shape)
    require(sized, f"shape must be a tuple of positive sizes, not {shape!r}")
    for split in SPLITS:
        size = given.dataset.size(split)
        require(isinstance(size, int) and size > 0, f"the {split} split has size {size!r}")
        x, _ = given.some(split)
        require(
            isinstance(x, np.ndarray) and x.dtype == np.float32,
            f"{split} samples must be a float32 numpy array, not {getattr(x, 'dtype', type(x))}",
        )
        require(
            x.shape == (min(MANY, size), *shape),
            f"{len(x)} {split} samples have shape {x.shape}, not (n, *{shape})",
        )
        require_finite(x, f"the {split} split")
        require(
            len(shape) != 3 or np.abs(x).max() <= 1,
            f"images must lie in [-1, 1]; the {split} split reaches {np.abs(x).max():g}",
        )


def samples_lie_on_their_levels(given: Data) -> None:
    levels = given.dataset.levels
    if not levels:
        return
    require(levels > 1, f"levels must be 0 or at least 2, not {levels}")
    for split in SPLITS:
        steps = (given.some(split)[0].astype(np.float64) + 1) / 2 * (levels - 1)
        off = np.abs(steps - np.round(steps)).max()
        require(
            off < 1e-3,
            f"levels is {levels}, but {split} samples are off those equally spaced values in [-1, 1] "
            f"by {off:.2g} of their distance",
        )


def labels_are_class_indices(given: Data) -> None:
    classes, names = given.dataset.num_classes, given.dataset.class_names
    require(len(names) in (0, classes), f"{len(names)} class_names for {classes} classes")
    for split in SPLITS:
        x, labels = given.some(split)
        if not classes:
            require(labels is None, "labels must be None where num_classes is 0")
            continue
        require(labels is not None, f"num_classes is {classes}, but {split} labels are None")
        assert labels is not None
        require(
            labels.dtype == np.int32 and labels.shape == (len(x),),
            f"{split} labels must be int32, one each, not {labels.dtype} of shape {labels.shape}",
        )
        require(
            labels.min() >= 0 and labels.max() < classes,
            f"{split} labels go from {labels.min()} to {labels.max()}, not within 0..{classes - 1}",
        )
        whole = given.dataset.labels(split)
        require(
            whole is not None and len(whole) == given.dataset.size(split),
            f"labels('{split}') must have one for each of {given.dataset.size(split)} samples",
        )
        assert whole is not None
        require((whole[: len(x)] == labels).all(), f"labels('{split}') differs from read's labels")


def noise_of_pairs_is_normal(given: Data) -> None:
    dataset = given.dataset
    if not dataset.paired:
        return
    indices = np.arange(min(MANY, dataset.size("train")))
    noise = dataset.noise(indices)
    shape = (len(indices), *dataset.shape)
    require(
        noise.dtype == np.float32 and noise.shape == shape,
        f"the noise of {len(indices)} samples must be float32 {shape}, not {noise.dtype} {noise.shape}",
    )
    require((noise[::-1] == dataset.noise(indices[::-1])).all(), "noise must follow the indices")
    mean, std = noise.mean(), noise.std()
    require(
        abs(mean) < 6 / np.sqrt(noise.size) and abs(std - 1) < 6 / np.sqrt(2 * noise.size),
        f"noise must be N(0, 1), but has mean {mean:.3g} and standard deviation {std:.3g}",
    )


def reading_follows_the_indices(given: Data) -> None:
    for split in SPLITS:
        last = given.dataset.size(split) - 1
        indices = np.asarray([last, 0, last // 2, 0])
        x, labels = given.dataset.read(split, indices)
        for place, index in enumerate(indices):
            one, label = given.dataset.read(split, np.asarray([index]))
            same = (x[place] == one[0]).all() and (
                labels is None or label is None or labels[place] == label[0]
            )
            require(same, f"read('{split}', {indices.tolist()}) differs from reading one by one")


def building_again_gives_the_same(given: Data) -> None:
    again = given.again()
    for split in SPLITS:
        (x, _), (y, _) = given.some(split), again.read(split, np.arange(len(given.some(split)[0])))
        require((x == y).all(), f"the {split} split differs when the data set is built again")


def statistics_are_those_of_the_train_split(given: Data) -> None:
    found, size = given.dataset.statistics(), given.dataset.size("train")
    channels = given.dataset.shape[0]
    require(
        len(found.mean) == len(found.std) == channels,
        f"statistics need {channels} values, one per channel, not {len(found.mean)}",
    )
    if size > 10 * MANY:
        return
    x, _ = given.dataset.read("train", np.arange(size))
    rows = np.moveaxis(x.astype(np.float64), 1, 0).reshape(channels, -1)
    std = rows.std(axis=1)
    require_close(np.asarray(found.std), std, "statistics().std", tolerance=1e-3)
    # In standard deviations: the mean itself may be about 0.
    off = np.abs(np.asarray(found.mean) - rows.mean(axis=1)) / std
    require(off.max() < 1e-3, f"statistics().mean is off by {off.max():.2g} standard deviations")


def the_splits_are_different_data(given: Data) -> None:
    (train, _), (test, _) = (given.some(split) for split in SPLITS)
    seen = {row.tobytes() for row in train}
    share = sum(row.tobytes() in seen for row in test) / len(test)
    require(share < 0.1, f"{share:.0%} of the test split is in the train split, too")


def the_density_is_that_of_the_samples(given: Data) -> None:
    density = given.dataset.density()
    if density is None:
        return
    x, _ = given.some("train")
    process, points = given.process, jnp.asarray(x[:8])
    early = process.time_at(jnp.asarray(1e-3, jnp.float32))

    @jax.jit
    @jax.vmap
    def ends_of(x: Array) -> Array:
        return density.consistency(process, process.alpha(early) * x, early)

    @jax.jit
    @jax.vmap
    def means_of(x: Array) -> Array:
        return density.denoise(process, x, process.t_max)

    require_close(ends_of(points), points, "density().consistency(x, t) as t -> 0", tolerance=2e-2)
    # Given nothing but noise, the posterior mean is the mean.
    noise = process.prior(points.shape, key=jr.key(0))
    off = np.abs(np.asarray(means_of(noise)) - x.mean(axis=0)) / x.std(axis=0)
    require(
        off.max() < 0.2,
        f"density().denoise at t_max is {off.max():.2g} standard deviations from the data's mean",
    )


def arrange(bench: Bench) -> Data:
    def build() -> AbstractDataset:
        return bench.build_free(Slot.dataset)

    return Data(build(), build, bench.build(Slot.noise))


FAMILY = Family(
    arrange,
    (
        samples_are_float32_of_one_shape,
        samples_lie_on_their_levels,
        labels_are_class_indices,
        noise_of_pairs_is_normal,
        reading_follows_the_indices,
        building_again_gives_the_same,
        statistics_are_those_of_the_train_split,
        the_splits_are_different_data,
        the_density_is_that_of_the_samples,
    ),
)
