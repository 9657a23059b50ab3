"""Pictures of what a model draws, during training and at its end."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Float, UInt8

from scmkit.composing.build import build_free
from scmkit.composing.recipe import Recipe
from scmkit.interfaces import AbstractDataset, Conditioning, Split
from scmkit.models.model import Model
from scmkit.plugin import Slot
from scmkit.sampling import (
    class_captions,
    conditioning,
    draw,
    image_grid,
    prior,
    side_by_side,
    vector_picture,
)

COLUMNS, ROWS, VECTORS = 8, 10, 2000

COLLAPSED = 0.5
"""The part of the data's deviation below which samples are said to vary too little."""


class Preview(NamedTuple):
    """A picture of what a model draws, and how it varies."""

    pixels: UInt8[np.ndarray, "height width 3"]
    variety: float
    """The deviation of samples over that of as many test data: 0 where one sample is made of all noise."""


def picture(
    model: Model,
    recipe: Recipe,
    dataset: AbstractDataset,
    *,
    steps: tuple[int, ...] | None = None,
    seed: int = 0,
) -> Preview:
    """Samples of a model, one block per number of steps from the same noise: a row per class where
    there are classes, of many a few; vectors as a scatter over the test split, or over training data where
    there is none."""
    data = recipe.data
    record = recipe.plugins[recipe.sampler]
    sampler = build_free(Slot.sampler, recipe.reference(recipe.sampler), record.config)
    is_image = len(data.shape) == 3
    rows = min(data.num_classes, ROWS) or COLUMNS
    n = COLUMNS * rows if is_image else VECTORS
    k_noise, k_sampler = jr.split(jr.key(seed))
    cond = conditioning(data, n)
    if cond.label is not None and is_image:
        # As many classes as there are rows, from the first on at equal distances.
        cond = Conditioning(jnp.arange(n) // COLUMNS * data.num_classes // rows)
    captions = None
    if cond is not None and cond.label is not None:
        captions = class_captions(np.asarray(cond.label).tolist(), data.class_names)
    noise = prior(model, data, n, key=k_noise)
    split: Split = "test" if dataset.size("test") else "train"
    reference, _ = dataset.read(split, np.arange(min(dataset.size(split), n)))
    blocks, variety = [], []
    for count in steps or sampler.usual_steps:
        out = draw(model, sampler, noise, cond, steps=count, key=k_sampler)
        x = data.denormalize(np.asarray(out.x))
        variety.append(deviation(x) / max(deviation(reference), 1e-12))
        if is_image:
            blocks.append(image_grid(x, COLUMNS, captions=captions))
        else:
            blocks.append(vector_picture(x.reshape(n, -1), reference.reshape(len(reference), -1)))
    return Preview(side_by_side(*blocks), min(variety))


def deviation(x: Float[np.ndarray, "n ..."]) -> float:
    """The root mean square distance of vectors to their mean, over all values."""
    return float(np.sqrt(np.mean(np.var(x.astype(np.float64), axis=0))))


def collapsed(variety: float, before: Sequence[float], *, last: bool) -> bool:
    """Whether samples vary far less than data, which they did before, or still do at the last of pictures."""
    return variety < COLLAPSED and (bool(before) if last else max(before, default=0) >= COLLAPSED)


def preview_path(run: Path, step: int) -> Path:
    """Where the picture of a step goes."""
    return run / "samples" / f"{step:08d}.png"
