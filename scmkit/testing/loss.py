"""Checks of losses, those of all players, on small networks under each of a few settings."""

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from scmkit.composing.build import named_key
from scmkit.composing.cast import cast_of
from scmkit.composing.slots import class_name
from scmkit.distribution.gradient import ByHand
from scmkit.distribution.layout import Layout
from scmkit.distribution.mesh import mesh_of
from scmkit.interfaces import (
    AbstractBatchLoss,
    AbstractGroupLoss,
    AnyLoss,
    Conditioning,
    LossOutput,
    Sample,
    Scene,
)
from scmkit.plugin import Slot
from scmkit.settings import TrainingSettings
from scmkit.testing.check import require, require_close, require_finite
from scmkit.testing.family import Family
from scmkit.testing.memory import remembered
from scmkit.testing.numeric import arrays_of
from scmkit.testing.reference import reference_model
from scmkit.testing.workbench import Bench, Case
from scmkit.training.gradient import gradient_of
from scmkit.training.objective import Trained, frozen, losses
from scmkit.types import Keys, Scalar

LEAST = 8
"""The samples of a batch, or a few more where a loss takes groups that do not divide them."""
EARLY, LATE = 0, 10_000_000
"""The steps at which losses are called: the first, and one long after every warmup."""


@eqx.filter_jit
def batch_loss(
    trained: Trained, scene: Scene, batch: Sample, keys: Keys
) -> tuple[LossOutput, Trained]:
    """The losses of a batch, and the gradient of their mean in the model and the loss."""

    def mean(trained: Trained) -> tuple[Scalar, LossOutput]:
        out = losses(trained, frozen(scene), batch, keys)
        return jnp.mean(out.value), out

    gradients, out = eqx.filter_grad(mean, has_aux=True)(trained)
    return out, gradients


@dataclass(frozen=True)
class Losing:
    """The arguments with which the loss of each player is called."""

    players: Mapping[str, Trained]
    scene: Scene
    batch: Sample
    uses: Collection[Slot]
    """The optional slots that the plugin declares its loss to look at."""

    @property
    def n(self) -> int:
        """The number of samples of the batch."""
        return len(self.batch.x0)

    def at(self, step: int, player: str, seed: int = 0) -> tuple[LossOutput, Trained]:
        """A player's losses and gradients at a step of training."""
        keys = jr.split(jr.key(seed), self.n)
        return batch_loss(self.players[player], self.scene_at(step), self.batch, keys)

    def scene_at(self, step: int) -> Scene:
        """What losses look at, at a step of training."""
        return eqx.tree_at(
            lambda s: (s.step, s.progress),
            self.scene,
            (jnp.asarray(step, jnp.int32), jnp.asarray(0.0 if step == EARLY else 0.999)),
        )

    @cached_property
    def late(self) -> dict[str, tuple[LossOutput, Trained]]:
        """Every player's losses and gradients long after every warmup."""
        return {name: self.at(LATE, name) for name in self.players}


def values_and_metrics_are_finite_scalars(given: Losing) -> None:
    for name in given.players:
        for step in (EARLY, LATE):
            out, _ = given.at(step, name) if step == EARLY else given.late[name]
            for what, value in {"value": out.value, "ratio": out.ratio, **out.metrics}.items():
                require(
                    value.shape == (given.n,) and value.dtype == jnp.float32,
                    f"{name}: '{what}' must be a float32 scalar for each sample, not {value.dtype} of "
                    f"shape {value.shape[1:]}",
                )
                require_finite(value, f"{name}: '{what}' at step {step}")


def ratio_says_where_the_sample_stood(given: Losing) -> None:
    largest = given.players["generator"][0].process.ratio_max
    for name, (out, _) in given.late.items():
        require(
            out.ratio.min() > 0 and out.ratio.max() < 1.01 * largest,
            f"{name}: ratio must be sigma / alpha, in (0, {largest:g}], "
            f"but goes from {out.ratio.min():g} to {out.ratio.max():g}",
        )


def every_player_is_trained(given: Losing) -> None:
    for name, (_, (model, _)) in given.late.items():
        gradients = arrays_of(model)
        for gradient in gradients:
            require_finite(gradient, f"{name}: a gradient of the network")
        require(
            any(jnp.any(g != 0) for g in gradients),
            f"{name}: no gradient reaches the network: what is trained?",
        )


def losses_train_their_own_arrays(given: Losing) -> None:
    for name, (_, (_, loss)) in given.late.items():
        for gradient in arrays_of(loss):
            require_finite(gradient, f"{name}: a gradient of the loss's own arrays")


def the_key_decides(given: Losing) -> None:
    for name, (out, _) in given.late.items():
        again, other = given.at(LATE, name)[0], given.at(LATE, name, seed=1)[0]
        require((out.value == again.value).all(), f"{name}: one key must always give one loss")
        require(jnp.any(out.value != other.value), f"{name}: other keys give the same losses")


