"""Diff-Instruct: a one-step generator moved by the difference of the teacher's score and its own."""

from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array, Float

from scmkit.interfaces import AbstractParameterization
from scmkit.plugin import Context, Plugin, Slot
from scmkit.types import Key, Scalar
from scmkit_plugins.methods._matching import MatchingLoss, MatchingOptions, Seen, fake_score
from scmkit_plugins.methods.scd import build_tangent, conditions


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


plugin = Plugin(
    name="diff-instruct",
    summary="Diff-Instruct: the KL divergence of noised distributions (arXiv 2305.18455)",
    provides={Slot.loss: build_loss, Slot.tangent: build_tangent},
    config=Options,
    conditions=conditions,
    suggests={Slot.sampler: "consistency"},
    settings={
        "consistency.steps": (1,),
        "log-normal.mean": -1.2,
        "log-normal.std": 1.2,
        "train.lr": 1e-5,
        "train.ema": "half-life:500000",
    },
    makes="generator",
    starts_from="teacher",
    players=fake_score,
)
