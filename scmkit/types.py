"""Type aliases and dtypes shared by every layer."""

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import jaxtyping
from jaxtyping import Array, Float, PRNGKeyArray

if TYPE_CHECKING:
    # An abstract attribute is no dataclass field; ClassVar says so to static checkers.
    from typing import ClassVar as AbstractClassVar
    from typing import ClassVar as AbstractVar
else:
    from equinox import AbstractClassVar, AbstractVar

Scalar = Float[Array, ""]
Key = PRNGKeyArray
Keys = jaxtyping.Key[Array, " n"]


def sum_dtype(dtype: jnp.dtype) -> jnp.dtype:
    """The dtype of sums: float32, or `dtype` where that is wider."""
    return jnp.dtype(jnp.float32) if jnp.finfo(dtype).bits < 32 else jnp.dtype(dtype)


def as_time(t: Scalar | float) -> Scalar:
    """A time as an array: float32 where it is a Python number."""
    return jnp.asarray(t, None if isinstance(t, jax.Array) else jnp.float32)


__all__ = ["AbstractClassVar", "AbstractVar", "Key", "Keys", "Scalar", "as_time", "sum_dtype"]
