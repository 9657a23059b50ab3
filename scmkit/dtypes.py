"""Dtypes of what is computed with more digits than its operands have."""

import jax.numpy as jnp


def sum_dtype(dtype: jnp.dtype) -> jnp.dtype:
    """The dtype of sums: float32, or `dtype` where that is wider."""
    return jnp.dtype(jnp.float32) if jnp.finfo(dtype).bits < 32 else jnp.dtype(dtype)
