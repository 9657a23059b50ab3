"""What every test runs under: strict dtypes and ranks, one fresh key after another."""

import itertools

import jax
import jax.random as jr
import pytest

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture
def getkey():
    """Calls return one fresh PRNG key after another, the same in every run."""
    seeds = itertools.count()
    return lambda: jr.key(next(seeds))
