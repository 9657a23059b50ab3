"""Self-distillation of flow maps: Lagrangian (`lsd`), Eulerian (`esd`) and progressive (`psd`)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from annotated_types import Ge, Le
from jaxtyping import Array, Float

from scmkit.interfaces import AbstractLoss, LossOutput, Point, Sample, Scene
from scmkit.losses import Derivative, derivative_along, lagrangian, noised, velocity_gain
from scmkit.models.model import Model
from scmkit.plugin import Plugin, Slot
from scmkit.sampling import angle_of, time_at_angle
from scmkit.types import Key, Scalar
from scmkit_plugins.methods._data_tangent import build_data_tangent
from scmkit_plugins.methods._flowmap import flow_error, jump_error, two_jumps, two_times


@dataclass(frozen=True)
class Options:
    """Options of self-distillation."""

    equal: Annotated[float, Ge(0), Le(1)] = 0.75
    """Weight of flow matching, on jumps that end where they start, against that of all others."""


@dataclass(frozen=True)
class DerivativeOptions(Options):
    """Options of Lagrangian and Eulerian self-distillation."""

    derivative: Derivative = "jvp"
    """How the network is differentiated, with a gradient through its derivative."""


@dataclass(frozen=True)
class ProgressiveOptions(Options):
    """Options of progressive self-distillation."""

    split: Literal["midpoint", "uniform"] = "midpoint"
    """Where a jump is split in two: in the middle (PSD-M), or anywhere (PSD-U)."""


def lagrangian_error(
    options: DerivativeOptions, model: Model, point: Point, s: Scalar, *, key: Key
) -> Float[Array, "*shape"]:
    r"""$(\partial_s G_\theta - v^-(G_\theta, s))\,/\,q_s$."""
    k_dropout, _ = jr.split(key)
    end, moved = lagrangian(model, point, s, derivative=options.derivative, key=k_dropout)
    v = model.velocity(jax.lax.stop_gradient(end), s, point.cond, key=k_dropout)
    return (moved - jax.lax.stop_gradient(v)) / velocity_gain(model.parameterization, s)


def eulerian_error(
    options: DerivativeOptions, model: Model, point: Point, s: Scalar, *, key: Key
) -> Float[Array, "*shape"]:
    r"""$(\partial_t G_\theta + \mathrm{sg}(\partial_x G_\theta\, v_\theta))\,/\,q_t$."""
    k_dropout, _ = jr.split(key)
    param, t, cond = model.parameterization, point.t, point.cond

    def jump(x: Float[Array, "*shape"], t: Scalar) -> Float[Array, "*shape"]:
        return model.jump(x, t, s, cond, key=k_dropout)

    v = model.velocity(point.x_t, t, cond, key=k_dropout)
    scale = 1 / velocity_gain(param, t)
    gap = 1e-3 * jnp.minimum(t, param.process.angular_weight(param.sigma_data, t))
    along = (jump, point.x_t, t)
    _, both = derivative_along(*along, v, scale, kind=options.derivative, gap=gap)
    _, in_t = derivative_along(*along, 0 * v, scale, kind=options.derivative, gap=gap)
    return in_t + jax.lax.stop_gradient(both - in_t)


def progressive_error(
    options: ProgressiveOptions, model: Model, point: Point, s: Scalar, *, key: Key
) -> Float[Array, "*shape"]:
    r"""$(G_\theta(x_t, t, s) - G^-(G^-(x_t, t, m), m, s))\,/\,b$."""
    k_dropout, k_split = jr.split(key)
    param = model.parameterization
    part = 0.5 if options.split == "midpoint" else jr.uniform(k_split)
    angles = (1 - part) * angle_of(param, point.t) + part * angle_of(param, s)
    end = two_jumps(model, point, time_at_angle(param, angles), s, key=k_dropout)
    return jump_error(model, point, s, jax.lax.stop_gradient(end), key=k_dropout)


class SelfDistillationLoss(AbstractLoss):
    r"""$\eta\,|v_\theta - \dot x|^2 / q^2 + (1 - \eta)\,|e_\theta(x_t, t, s)|^2$: a model as its own teacher.

    `e` is by how much a jump misses what makes it a flow map: that of `lagrangian_error`, `eulerian_error`
    or `progressive_error`, each in units of the network's output (arXiv 2505.18825). The paper's
    times are uniform on $s \le t$.
    """

    options: Options
    error: Callable[..., Float[Array, "*shape"]] = eqx.field(static=True)

    def __call__(self, model: Model, scene: Scene, sample: Sample, *, key: Key) -> LossOutput:
        k_times, k_noise, k_error = jr.split(key, 3)
        t, s = two_times(scene, model.process, key=k_times)
        point = noised(model.process, sample, t, key=k_noise)
        off = jnp.mean(self.error(self.options, model, point, s, key=k_error) ** 2)
        k_dropout, _ = jr.split(k_error)
        flow = jnp.mean(flow_error(model, point, scene.tangent(point), key=k_dropout) ** 2)
        value = self.options.equal * flow + (1 - self.options.equal) * off
        return LossOutput(value, {"jump": off, "flow": flow}, model.process.ratio(t))


def method(name: str, kind: str, error: Callable[..., Any], options: type) -> Plugin:
    return Plugin(
        name=name,
        summary=f"{kind} self-distillation of a flow map (arXiv 2505.18825)",
        provides={
            Slot.loss: lambda config, context, *, key: SelfDistillationLoss(config, error),
            Slot.tangent: build_data_tangent,
        },
        config=options,
        differentiates=issubclass(options, DerivativeOptions),
        uses=(Slot.coupling,),
        suggests={Slot.sampler: "flow-map"},
        settings={"log-normal.mean": 0.0, "log-normal.std": 1.8},
        makes="flow-map",
        noise_labels=2,
    )


lsd = method("lsd", "Lagrangian", lagrangian_error, DerivativeOptions)
esd = method("esd", "Eulerian", eulerian_error, DerivativeOptions)
psd = method("psd", "progressive", progressive_error, ProgressiveOptions)
