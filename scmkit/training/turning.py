r"""How fast a network turns in time, which its derivative along a path multiplies the noise by."""

import dataclasses
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float

from scmkit.composing.datasets import dataset_of
from scmkit.composing.recipe import Recipe
from scmkit.interfaces import AbstractProposal, AbstractTimeEmbedding, Conditioning
from scmkit.models.model import Model
from scmkit.types import Key, Keys, Scalar

SAMPLES = 16
"""Samples of the training data that are looked at."""

GAP = 1e-2
"""The step in $\\ln\\rho$ of the central difference."""


class Turning(NamedTuple):
    r"""$\|\partial_u F\| / \|F\|$, and the same of the time features: RMS norms, $u = \ln(\sigma/\alpha)$.

    In TrigFlow's time $\partial_u$ is $\cos t \sin t\, \partial_t$, as in sCM's tangent (arXiv 2410.11081,
    Section 4.1). 0 for a fresh network whose output is zero, and where there are no features.
    """

    network: float
    features: float


def turning(recipe: Recipe, model: Model, proposal: AbstractProposal, *, seed: int = 0) -> Turning:
    """How fast a model turns on training data, at times of the proposal.

    What the network is given beside the time stands still. A central difference, in float32, needs no forward
    mode.
    """
    dataset = dataset_of(recipe)
    count = min(SAMPLES, dataset.size("train"))
    raw, labels = dataset.read("train", np.arange(count))
    x0 = jnp.asarray(np.asarray(recipe.data.normalize(raw), np.float32))
    cond = Conditioning(None if labels is None else jnp.asarray(np.asarray(labels, np.int32)))
    still = dataclasses.replace(model, precision="float32")
    keys = jr.split(jr.key(seed), count)
    found = _measure(still, proposal, x0, cond, keys)
    return Turning(*(float(jnp.nan_to_num(value, posinf=jnp.inf)) for value in found))


@eqx.filter_jit
def _measure(
    model: Model,
    proposal: AbstractProposal,
    x0: Float[Array, "n *shape"],
    cond: Conditioning,
    keys: Keys,
) -> tuple[Scalar, Scalar]:
    """The turning of a network and of its time features, NaN where they are zero."""
    process, param = model.process, model.parameterization
    gaps = jnp.asarray([-GAP, 0.0, GAP])
    embedding = _embedding(model)

    def one(x0: Array, cond: Conditioning, key: Key) -> tuple[Array, Array]:
        k_time, k_noise = jr.split(key)
        ratio = process.ratio(proposal.sample(process, key=k_time))
        ratio = jnp.minimum(ratio, process.ratio_max * jnp.exp(-GAP))
        t = process.time_at(ratio)
        x_t = process.perturb(x0, jr.normal(k_noise, x0.shape, x0.dtype), t)
        x = param.coefficients(t).in_ * x_t

        def at(gap: Scalar) -> tuple[Array, Array]:
            t = process.time_at(ratio * jnp.exp(gap))
            c = param.coefficients(t)
            features = jnp.zeros(1) if embedding is None else embedding(c.noise)
            return model.raw(x / c.in_, t, cond), features

        return jax.lax.map(at, gaps)

    F, features = jax.vmap(one)(x0, cond, keys)
    return _relative(F), _relative(features)


def _relative(values: Float[Array, "n three *shape"]) -> Scalar:
    """The RMS of the central difference over that of the values in the middle."""
    moved = (values[:, 2] - values[:, 0]) / (2 * GAP)
    return jnp.sqrt(jnp.mean(moved**2) / jnp.mean(values[:, 1] ** 2))


def _embedding(model: Model) -> AbstractTimeEmbedding | None:
    """The time embedding inside a network, if it has one."""

    def is_one(node: object) -> bool:
        return isinstance(node, AbstractTimeEmbedding)

    return next(filter(is_one, jax.tree.leaves(model.network, is_leaf=is_one)), None)
