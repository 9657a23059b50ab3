"""Checks of couplings."""

from functools import cached_property

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Float

from scmkit.interfaces import AbstractCoupling, Conditioning, Sample
from scmkit.plugin import Slot
from scmkit.testing.check import require
from scmkit.testing.family import Family
from scmkit.testing.workbench import Bench, Case
from scmkit.types import Keys

N, BATCHES = 16, 64


@eqx.filter_jit
def coupled(coupling: AbstractCoupling, batches: Sample, keys: Keys) -> Sample:
    """Several batches with their noise, one after another."""
    return jax.lax.map(lambda given: coupling(given[0], key=given[1]), (batches, keys))


class Coupling:
    """A coupling, and batches to couple with noise."""

    def __init__(self, bench: Bench) -> None:
        self.coupling: AbstractCoupling = bench.build(Slot.coupling)
        data = bench.data
        x0 = data.sigma_data * jr.normal(jr.key(0), (BATCHES, N, *data.shape))
        classes = data.num_classes
        label = jr.randint(jr.key(1), (BATCHES, N), 0, classes) if classes else None
        eps = jr.normal(jr.key(4), x0.shape) if data.paired else None
        self.batches = Sample(x0, Conditioning(label), eps)

    def draw(self, seed: int) -> Sample:
        """All batches, coupled with noise of a seed."""
        every_sample_has_noise(self)
        return coupled(self.coupling, self.batches, jr.split(jr.key(seed), BATCHES))

    @cached_property
    def drawn(self) -> Sample:
        """All batches, coupled with noise."""
        return self.draw(2)


def every_sample_has_noise(given: Coupling) -> None:
    batch = jax.tree.map(lambda a: a[0], given.batches)
    out = eqx.filter_eval_shape(given.coupling, batch, key=jr.key(2))
    require(isinstance(out, Sample), f"a coupling must return a Sample, not a {type(out).__name__}")
    eps, x0 = out.eps, batch.x0
    require(eps is not None, "a coupling must return a batch with noise, but its eps is None")
    assert eps is not None
    require(
        eps.shape == x0.shape and eps.dtype == x0.dtype,
        f"eps must be like the batch, {x0.dtype} of shape {x0.shape}, not {eps.dtype} of shape {eps.shape}",
    )


def samples_keep_their_labels(given: Coupling) -> None:
    for before, after in zip(_rows(given.batches), _rows(given.drawn), strict=True):
        require(
            before.shape == after.shape and np.array_equal(_sorted(before), _sorted(after)),
            "a batch must keep its samples, each with its label; only their order may change",
        )


def noise_is_normal(given: Coupling) -> None:
    eps = np.asarray(given.drawn.eps)
    mean, std = eps.mean(), eps.std()
    # Six standard errors: what is assigned within a batch is as independent, all taken together.
    require(
        abs(mean) < 6 / np.sqrt(eps.size) and abs(std - 1) < 6 / np.sqrt(2 * eps.size),
        f"each value of eps must be N(0, 1), but they have mean {mean:.3g} and standard deviation {std:.3g}",
    )


def the_key_decides(given: Coupling) -> None:
    eps = given.drawn.eps
    require(jnp.all(eps == given.draw(2).eps), "one key must always give one noise")
    stored = given.batches.eps
    kept = stored is not None and bool(jnp.all(eps == stored))
    require(kept or jnp.any(eps != given.draw(3).eps), "other keys give the same noise")


def _rows(batches: Sample) -> Float[np.ndarray, "batches n columns"]:
    """Each batch as a matrix, whose rows are its samples, each with its label."""
    x0, label = np.asarray(batches.x0), batches.cond.label
    flat = x0.reshape(*x0.shape[:2], -1)
    return flat if label is None else np.dstack([flat, np.asarray(label)])


def _sorted(rows: Float[np.ndarray, "n columns"]) -> Float[np.ndarray, "n columns"]:
    return rows[np.lexsort(rows.T)]


FAMILY = Family(
    Coupling,
    (every_sample_has_noise, samples_keep_their_labels, noise_is_normal, the_key_decides),
    (
        Case("vector"),
        Case("labelled-image", shape=(1, 4, 4), num_classes=4),
        Case("pairs", num_classes=2, paired=True),
    ),
)
