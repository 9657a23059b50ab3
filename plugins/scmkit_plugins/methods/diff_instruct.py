"""Diff-Instruct: a one-step generator moved by the difference of the teacher's score and its own."""

from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array, Float

from scmkit.interfaces import AbstractParameterization
from scmkit.plugin import Context
from scmkit.types import Key, Scalar
from scmkit_plugins.methods._matching import (
    EDM,
    MatchingLoss,
    MatchingOptions,
    Seen,
    one_step,
)


@dataclass(frozen=True)
class Options(MatchingOptions):
    r"""Options of Diff-Instruct.

    The generated $x$ moves against $D_{fake}(x_t, t) - D_{real}(x_t, t)$, the difference of the scores times
    $\sigma^2/\alpha$: the integral over noise levels of the Kullback-Leibler divergence, in which EDM's
    weights are those of the proposal (arXiv 2305.18455, Eq. 3.5; pkulwj1994/diff_instruct). Their generator
    starts from noise of a smaller deviation than the process's largest.
    """


def build_loss(config: Options, context: Context, *, key: Key) -> MatchingLoss:
    return MatchingLoss(evenly, config.guidance_range)


def evenly(param: AbstractParameterization, x: Float[Array, "*shape"], it: Seen) -> Scalar:
    """The same weight everywhere."""
    return jnp.ones_like(it.point.t)


plugin = one_step(
    "diff-instruct",
    "Diff-Instruct: the KL divergence of noised distributions (arXiv 2305.18455)",
    Options,
    build_loss,
    settings=EDM,
)
