"""Flow-map methods on the exact flow map of a Gaussian, where the loss of each must be zero, and near it."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from jaxtyping import Array
from scenes import scene_for
from scmkit_plugins.distances.l2 import L2
from scmkit_plugins.methods import (
    ayf,
    ctm,
    facm,
    improved_meanflow,
    meanflow,
    self_distillation,
    shortcut,
    soflow,
    split_meanflow,
    tvm,
)
from scmkit_plugins.processes.edm import EDMParameterization, VarianceExploding
from scmkit_plugins.processes.flow_matching import RectifiedFlow, VelocityParameterization
from scmkit_plugins.processes.log_normal import LogNormal
from scmkit_plugins.processes.trigflow import TrigFlowParameterization, TrigFlowProcess

from scmkit import Model
from scmkit.interfaces import (
    AbstractNetwork,
    AbstractParameterization,
    AbstractTangentEstimator,
    Conditioning,
    DataSpec,
    Point,
    Sample,
)
from scmkit.losses import lagrangian
from scmkit.models.conditioning import NEUTRAL
from scmkit.plugin import Context, Plugin, Slot
from scmkit.testing.oracles import Gaussian

SD = 0.5
PARAMS = {
    "trigflow": TrigFlowParameterization(TrigFlowProcess(SD), SD),
    "edm": EDMParameterization(VarianceExploding(), SD),
    "flow": VelocityParameterization(RectifiedFlow(), SD),
}
METHODS: list[tuple[Plugin, str, dict[str, Any]]] = [
    (meanflow.plugin, "flow", {}),
    (improved_meanflow.plugin, "edm", {}),
    (split_meanflow.plugin, "trigflow", {}),
    (soflow.plugin, "edm", {}),
    (shortcut.plugin, "edm", {"finest": 2**30}),
    (self_distillation.lsd, "edm", {}),
    (self_distillation.esd, "trigflow", {}),
    (self_distillation.psd, "flow", {"split": "uniform"}),
    (tvm.plugin, "trigflow", {}),
    (facm.plugin, "edm", {"cosine": 0.0}),
    (ayf.plugin, "edm", {"normalize": "none", "warmup_end": 1.0}),
    (ayf.plugin, "trigflow", {"normalize": "none", "objective": "lagrangian"}),
    (ayf.plugin, "flow", {"objective": "regression"}),
    (ctm.plugin, "edm", {"solver": "ddim", "denoising": 0.0}),
]
"""Each on a process, with options under which its loss has an exact zero."""


@pytest.fixture(autouse=True)
def float64() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


def density() -> Gaussian:
    return Gaussian(mean=jnp.asarray(0.3), std=jnp.asarray(0.2))


class ExactMap(AbstractNetwork):
    """The network whose jumps are the exact flow map, and whose jump to where it starts is the velocity,
    moved by an offset."""

    parameterization: AbstractParameterization
    offset: Array

    def __call__(self, x: Array, c_noise: Array, cond: Conditioning, *, key: Any) -> Array:
        param, process = self.parameterization, self.parameterization.process
        edm = isinstance(param, EDMParameterization)
        t, s = jnp.exp(4 * c_noise) if edm else c_noise
        # The data has the label of a small noise level.
        s = jnp.where(process.ratio(s) > 1.01e-4, s, 0)
        x_t = x / param.coefficients(t).in_
        apart = jnp.abs(t - s) > 1e-9 * t
        s = jnp.where(apart, s, t / 2)
        a, b = param.jump(t, s)
        mean = (density().flow_map(process, x_t, t, s) - a * x_t) / b
        still, moved = (param.velocity(jnp.full_like(x, f), x_t, t) for f in (0, 1))
        along = (density().velocity(process, x_t, t) - still) / (moved - still)
        return jnp.where(apart, mean, along) + self.offset


class ExactTangent(AbstractTangentEstimator):
    """The density's own velocity and paths."""

    param: AbstractParameterization

    def __call__(self, point: Point) -> Array:
        return density().velocity(self.param.process, point.x_t, point.t)

    def advance(self, point: Point, r: Array) -> Point:
        x = density().flow_map(self.param.process, point.x_t, point.t, r)
        return Point(point.x0, point.eps, x, r, point.cond)


