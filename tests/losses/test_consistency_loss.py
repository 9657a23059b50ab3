"""The consistency objective against the plain autodiff it rearranges, and the paper's identities."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from programs import attention_calls, multiplications
from scenes import scene_for
from scmkit_plugins.methods._tangent import ConsistencyLoss, ConsistencyOptions
from scmkit_plugins.modulation.positional import PositionalEmbedding
from scmkit_plugins.processes.edm import EDMParameterization, VarianceExploding
from scmkit_plugins.processes.flow_matching import RectifiedFlow, VelocityParameterization
from scmkit_plugins.processes.log_normal import LogNormal
from scmkit_plugins.processes.preconditioned import Preconditioned
from scmkit_plugins.processes.trigflow import TrigFlowParameterization, TrigFlowProcess
from scmkit_plugins.processes.vp import VariancePreserving

from scmkit import Model, build, compose
from scmkit.interfaces import UNCONDITIONED, AbstractNetwork, Point, Sample
from scmkit.losses import LogWeight, bound, eulerian, network_gain

SD, D = 0.5, 5
PARAMS = {
    "trigflow": TrigFlowParameterization(TrigFlowProcess(SD), SD),
    "edm": EDMParameterization(VarianceExploding(), SD),
    "flow": VelocityParameterization(RectifiedFlow(), SD),
    "vp": Preconditioned(VariancePreserving(), SD),
}
RATIOS = (0.05, 0.5, 3.0, 40.0)


class Net(AbstractNetwork):
    """A smooth network of everything it is given, with dropout."""

    first: eqx.nn.Linear
    second: eqx.nn.Linear
    dropout: eqx.nn.Dropout

    def __init__(self, key, rate=0.0):
        a, b = jr.split(key)
        self.first = eqx.nn.Linear(D + 1, 16, key=a)
        self.second = eqx.nn.Linear(16, D, key=b)
        self.dropout = eqx.nn.Dropout(rate)

    def __call__(self, x, c_noise, cond, *, key):
        h = jnp.tanh(self.first(jnp.concatenate([x, c_noise])))
        return self.second(self.dropout(h, key=key, inference=key is None))


PROPOSAL = LogNormal(-1.0, 1.4)


def terms(model, x_t, dx, t, key=None):
    """The Eulerian kernel as sCM calls it."""
    point = Point(x_t, x_t, x_t, t)  # Neither data nor noise is looked at.
    return eulerian(model, point, dx, weight=model.parameterization.weight(t), key=key)


def f32(x):
    return jnp.asarray(x, jnp.float32)


@pytest.fixture(params=PARAMS)
def model(request, getkey):
    return Model(PARAMS[request.param], Net(getkey()))


@pytest.mark.parametrize("ratio", RATIOS)
def test_terms_are_the_jvp_of_the_consistency_function(model, ratio, getkey):
    x, dx = jr.normal(getkey(), (2, D))
    t = model.process.time_at(f32(ratio))
    x_t, dx = ratio * model.process.alpha(t) * x, dx / model.parameterization.weight(t)
    F, stable, whole = terms(model, x_t, dx, t)
    f, df = jax.jvp(lambda x, t: model.denoise(x, t), (x_t, t), (dx, f32(1.0)))
    np.testing.assert_allclose(model.parameterization.denoise(F, x_t, t), f, rtol=1e-5, atol=1e-6)
    expected = model.parameterization.weight(t) * df
    scale = float(jnp.abs(stable).max() + jnp.abs(whole - stable).max())
    np.testing.assert_allclose(whole, expected, rtol=1e-4, atol=2e-5 * scale)


def test_trigflow_terms_are_algorithm_1(getkey):
    # g = -c^2 (sd F - dx) - r (c s x + J), J = c s sd dF/dt by form A.
    model = Model(PARAMS["trigflow"], Net(getkey()))
    x, dx = jr.normal(getkey(), (2, D))
    t = f32(0.9)
    c, s = jnp.cos(t), jnp.sin(t)

    def network(y, t):
        return model.network(y, t[None], UNCONDITIONED, key=None)

    F, J = jax.jvp(network, (x / SD, t), (c * s * dx, c * s * SD))
    _, stable, whole = terms(model, x, dx, t)
    np.testing.assert_allclose(stable, -(c**2) * (SD * F - dx), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(whole - stable, -(c * s * x + J), rtol=1e-5, atol=1e-6)


def make_loss(**changes):
    options = {"normalize": "l2", "constant": 0.1, "warmup_steps": 0} | changes
    return ConsistencyLoss(
        log_weight=LogWeight(PositionalEmbedding(channels=16)),
        options=ConsistencyOptions(**options),
    )


def value(model, loss, x0, key, step=0):
    return loss(model, scene_for(model, step=step), Sample(x0), key=key).value


def test_gradient_is_that_of_the_objective(model, getkey):
    """Descent on the loss moves f against df/dt: the gradient of (weight) f . sg(df/dt)."""
    loss, x0, key = make_loss(normalize="none"), jr.normal(getkey(), (D,)), getkey()
    param, process = model.parameterization, model.process
    k_time, k_noise, _ = jr.split(key, 3)
    t = PROPOSAL.sample(process, key=k_time)
    eps = jr.normal(k_noise, (D,))
    x_t, dx = process.perturb(x0, eps, t), process.velocity(x0, eps, t)
    _, df = jax.jvp(model.denoise, (x_t, t), (dx, f32(1.0)))
    # TrigFlow's prior weight: minus what F moves f by, per unit of its gain.
    w = -param.weight(t) * network_gain(param, t) / param.coefficients(t).out

    def objective(model):
        return 2 / D * w * jnp.vdot(model.denoise(x_t, t), jax.lax.stop_gradient(df))

    ours = eqx.filter_grad(value)(model, loss, x0, key)
    plain = eqx.filter_grad(objective)(model)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-3, atol=1e-4 * float(jnp.abs(b).max()) + 1e-7)


def test_shared_primal_equals_two_passes(getkey):
    """One pass with dropout is two separate passes with one mask."""
    model = Model(PARAMS["trigflow"], Net(getkey(), rate=0.5))
    loss, x0, key = make_loss(), jr.normal(getkey(), (D,)), getkey()
    k_time, k_noise, k_dropout = jr.split(key, 3)
    t = PROPOSAL.sample(model.process, key=k_time)
    eps = jr.normal(k_noise, (D,))
    x_t = model.process.perturb(x0, eps, t)
    dx = model.process.velocity(x0, eps, t)

    def two_passes(trained, frozen):
        _, _, whole = terms(frozen, x_t, dx, t, key=k_dropout)
        target = frozen.raw(x_t, t, key=k_dropout) + bound(whole, "l2", 0.1)
        return jnp.mean((trained.raw(x_t, t, key=k_dropout) - jax.lax.stop_gradient(target)) ** 2)

    ours = eqx.filter_grad(value)(model, loss, x0, key)
    plain = eqx.filter_grad(two_passes)(model, model)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_no_gradient_through_the_tangent(getkey):
    """The value is that of |g| alone: F - sg(F) vanishes, and so does every other gradient path."""
    model = Model(PARAMS["trigflow"], Net(getkey()))
    x0, key = jr.normal(getkey(), (D,)), getkey()
    residual = float(value(model, make_loss(), x0, key)) * D
    assert 0.5 < residual <= 1  # |g / (|g| + c)|^2: carries no information about progress


def test_warmup_phases_in_the_unstable_part(getkey):
    model = Model(PARAMS["trigflow"], Net(getkey()))
    x0, key = jr.normal(getkey(), (D,)), getkey()
    slow = make_loss(normalize="none", warmup_steps=1000)
    k_time, k_noise, _ = jr.split(key, 3)
    t = PROPOSAL.sample(model.process, key=k_time)
    eps = jr.normal(k_noise, (D,))
    x_t, dx = model.process.perturb(x0, eps, t), model.process.velocity(x0, eps, t)
    _, stable, whole = terms(model, x_t, dx, t)
    for step, r in ((0, 1e-3), (499, 0.5), (999, 1.0), (5000, 1.0)):
        expected = jnp.mean(((1 - r) * stable + r * whole) ** 2)
        np.testing.assert_allclose(value(model, slow, x0, key, step), expected, rtol=1e-4)


@pytest.mark.parametrize(("kind", "size"), [("l2", 5.0), ("rms", 5 / np.sqrt(25)), ("none", 0)])
def test_bound(kind, size):
    g = jnp.zeros(25).at[0].set(3.0).at[1].set(4.0)
    expected = g if kind == "none" else g / (size + 0.1)
    np.testing.assert_allclose(bound(g, kind, 0.1), expected, rtol=1e-6)


def test_clip():
    np.testing.assert_array_equal(bound(jnp.array([-3.0, 0.25, 7.0]), "clip", 1.0), [-1, 0.25, 1])


def test_learned_weight_optimum():
    """exp(w) E[error] = 1 at the optimum of exp(w) error - w, whatever scales the error."""
    for scale in (0.01, 1.0, 30.0):
        slope = jax.grad(lambda w, scale=scale: jnp.exp(w) * scale - w)(-jnp.log(f32(scale)))
        np.testing.assert_allclose(slope, 0, atol=1e-5)


def gradients(plugins, options):
    """The gradient of the consistency loss, and of the diffusion loss, by the model's arrays."""
    recipe = compose(["trigflow", *plugins, "sct"], options, data="digits", teacher="none")
    assembly = build(recipe, key=jr.key(0))
    diffusion = build(compose(["trigflow", "diffusion"], data="digits"), key=jr.key(0)).loss
    x0, keys = jnp.ones((16, 1, 8, 8)), jr.split(jr.key(0), 16)
    trained, static = eqx.partition(assembly.model, eqx.is_inexact_array)

    def gradient(loss):
        def total(trained):
            model = eqx.combine(trained, static)

            def one(x0, key):
                scene = scene_for(model, tangent=assembly.tangent, proposal=assembly.proposal)
                return loss(model, scene, Sample(x0), key=key).value

            return jax.vmap(one)(x0, keys).sum()

        return jax.grad(total)

    return gradient(assembly.loss), gradient(diffusion), trained


