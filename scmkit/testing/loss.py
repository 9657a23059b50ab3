"""Checks of losses, on a small network under each of a few settings."""

from dataclasses import dataclass
from functools import cached_property

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, Int

from scmkit.interfaces import (
    AbstractLoss,
    AbstractTangentEstimator,
    Conditioning,
    LossOutput,
)
from scmkit.models.model import Model
from scmkit.plugin import Slot
from scmkit.testing.check import require, require_finite
from scmkit.testing.family import Family
from scmkit.testing.numeric import arrays_of
from scmkit.testing.reference import reference_model
from scmkit.testing.workbench import Bench, Case
from scmkit.types import Key

N = 8


class Weighted(AbstractTangentEstimator):
    """An estimator times an array, which must not be trained."""

    tangent: AbstractTangentEstimator
    factor: Float[Array, ""]

    def __call__(
        self,
        x0: Float[Array, "*shape"],
        eps: Float[Array, "*shape"],
        x_t: Float[Array, "*shape"],
        t: Float[Array, ""],
        cond: Conditioning | None,
    ) -> Float[Array, "*shape"]:
        return self.factor * self.tangent(x0, eps, x_t, t, cond)

    def advance(
        self,
        x0: Float[Array, "*shape"],
        eps: Float[Array, "*shape"],
        x_t: Float[Array, "*shape"],
        t: Float[Array, ""],
        r: Float[Array, ""],
        cond: Conditioning | None,
    ) -> Float[Array, "*shape"]:
        return self.factor * self.tangent.advance(x0, eps, x_t, t, r, cond)


Trained = tuple[Model, AbstractLoss, AbstractTangentEstimator]


@eqx.filter_jit
def batch_loss(
    trained: Trained,
    x0: Float[Array, "n *shape"],
    cond: Conditioning | None,
    step: Int[Array, ""],
    key: Key,
) -> tuple[LossOutput, Trained]:
    """The losses of a batch, and the gradient of their mean in model, loss and tangent."""

    def mean(trained: Trained) -> tuple[Float[Array, ""], LossOutput]:
        model, loss, tangent = trained

        def one(x0: Array, cond: Conditioning | None, key: Key) -> LossOutput:
            return loss(model, tangent, x0, cond, step=step, key=key)

        out = jax.vmap(one)(x0, cond, jr.split(key, x0.shape[0]))
        return jnp.mean(out.value), out

    (_, out), gradients = eqx.filter_value_and_grad(mean, has_aux=True)(trained)
    return out, gradients


@dataclass(frozen=True)
class Losing:
    """What a loss is called with."""

    trained: Trained
    x0: Float[Array, "n *shape"]
    cond: Conditioning | None

    def at(self, step: int, seed: int = 0) -> tuple[LossOutput, Trained]:
        """Losses and gradients at a step of training."""
        return batch_loss(
            self.trained, self.x0, self.cond, jnp.asarray(step, jnp.int32), jr.key(seed)
        )

    @cached_property
    def late(self) -> tuple[LossOutput, Trained]:
        """Losses and gradients long after every warmup."""
        return self.at(10_000_000)


def values_and_metrics_are_finite_scalars(given: Losing) -> None:
    for step in (0, 10_000_000):
        out, _ = given.at(step)
        named = {"value": out.value, "ratio": out.ratio} | {
            f"metrics['{name}']": value for name, value in out.metrics.items()
        }
        for name, value in named.items():
            require(
                value.shape == (N,),
                f"{name} must be a scalar for one sample, not of shape {value.shape[1:]}",
            )
            require_finite(value, f"{name} at step {step}")
        require(out.value.dtype == jnp.float32, f"value must be float32, not {out.value.dtype}")


def ratio_says_where_the_sample_stood(given: Losing) -> None:
    out, _ = given.late
    largest = given.trained[0].process.ratio_max
    require(
        out.ratio.min() > 0 and out.ratio.max() < 1.01 * largest,
        f"ratio must be sigma / alpha, in (0, {largest:g}], "
        f"but goes from {out.ratio.min():g} to {out.ratio.max():g}",
    )


def the_network_is_trained(given: Losing) -> None:
    _, (model, _, _) = given.late
    gradients = arrays_of(model)
    for gradient in gradients:
        require_finite(gradient, "a gradient of the network")
    require(
        any(jnp.any(g != 0) for g in gradients), "no gradient reaches the network: what is trained?"
    )


def the_loss_trains_its_own_arrays(given: Losing) -> None:
    _, (_, loss, _) = given.late
    for gradient in arrays_of(loss):
        require_finite(gradient, "a gradient of the loss's own arrays")


def the_tangent_is_held_fixed(given: Losing) -> None:
    _, (_, _, tangent) = given.late
    require(
        not any(jnp.any(g != 0) for g in arrays_of(tangent)),
        "a gradient reaches the tangent estimator: stop it (jax.lax.stop_gradient)",
    )


def the_key_decides(given: Losing) -> None:
    out, _ = given.late
    again, other = given.at(10_000_000)[0], given.at(10_000_000, seed=1)[0]
    require((out.value == again.value).all(), "one key must always give one loss")
    require(jnp.any(out.ratio != other.ratio), "other keys give the same noise levels")


def arrange(bench: Bench) -> Losing:
    classes = bench.data.num_classes
    model = reference_model(bench.build(Slot.parameterization), bench.data)
    tangent = Weighted(bench.build(Slot.tangent), jnp.ones(()))
    return Losing(
        trained=(model, bench.build(Slot.loss), tangent),
        x0=bench.data.sigma_data * jr.normal(jr.key(2), (N, *bench.data.shape)),
        cond=Conditioning(jnp.arange(N, dtype=jnp.int32) % classes) if classes else None,
    )


FAMILY = Family(
    arrange,
    (
        values_and_metrics_are_finite_scalars,
        ratio_says_where_the_sample_stood,
        the_network_is_trained,
        the_loss_trains_its_own_arrays,
        the_tangent_is_held_fixed,
        the_key_decides,
    ),
    (Case("vector"), Case("labelled-edm-image", shape=(1, 8, 8), num_classes=4, noise="edm")),
)