def arrange(plugin: Plugin, param: AbstractParameterization, options: dict[str, Any]) -> Any:
    """The mean loss at a few samples and its derivative, as a function of the offset."""
    data = DataSpec("gaussian", (1,), 0, (0.0,), (1.0,))
    context = Context(data, {Slot.distance: L2(squared=True)})
    loss = plugin.provides[Slot.loss](plugin.config(**options), context, key=jr.key(0))
    x0 = 0.3 + 0.2 * jr.normal(jr.key(1), (4, 1))

    def value(offset: Array) -> Array:
        still = jax.lax.stop_gradient(offset)
        model, target = (Model(param, ExactMap(param, o), noise_labels=2) for o in (offset, still))
        scene = scene_for(
            model,
            tangent=ExactTangent(param),
            proposal=LogNormal(-0.4, 1.0),
            step=10**6,
            steps=2 * 10**6,
            followers={"target": target},
        )
        each = jax.vmap(lambda x, k: loss(model, scene, Sample(x), key=k).value)
        return jnp.mean(each(x0, jr.split(jr.key(2), 4)))

    return jax.jit(jax.value_and_grad(value))


@pytest.mark.parametrize(
    ("plugin", "name", "options"), METHODS, ids=[f"{p.name}-{name}" for p, name, _ in METHODS]
)
def test_the_loss_is_zero_on_the_exact_flow_map_and_leads_back_to_it(
    plugin: Plugin, name: str, options: dict[str, Any]
) -> None:
    loss = arrange(plugin, PARAMS[name], options)
    value, slope = loss(jnp.asarray(0.0))
    np.testing.assert_allclose(value, 0, atol=1e-15)
    np.testing.assert_allclose(slope, 0, atol=1e-7)
    for offset in (-0.05, 0.05):
        value, slope = loss(jnp.asarray(offset))
        assert value > 1e-6
        assert slope * offset > 0


class Constant(AbstractNetwork):
    """The mean velocity, guided in an interval, where that of a label is one and that of none zero."""

    def __call__(self, x: Array, c_noise: Array, cond: Conditioning, *, key: Any) -> Array:
        t, s = c_noise
        strength, low, high = (
            cond.scalars.get(name, jnp.asarray(neutral)) for name, neutral in NEUTRAL.items()
        )
        inside = jnp.where((low <= t) & (t <= high), 1.0, 0.0)
        both = jnp.clip(t, low, high) - jnp.clip(s, low, high)
        part = jnp.where(t > s, both / jnp.where(t > s, t - s, 1), inside)
        return jnp.full_like(x, 0 if cond.label is None else 1 + (strength - 1) * part)


class ConstantTangent(AbstractTangentEstimator):
    """The velocity one."""

    def __call__(self, point: Point) -> Array:
        return jnp.ones_like(point.x_t)

    def advance(self, point: Point, r: Array) -> Point:
        return Point(point.x0, point.eps, point.x_t + r - point.t, r, point.cond)


@pytest.mark.parametrize("method", [improved_meanflow, tvm], ids=["improved-meanflow", "tvm"])
def test_guidance_and_its_interval_are_what_the_network_is_told(method: Any) -> None:
    param = PARAMS["flow"]
    options = method.Options(guidance_max=8.0, label_dropout=0.0)
    context = Context(DataSpec("none", (1,), 3, (0.0,), (1.0,)))
    loss = method.build_loss(options, context, key=jr.key(0))
    model = Model(param, Constant(), noise_labels=2)
    scene = scene_for(model, tangent=ConstantTangent(), followers={"target": model})
    sample = Sample(jnp.zeros(1), Conditioning(jnp.asarray(1)))
    value = jax.jit(jax.vmap(lambda key: loss(model, scene, sample, key=key).value))
    np.testing.assert_allclose(value(jr.split(jr.key(0), 16)), 0, atol=1e-20)


@pytest.mark.parametrize("kind", ["semi-continuous", "central"])
def test_the_end_of_a_jump_moves_alike_by_every_estimator(kind: Any) -> None:
    param = PARAMS["trigflow"]
    model = Model(param, ExactMap(param, jnp.zeros(())), noise_labels=2)
    point = Point(jnp.ones(1), jnp.ones(1), jnp.asarray([0.4]), jnp.asarray(1.2))
    end, moved = lagrangian(model, point, jnp.asarray(0.7))
    again, found = lagrangian(model, point, jnp.asarray(0.7), derivative=kind)
    np.testing.assert_array_equal(again, end)
    error = 1e-4 if kind == "semi-continuous" else 1e-7
    np.testing.assert_allclose(found, moved, rtol=0, atol=error)
    np.testing.assert_allclose(moved, density().velocity(param.process, end, jnp.asarray(0.7)))