def test_the_primal_is_computed_once():
    """A step is forward, tangent and twice backward: 4/3 of a diffusion step, not 5/3."""
    sizes = {"mlp.width": 64, "mlp.depth": 3, "mlp.embedding_dim": 4, "positional.channels": 2}
    consistency, diffusion, trained = gradients([], sizes)
    ratio = multiplications(consistency, trained) / multiplications(diffusion, trained)
    # The first layer needs no gradient of its input, so a plain step is a little under 3 units.
    assert 1.25 < ratio < 1.45, ratio


@pytest.mark.parametrize("remat", ["none", "light", "full"])
def test_the_primal_is_computed_once_in_scanned_attention(remat):
    """And a rematerialised block computes it once more, unless it keeps attention's output."""
    depth = 3
    sizes = {"dit.width": 64, "dit.depth": depth, "dit.remat": remat}
    consistency, diffusion, trained = gradients(["dit", "pallas-attention"], sizes)
    again = {"forward": depth} if remat == "full" else {}
    assert attention_calls(consistency, trained) == {"dual": depth, "backward": depth, **again}
    assert attention_calls(diffusion, trained) == {
        "forward": depth * (2 if remat == "full" else 1),
        "backward": depth,
    }
    ratio = multiplications(consistency, trained) / multiplications(diffusion, trained)
    assert 1.2 < ratio < 1.4, ratio


