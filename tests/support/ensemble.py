"""A method with all that a training can have: a second player, followers of both, a memory, and stages."""

from dataclasses import dataclass

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array
from scmkit_plugins.methods._data_tangent import build_data_tangent
from scmkit_plugins.methods.diffusion import Options as DiffusionOptions
from scmkit_plugins.methods.diffusion import build_loss as build_diffusion
from scmkit_plugins.methods.progressive_distillation import AtStages

from scmkit.interfaces import AbstractLoss, AbstractMemory, LossOutput
from scmkit.plugin import Follower, Player, Plugin, Slot
from scmkit.training.ema import PowerEMA


@dataclass(frozen=True)
class Options(DiffusionOptions):
    at: tuple[int, ...] = ()
    """Steps at which the critic's loss is not finite."""
    percent: int = 100
    """Of the samples, for how many it is not."""


class Mean(AbstractMemory):
    """The mean of all samples, the newest weighing most."""

    x: Array

    def remember(self, batch):
        return Mean(0.9 * self.x + 0.1 * batch.x0.mean(0))


class Pulled(AbstractLoss):
    """Diffusion training, pulled towards what the followers and the memory say."""

    inner: AbstractLoss

    def __call__(self, model, scene, sample, *, key):
        out = self.inner(model, scene, sample, key=key)
        t = jnp.asarray(0.5)
        x = model.denoise(sample.x0, t)
        pull = sum(jnp.mean((x - f.denoise(sample.x0, t)) ** 2) for f in scene.followers.values())
        pull += jnp.mean((x - scene.memories["mean"].x) ** 2)
        return LossOutput(out.value + 0.1 * pull, out.metrics, out.ratio)


class Critic(AbstractLoss):
    """Diffusion training that fails."""

    inner: AbstractLoss
    # Arrays, so that one compiled program serves every test.
    at: Array
    percent: Array

    def __call__(self, model, scene, sample, *, key):
        out = self.inner(model, scene, sample, key=key)
        bad = jnp.any(scene.step == self.at - 1)
        bad &= jr.randint(jr.fold_in(key, 7), (), 0, 100) < self.percent
        return eqx.tree_at(lambda o: o.value, out, jnp.where(bad, jnp.nan, out.value))


def build_loss(config, context, *, key):
    return Pulled(build_diffusion(config, context, key=key))


def build_critic(config, context, *, key):
    at = jnp.zeros(20, int).at[: len(config.at)].set(jnp.array(config.at, int))
    return Critic(build_diffusion(config, context, key=key), at, jnp.array(config.percent))


def build_mean(config, context, *, key):
    return Mean(jnp.zeros(context.data.shape))


def stages(config, train):
    return train.steps // 3, 2 * train.steps // 3


plugin = Plugin(
    name="ensemble",
    summary="two players, followers, a memory and stages",
    provides={Slot.tangent: build_data_tangent, Slot.loss: build_loss},
    config=Options,
    suggests={Slot.sampler: "ddim"},  # Which is compiled sooner than an ODE solver.
    makes="diffusion",
    players=lambda config, train: {"critic": Player(build_critic, start="fresh", updates=2)},
    followers=lambda config, train: {
        "last": Follower(AtStages(stages(config, train))),
        "slow": Follower(PowerEMA(0.2), of="ema", player="critic"),
    },
    memories=lambda config, train: {"mean": build_mean},
    stages=stages,
)
