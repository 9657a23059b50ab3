"""Minibatch optimal transport: the noise of a batch, assigned so that paths cross less."""

import jax
import jax.numpy as jnp
import jax.random as jr
import optax

from scmkit.interfaces import AbstractCoupling, Sample
from scmkit.plugin import Plugin, Slot, itself
from scmkit.types import Key


class MinibatchOT(AbstractCoupling):
    r"""Fresh noise, assigned to samples so that $\sum_i \|x_{0,i} - \varepsilon_{\pi(i)}\|^2$ is least.

    Exact, by the Hungarian algorithm. Over the batch the noise stays N(0, I) (arXiv 2302.00482, Section 3.3;
    arXiv 2304.14772).
    """

    def __call__(self, batch: Sample, *, key: Key) -> Sample:
        eps = jr.normal(key, batch.x0.shape, batch.x0.dtype)
        x, e = (jax.lax.stop_gradient(a).reshape(a.shape[0], -1) for a in (batch.x0, eps))
        # |x - e|^2 up to terms that no assignment changes.
        rows, columns = optax.assignment.hungarian_algorithm(-x @ e.T)
        order = jnp.zeros_like(columns).at[rows].set(columns)
        return Sample(batch.x0, batch.cond, eps[order])


plugin = Plugin(
    name="minibatch-ot",
    summary="noise assigned to a batch by exact optimal transport (arXiv 2302.00482)",
    provides={Slot.coupling: itself},
    config=MinibatchOT,
)
