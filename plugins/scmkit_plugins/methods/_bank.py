"""A memory bank: the last samples of every class."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from scmkit.interfaces import AbstractMemory, Conditioning, Sample
from scmkit.plugin import Context
from scmkit.types import Key


class Bank(AbstractMemory):
    """The last samples of every class, a ring for each; data without classes has one."""

    samples: Float[Array, "classes size *shape"]
    seen: Int[Array, " classes"]
    """How many samples of each class there have been."""

    def remember(self, batch: Sample) -> "Bank":
        """With the batch's samples, in the place of the oldest of their class."""
        classes, size = self.samples.shape[:2]
        label = self.row(batch.cond, len(batch.x0))
        of = jax.nn.one_hot(label, classes, dtype=jnp.int32)
        count = of.sum(0)
        before = (jnp.cumsum(of, axis=0) * of).sum(1) - 1
        # Of more samples than a ring holds the last ones stay, so that no place is written twice.
        stays = before >= count[label] - size
        place = jnp.where(stays, (self.seen[label] + before) % size, size)
        samples = self.samples.at[label, place].set(batch.x0, mode="drop")
        # Past two rounds of the ring all counts mean the same, and a count never overflows.
        seen = self.seen + count
        return eqx.tree_at(
            lambda b: (b.samples, b.seen),
            self,
            (samples, jnp.where(seen >= 2 * size, size + seen % size, seen)),
        )

    def of(self, cond: Conditioning) -> tuple[Float[Array, "size *shape"], Bool[Array, " size"]]:
        """The samples of the class of one sample, and which places of the ring are filled."""
        row = self.row(cond, 1)[0]
        return self.samples[row], jnp.arange(self.samples.shape[1]) < self.seen[row]

    def row(self, cond: Conditioning, n: int) -> Int[Array, " n"]:
        """The ring of each of `n` samples."""
        if cond.label is None:
            return jnp.zeros(n, jnp.int32)
        return jnp.broadcast_to(cond.label, (n,))


def build_bank(config: Any, context: Context, *, key: Key) -> Bank:
    """An empty bank of `config.bank` samples of each class."""
    classes = max(1, context.data.num_classes)
    return Bank(
        jnp.zeros((classes, config.bank, *context.data.shape)), jnp.zeros(classes, jnp.int32)
    )
