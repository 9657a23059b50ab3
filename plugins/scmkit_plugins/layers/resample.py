"""Half and double the size of an image with a separable filter.

Shifts and multiplications, as XLA has no fast depthwise convolution on a CPU.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

FILTERS = {"box": (1, 1), "fir": (1, 3, 3, 1)}
"""Taps by name: averages and repetition, or the smoother filter of arXiv 2011.13456, Appendix H."""


def halve(x: Float[Array, "h w c"]) -> Float[Array, "h2 w2 c"]:
    """Average of each 2x2 square."""
    h, w, c = x.shape
    return jnp.mean(x.reshape(h // 2, 2, w // 2, 2, c), axis=(1, 3))


def double(x: Float[Array, "h w c"]) -> Float[Array, "h2 w2 c"]:
    """Each value four times, as a 2x2 square."""
    h, w, c = x.shape
    return jnp.broadcast_to(x[:, None, :, None], (h, 2, w, 2, c)).reshape(2 * h, 2 * w, c)


def downsample(x: Float[Array, "h w c"], taps: Sequence[float]) -> Float[Array, "h2 w2 c"]:
    r"""Every second value of `x` filtered by $f f^T / (\sum f)^2$, with zeros around `x`.

    Output `i` is centred between inputs `2i` and `2i + 1`. The number of taps and the sizes must be even;
    the filter is not flipped.
    """
    return _halve(_halve(x, taps, 0), taps, 1)


def upsample(x: Float[Array, "h w c"], taps: Sequence[float]) -> Float[Array, "h2 w2 c"]:
    """Zeros between the values of `x`, filtered by 4 times the same: 4 times `downsample`'s transpose."""
    return _double(_double(x, taps, 0), taps, 1)


def _halve(x: Array, taps: Sequence[float], axis: int) -> Array:
    size = x.shape[axis] // 2
    x = _padded(x, len(taps) // 2 - 1, axis)
    parts = [
        tap / sum(taps) * jax.lax.slice_in_dim(x, k, k + 2 * size - 1, 2, axis)
        for k, tap in enumerate(taps)
    ]
    return sum(parts[1:], parts[0])


def _double(x: Array, taps: Sequence[float], axis: int) -> Array:
    size, margin = x.shape[axis], len(taps) // 4
    x = _padded(x, margin, axis)

    def phase(r: int) -> Array:
        """Outputs `2i + r`, to which tap `k` brings input `i + (r + n/2 - 1 - k) / 2`."""
        parts = []
        for k in range((r + len(taps) // 2 - 1) % 2, len(taps), 2):
            start = margin + (r + len(taps) // 2 - 1 - k) // 2
            shifted = jax.lax.slice_in_dim(x, start, start + size, axis=axis)
            parts.append(2 * taps[k] / sum(taps) * shifted)
        return sum(parts[1:], parts[0])

    both = jnp.stack([phase(0), phase(1)], axis=axis + 1)
    return both.reshape(*x.shape[:axis], 2 * size, *x.shape[axis + 1 :])


def _padded(x: Array, margin: int, axis: int) -> Array:
    widths = [(margin, margin) if i == axis else (0, 0) for i in range(x.ndim)]
    return jnp.pad(x, widths) if margin else x


def check_halvings(network: str, shape: tuple[int, ...], levels: int) -> None:
    """Raises `ValueError` unless samples of `shape` are images that halve at every level but the first."""
    if len(shape) != 3:
        raise ValueError(
            f"{network} needs images of shape (channels, height, width), the data's samples are "
            f"{shape}; use the mlp network"
        )
    _, h, w = shape
    factor = 2 ** (levels - 1)
    if h % factor or w % factor:
        raise ValueError(
            f"{network}: an image of {h}x{w} cannot be halved {levels - 1} times, which the {levels} "
            f"levels of {network}.multipliers need; give fewer multipliers, or pad the data to a "
            f"multiple of {factor}"
        )