@pytest.mark.slow
def test_scanned_attention_equals_two_passes(getkey):
    """The step of a rematerialised transformer, against plain autodiff of plain attention."""
    sizes = {"dit.width": 32, "dit.depth": 2, "dit.remat": "full", "dit.heads": 2}
    models = []
    for attention in ("pallas-attention", "xla-attention"):
        recipe = compose(["trigflow", "dit", attention, "sct"], sizes, data="digits")
        model = build(recipe, key=jr.key(0)).model
        arrays, static = eqx.partition(model, eqx.is_inexact_array)
        # Layers that start at zero would hide everything behind them.
        arrays = jax.tree.map(lambda a: a + 0.1 * jr.normal(jr.key(a.size), a.shape), arrays)
        models.append(eqx.combine(arrays, static))
    fused, plain = models
    x_t, dx = jr.normal(getkey(), (2, 1, 8, 8))
    t = f32(0.9)

    def shared(model):
        F, _, whole = terms(model, x_t, dx, t)
        return jnp.sum((F - jax.lax.stop_gradient(F) + whole) ** 2)

    def two_passes(model):
        _, _, whole = terms(plain, x_t, dx, t)
        F = model.raw(x_t, t)
        return jnp.sum((F - jax.lax.stop_gradient(F) + whole) ** 2)

    ours = eqx.filter_jit(eqx.filter_grad(shared))(fused)
    expected = eqx.filter_jit(eqx.filter_grad(two_passes))(plain)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5 * float(jnp.abs(b).max()) + 1e-7)
