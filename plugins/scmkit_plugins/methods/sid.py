"""SiD: score identity distillation, whose gradient goes through both score networks."""

from dataclasses import dataclass
from typing import Annotated

import jax
import jax.numpy as jnp
import jax.random as jr
from annotated_types import Gt, Le
from jaxtyping import Array, Float

from scmkit.interfaces import AbstractLoss, LossOutput, Sample, Scene
from scmkit.losses import generated, noised
from scmkit.models.model import Model
from scmkit.plugin import Context, Plugin, Slot
from scmkit.sampling import ratio_on_grid
from scmkit.types import Key
from scmkit_plugins.methods._matching import MatchingOptions, Seen, by_distance, fake_score, seen
from scmkit_plugins.methods._tangent import told
from scmkit_plugins.methods.scd import build_tangent, conditions


@dataclass(frozen=True)
class Options(MatchingOptions):
    """Options of score identity distillation. The recipe's noise levels are those of the fake score."""

    alpha: float = 1.2
    """How much of the squared difference of the scores is taken off; 1.0 on AFHQ."""
    least: Annotated[float, Gt(0)] = 2e-3
    """Smallest noise-to-signal ratio at which the scores are compared."""
    part: Annotated[float, Gt(0), Le(1)] = 0.8
    """The part of Karras's grid, from its smallest noise on, in which they are."""


class SiDLoss(AbstractLoss):
    r"""$\frac{1}{n}(D_{real} - D_{fake}) \cdot \big((D_{real} - x) - \alpha (D_{real} - D_{fake})\big) \big/
    \overline{|x - D_{real}|}^{\,-}$.

    Both denoisers look at $x$ noised anew, and the gradient goes through them. With the exact fake score the
    first product is in expectation the squared difference of the scores, of which then $1 - \alpha$ is left:
    it is $\alpha$ near 1 that makes up for a fake score that lags behind (arXiv 2404.04057, Eq. 23;
    mingyuanzhou/SiD, `sid_loss.py`). Noise levels are uniform in the seventh root of the ratio. Their
    generator starts from a noise of 2.5.
    """

    options: Options

    def __call__(self, model: Model, scene: Scene, sample: Sample, *, key: Key) -> LossOutput:
        k_x, k_time, k_noise = jr.split(key, 3)
        o, process = self.options, model.process
        sample = told(sample, o.guidance_range, key=key)
        x = generated(model, sample.x0.shape, sample.cond, key=k_x)
        u = jr.uniform(k_time, minval=1 - o.part)
        ratio = ratio_on_grid(model.parameterization, u, grid="karras", ratio_min=o.least)
        point = noised(process, Sample(x, sample.cond), process.time_at(ratio), key=k_noise)
        it = seen(process, scene, point)
        weight = jax.lax.stop_gradient(by_distance(model.parameterization, x, it))
        size = jnp.sqrt(jnp.mean((it.real - it.fake) ** 2))
        value = weight * jnp.mean(identity(it, o.alpha))
        return LossOutput(value, {"field": weight * size}, ratio)


def identity(it: Seen, alpha: float) -> Float[Array, "*shape"]:
    """The product of the loss, in each entry and without its weight."""
    gap = it.real - it.fake
    return gap * (it.real - it.point.x0 - alpha * gap)


def build_loss(config: Options, context: Context, *, key: Key) -> SiDLoss:
    return SiDLoss(config)


plugin = Plugin(
    name="sid",
    summary="score identity distillation, gradients through both scores (arXiv 2404.04057)",
    provides={Slot.loss: build_loss, Slot.tangent: build_tangent},
    config=Options,
    conditions=conditions,
    suggests={Slot.sampler: "consistency"},
    settings={
        "consistency.steps": (1,),
        "log-normal.mean": -1.2,
        "log-normal.std": 1.2,
        "train.lr": 1e-5,
        "train.beta1": 0.0,
        "train.ema": "half-life:500000",
    },
    makes="generator",
    starts_from="teacher",
    players=fake_score,
)
