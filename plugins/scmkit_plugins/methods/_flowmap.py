"""What flow-map methods share: pairs of times, errors in the network's units, and a copy that lags behind."""

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Bool, Float, Int

from scmkit.interfaces import (
    AbstractEMA,
    AbstractModel,
    AbstractNoiseProcess,
    Conditioning,
    Point,
    Scene,
)
from scmkit.losses import velocity_gain
from scmkit.plugin import Context
from scmkit.types import Key, Scalar

LEAST_RATIO = 1e-3
"""The noise-to-signal ratio of the earliest time that `rectified_time` gives."""


class Lagging(AbstractEMA):
    """A target network, of which each update keeps the same share."""

    kept: float = eqx.field(static=True)

    def gain(self, step: Int[Array, ""]) -> Scalar:
        return jnp.full((), 1 - self.kept, jnp.float32)


def two_times(scene: Scene, process: AbstractNoiseProcess, *, key: Key) -> tuple[Scalar, Scalar]:
    """Two times of the recipe's proposal, the later one first."""
    t, s = (scene.proposal.sample(process, key=k) for k in jr.split(key))
    return jnp.maximum(t, s), jnp.minimum(t, s)


def rectified_time(process: AbstractNoiseProcess, tau: Scalar) -> Scalar:
    r"""The process's time where rectified flow's is $\tau$: where $\sigma/\alpha = \tau / (1 - \tau)$."""
    return process.time_at(jnp.clip(tau / (1 - tau), LEAST_RATIO, process.ratio_max))


def classes_to_guide(strongest: float, context: Context) -> int:
    """The number of classes; raises `ValueError` for guidance on data without any."""
    if strongest > 1 and not context.data.num_classes:
        raise ValueError("guidance needs data with classes; leave guidance_max at 1")
    return context.data.num_classes


def maybe_unlabelled(
    cond: Conditioning, num_classes: int, share: float, *, key: Key
) -> tuple[Int[Array, ""], Bool[Array, ""]]:
    """The label, which a share of samples loses to "no label", and whether it is lost."""
    assert cond.label is not None
    lost = jr.bernoulli(key, share)
    return jnp.where(lost, num_classes, cond.label), lost


def flow_error(
    model: AbstractModel, point: Point, dx: Float[Array, "*shape"], *, key: Key | None = None
) -> Float[Array, "*shape"]:
    r"""$(v_\theta(x_t, t) - \dot x)\,/\,\partial_F v$: the error of flow matching, in units of `F`."""
    velocity = model.velocity(point.x_t, point.t, point.cond, key=key)
    return (velocity - dx) / velocity_gain(model.parameterization, point.t)


def jump_error(
    model: AbstractModel,
    point: Point,
    s: Scalar,
    end: Float[Array, "*shape"],
    *,
    key: Key | None = None,
) -> Float[Array, "*shape"]:
    r"""$(G_\theta(x_t, t, s) - end)\,/\,b$: how far a jump misses, in units of `F`.

    Zero for times less than a thousandth apart, where float32 has few digits of the difference left.
    """
    a, b = model.parameterization.jump(point.t, s)
    apart = point.t - s > 1e-3 * point.t
    F = model.raw(point.x_t, point.t, point.cond, s=s, key=key)
    return jnp.where(apart, F + (a * point.x_t - end) / jnp.where(apart, b, 1), 0)


def two_jumps(
    model: AbstractModel, point: Point, middle: Scalar, s: Scalar, *, key: Key | None = None
) -> Float[Array, "*shape"]:
    """$G(G(x_t, t, m), m, s)$: by the semigroup property what one jump should give."""
    there = model.jump(point.x_t, point.t, middle, point.cond, key=key)
    return model.jump(there, middle, s, point.cond, key=key)