def the_order_of_a_batch_is_nothing(given: Losing) -> None:
    turn = np.roll(np.arange(given.n), 3)
    for name, trained in given.players.items():
        if not isinstance(trained[1], AbstractBatchLoss):
            continue  # Samples, or groups, never meet.
        keys = jr.split(jr.key(0), given.n)
        one = batch_loss(trained, given.scene, given.batch, keys)[0]
        turned = jax.tree.map(lambda a: a[turn], given.batch)
        two = batch_loss(trained, given.scene, turned, keys[turn])[0]
        require_close(
            jnp.mean(two.value), jnp.mean(one.value), f"{name}: the mean loss of a turned batch"
        )


def one_and_two_devices_give_one_gradient(given: Losing) -> None:
    """Where there are two devices, as `scmkit plugins check` makes them on a CPU."""
    devices = max(jax.devices(), jax.devices("cpu"), key=len)
    if len(devices) < 2:
        return
    layout = Layout(mesh_of("fsdp=2", devices[:2]), least=1)
    hands, scene = ByHand(layout), given.scene_at(LATE)
    keys = jr.split(jr.key(0), given.n)
    for name, (_, gradients) in given.late.items():
        trained = given.players[name]
        call = (trained, scene, given.batch, keys, None)
        differentiate = gradient_of(trained[1], given.n, 1, hands)
        _, divided = eqx.filter_jit(differentiate)(*layout.everywhere(call))
        pairs = zip(arrays_of(divided), arrays_of(gradients), strict=True)
        for i, (two, one) in enumerate(pairs):
            require_close(two, one, f"{name}: gradient {i} on two devices")


def noise_of_a_coupling_is_taken_as_declared(given: Losing) -> None:
    batch, keys = given.batch, jr.split(jr.key(0), given.n)
    values = [
        eqx.filter_jit(losses)(
            given.players["generator"],
            given.scene,
            Sample(batch.x0, batch.cond, jr.normal(jr.key(seed), batch.x0.shape)),
            keys,
        ).value
        for seed in (3, 4)
    ]
    looks, declared = bool(jnp.any(values[0] != values[1])), Slot.coupling in given.uses
    require(
        looks == declared,
        f"the loss {'takes' if looks else 'does not take'} the noise of a sample that has its own, "
        f"but Slot.coupling is {'' if declared else 'not '}among what the plugin uses",
    )


def _batch(bench: Bench, losses: Iterable[AnyLoss]) -> Sample:
    """Samples of unlike labels, in whole groups of every loss that takes groups."""
    groups = [loss.group for loss in losses if isinstance(loss, AbstractGroupLoss)]
    require(
        all(type(size) is int and size > 0 for size in groups),
        f"group must be a whole number of at least 1, not {', '.join(map(str, groups))}",
    )
    whole, classes = math.lcm(*groups), bench.data.num_classes
    n = -(-LEAST // whole) * whole
    x0 = bench.data.sigma_data * jr.normal(jr.key(2), (n, *bench.data.shape))
    label = jnp.arange(n, dtype=jnp.int32) % classes if classes else None
    return Sample(x0, Conditioning(label))


def arrange(bench: Bench) -> Losing:
    plugin, config = bench.plugin, bench.config
    cast = cast_of(f"plugin '{plugin.name}'", plugin, config, TrainingSettings())
    labels = plugin.noise_labels

    def model() -> Any:
        parameterization = bench.build(Slot.parameterization)
        return reference_model(parameterization, bench.data, noise_labels=labels)

    bench.place(Slot.network, model().network)
    context = bench.context(Slot.loss)
    players: dict[str, Trained] = {"generator": (model(), bench.build(Slot.loss))}
    for name, player in cast.players.items():
        key = named_key(jr.key(0), f"player/{name}")
        module = model() if player.model is None else player.model(config, context, key=key)
        loss = player.loss(config, context, key=key)
        require(
            isinstance(loss, AnyLoss),
            f"the loss of player '{name}' must be an {class_name(AnyLoss)}, "
            f"not a {type(loss).__name__}",
        )
        players[name] = (module, loss)
    batch = _batch(bench, [loss for _, loss in players.values()])
    memories = {
        name: make(config, context, key=named_key(jr.key(0), f"memory/{name}"))
        for name, make in cast.memories.items()
    }
    scene = Scene(
        step=jnp.zeros((), jnp.int32),
        progress=jnp.zeros(()),
        proposal=bench.build(Slot.proposal),
        tangent=bench.build(Slot.tangent),
        teacher=bench.teacher if plugin.starts_from != "scratch" else None,
        models={name: module for name, (module, _) in players.items()},
        followers={
            name: bench.teacher if f.start == "teacher" else players[f.player][0]
            for name, f in cast.followers.items()
        },
        memories={name: remembered(name, memory, batch) for name, memory in memories.items()},
    )
    return Losing(players, scene, batch, plugin.uses)


FAMILY = Family(
    arrange,
    (
        values_and_metrics_are_finite_scalars,
        ratio_says_where_the_sample_stood,
        every_player_is_trained,
        losses_train_their_own_arrays,
        the_key_decides,
        the_order_of_a_batch_is_nothing,
        noise_of_a_coupling_is_taken_as_declared,
        one_and_two_devices_give_one_gradient,
    ),
    (Case("vector"), Case("labeled-edm-image", shape=(1, 8, 8), num_classes=4, noise="edm")),
)
