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
from scmkit.plugin import Context
from scmkit.sampling import ratio_on_grid
from scmkit.types import Key, Scalar
from scmkit_plugins.methods._matching import (
    EDM,
    MatchingOptions,
    Seen,
    by_distance,
    one_step,
    seen,
)
from scmkit_plugins.methods._tangent import told


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
        it, weight = looked_at(model, scene, sample, self.options, key=key)
        value = weight * jnp.mean(identity(it, self.options.alpha))
        return LossOutput(value, {"field": weight * gap(it)}, model.process.ratio(it.point.t))


def looked_at(
    model: Model, scene: Scene, sample: Sample, options: Options, *, key: Key
) -> tuple[Seen, Scalar]:
    """What the generator makes, noised to a level of the grid, in the eyes of both scores, and its weight."""
    k_x, k_time, k_noise = jr.split(key, 3)
    process = model.process
    sample = told(sample, options.guidance_range, key=key)
    x = generated(model, sample.x0.shape, sample.cond, key=k_x)
    u = jr.uniform(k_time, minval=1 - options.part)
    ratio = ratio_on_grid(model.parameterization, u, grid="karras", ratio_min=options.least)
    point = noised(process, Sample(x, sample.cond), process.time_at(ratio), key=k_noise)
    it = seen(process, scene, point)
    return it, jax.lax.stop_gradient(by_distance(model.parameterization, x, it))


def gap(it: Seen) -> Scalar:
    """How far the scores are apart, as a root mean square of the denoised."""
    return jnp.sqrt(jnp.mean((it.real - it.fake) ** 2))


def identity(it: Seen, alpha: float) -> Float[Array, "*shape"]:
    """The product of the loss, in each entry and without its weight."""
    apart = it.real - it.fake
    return apart * (it.real - it.point.x0 - alpha * apart)


def build_loss(config: Options, context: Context, *, key: Key) -> SiDLoss:
    return SiDLoss(config)


plugin = one_step(
    "sid",
    "score identity distillation, gradients through both scores (arXiv 2404.04057)",
    Options,
    build_loss,
    settings=EDM | {"train.beta1": 0.0},
)
