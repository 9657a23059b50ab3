"""InceptionV3 (arXiv 1512.00567), channels last, as published twice.

One definition is torchvision's. The other, which FID is defined with, is TensorFlow's of 2015: its average
pools leave padding out, and the very last block pools by maximum (pytorch-fid).
"""

from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from scmkit_plugins.features._folding import Map

Definition = Literal["pytorch-fid", "torchvision"]
SIDE = 299
"""Pixels of the side of an image."""

SQUARE, WIDE, TALL = (3, 3), (1, 7), (7, 1)


class Conv(NamedTuple):
    """A convolution, batch normalisation and ReLU."""

    name: str
    out: int
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1
    padding: Literal["SAME", "VALID"] = "SAME"


Apply = Callable[[str, Conv, Map], Map]
"""What is done at a convolution, given its name in a state dict, it, and its input."""
Run = Callable[..., Map]
"""One convolution of a block after another."""
Pool = Callable[[Map], Map]


def inception_v3(
    apply: Apply, image: Float[Array, "height width 3"], definition: Definition
) -> Map:
    """The last map of 2048 channels, whose mean over the image are the features ("pool3")."""

    def run(prefix: str, x: Map, *convs: Conv) -> Map:
        for conv in convs:
            x = apply(prefix + conv.name, conv, x)
        return x

    def block(name: str) -> Run:
        return partial(run, f"Mixed_{name}.")

    fid = definition == "pytorch-fid"
    pool = partial(_mean, counted=not fid)
    x = run(
        "",
        image,
        Conv("Conv2d_1a_3x3", 32, SQUARE, 2, "VALID"),
        Conv("Conv2d_2a_3x3", 32, SQUARE, 1, "VALID"),
        Conv("Conv2d_2b_3x3", 64, SQUARE),
    )
    x = run(
        "",
        _max(x, 2),
        Conv("Conv2d_3b_1x1", 80),
        Conv("Conv2d_4a_3x3", 192, SQUARE, 1, "VALID"),
    )
    x = _max(x, 2)
    for name, features in (("5b", 32), ("5c", 64), ("5d", 64)):
        x = _a(block(name), x, pool, features)
    x = _b(block("6a"), x)
    for name, inner in (("6b", 128), ("6c", 160), ("6d", 160), ("6e", 192)):
        x = _c(block(name), x, pool, inner)
    x = _d(block("7a"), x)
    x = _e(block("7b"), x, pool)
    return _e(block("7c"), x, _max if fid else pool)


def _a(run: Run, x: Map, pool: Pool, features: int) -> Map:
    return _joined(
        run(x, Conv("branch1x1", 64)),
        run(x, Conv("branch5x5_1", 48), Conv("branch5x5_2", 64, (5, 5))),
        run(
            x,
            Conv("branch3x3dbl_1", 64),
            Conv("branch3x3dbl_2", 96, SQUARE),
            Conv("branch3x3dbl_3", 96, SQUARE),
        ),
        run(pool(x), Conv("branch_pool", features)),
    )


def _b(run: Run, x: Map) -> Map:
    return _joined(
        run(x, Conv("branch3x3", 384, SQUARE, 2, "VALID")),
        run(
            x,
            Conv("branch3x3dbl_1", 64),
            Conv("branch3x3dbl_2", 96, SQUARE),
            Conv("branch3x3dbl_3", 96, SQUARE, 2, "VALID"),
        ),
        _max(x, 2),
    )


def _c(run: Run, x: Map, pool: Pool, inner: int) -> Map:
    return _joined(
        run(x, Conv("branch1x1", 192)),
        run(
            x,
            Conv("branch7x7_1", inner),
            Conv("branch7x7_2", inner, WIDE),
            Conv("branch7x7_3", 192, TALL),
        ),
        run(
            x,
            Conv("branch7x7dbl_1", inner),
            Conv("branch7x7dbl_2", inner, TALL),
            Conv("branch7x7dbl_3", inner, WIDE),
            Conv("branch7x7dbl_4", inner, TALL),
            Conv("branch7x7dbl_5", 192, WIDE),
        ),
        run(pool(x), Conv("branch_pool", 192)),
    )


def _d(run: Run, x: Map) -> Map:
    return _joined(
        run(x, Conv("branch3x3_1", 192), Conv("branch3x3_2", 320, SQUARE, 2, "VALID")),
        run(
            x,
            Conv("branch7x7x3_1", 192),
            Conv("branch7x7x3_2", 192, WIDE),
            Conv("branch7x7x3_3", 192, TALL),
            Conv("branch7x7x3_4", 192, SQUARE, 2, "VALID"),
        ),
        _max(x, 2),
    )


def _e(run: Run, x: Map, pool: Pool) -> Map:
    def crossed(x: Map, name: str) -> Map:
        return _joined(run(x, Conv(f"{name}a", 384, (1, 3))), run(x, Conv(f"{name}b", 384, (3, 1))))

    three = run(x, Conv("branch3x3_1", 384))
    double = run(x, Conv("branch3x3dbl_1", 448), Conv("branch3x3dbl_2", 384, SQUARE))
    return _joined(
        run(x, Conv("branch1x1", 320)),
        crossed(three, "branch3x3_2"),
        crossed(double, "branch3x3dbl_3"),
        run(pool(x), Conv("branch_pool", 192)),
    )


def _joined(*maps: Map) -> Map:
    return jnp.concatenate(maps, axis=-1)


def _max(x: Map, stride: int = 1) -> Map:
    """3x3, padded as long as it does not stride."""
    padding = "SAME" if stride == 1 else "VALID"
    return lax.reduce_window(x, -jnp.inf, lax.max, (3, 3, 1), (stride, stride, 1), padding)


def _mean(x: Map, *, counted: bool) -> Map:
    """3x3, padded with zeros, which are counted or not."""
    total = partial(
        lax.reduce_window,
        init_value=0.0,
        computation=lax.add,
        window_dimensions=(3, 3, 1),
        window_strides=(1, 1, 1),
        padding="SAME",
    )
    return total(x) / (9 if counted else total(jnp.ones_like(x[..., :1])))
