"""Where a token is in its image: added sines and cosines, or rotated queries and keys."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

Grid = tuple[int, int]
"""Rows and columns of patches; tokens go row by row."""


def sincos_positions(grid: Grid, width: int) -> Float[np.ndarray, "tokens width"]:
    r"""$(\sin \omega_i c, \cos \omega_i c, \sin \omega_i r, \cos \omega_i r)$ of each token's column and row.

    There are `width / 4` frequencies (MAE, arXiv 2111.06377; this order of channels is DiT's).
    """
    rows, columns = _angles(grid, width // 4)
    return np.concatenate([f(a) for a in (columns, rows) for f in (np.sin, np.cos)], axis=1)


def rotary_angles(grid: Grid, head_dim: int) -> Float[np.ndarray, "tokens pairs"]:
    r"""$(\omega_i r, \omega_i c)$ of each token's row and column: an angle for each pair of channels.

    Axial RoPE (arXiv 2104.09864; EVA-02, arXiv 2303.11331), with `head_dim / 4` frequencies.
    """
    return np.concatenate(_angles(grid, head_dim // 4), axis=1)


def rotate(
    x: Float[Array, "tokens heads head_dim"], angles: Float[np.ndarray, "tokens pairs"]
) -> Float[Array, "tokens heads head_dim"]:
    """Each pair of neighbouring channels turned by its angle, in the dtype of `x`.

    Turned queries and keys have products that depend on the tokens' offsets alone.
    """
    cos, sin = (f(angles)[:, None].astype(x.dtype) for f in (np.cos, np.sin))
    pairs = x.reshape(*x.shape[:-1], -1, 2)
    a, b = pairs[..., 0], pairs[..., 1]
    return jnp.stack([a * cos - b * sin, a * sin + b * cos], axis=-1).reshape(x.shape)


def _angles(grid: Grid, n: int) -> list[Float[np.ndarray, "tokens n"]]:
    """Each token's row and column, times `n` frequencies geometric from 1 towards 1e-4."""
    frequencies = 1e4 ** -(np.arange(n) / n)
    places = np.meshgrid(np.arange(grid[0]), np.arange(grid[1]), indexing="ij")
    return [place.reshape(-1, 1) * frequencies for place in places]
