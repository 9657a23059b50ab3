"""Fused attention under every transformation, against the plain autodiff that it replaces.

All in float64, where both are exact, so that a wrong rule cannot hide in rounding; and the calls are
counted in the program that is left after dead code is removed, since a rule that is lost along the
way shows in the cost alone.
"""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from programs import attention_calls
from scmkit_attention import attention_saveable

from scmkit import attention

BATCH, TOKENS, WIDTH, HEADS, LAYERS = 2, 6, 8, 2, 2
sg = jax.lax.stop_gradient


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def plain(q, k, v):
    logits = jnp.einsum("...nhd,...mhd->...hnm", q, k) / np.sqrt(q.shape[-1])
    return jnp.einsum("...hnm,...mhd->...nhd", jax.nn.softmax(logits, axis=-1), v)


def layer(attend, p, h, t):
    """A transformer's layer, for one sample or many."""
    heads = (*h.shape[:-1], HEADS, -1)
    g = h * (1 + jnp.sin(t))
    a = attend(*((g @ p[name]).reshape(heads) for name in ("q", "k", "v")))
    return h + jnp.tanh(a.reshape(h.shape) @ p["o"])


def net(attend, mode, params, x, t):
    """Layers in turn, as a `mode` says: vmapped, scanned, rematerialised."""
    body = functools.partial(layer, attend)
    if "checkpoint" in mode:
        body = jax.checkpoint(body)
    if "policy" in mode:
        body = jax.checkpoint(body, policy=attention_saveable)
    if "scan" in mode:
        return jax.lax.scan(lambda h, p: (body(p, h, t), None), x, params)[0]
    if "vmap" in mode:
        return jax.vmap(functools.partial(net, attend, mode.replace("vmap", "")), (None, 0, None))(
            params, x, t
        )
    for i in range(LAYERS):
        x = body(jax.tree.map(lambda w, i=i: w[i], params), x, t)
    return x


@pytest.fixture
def given(getkey):
    params = {name: 0.5 * jr.normal(getkey(), (LAYERS, WIDTH, WIDTH)) for name in "qkvo"}
    x, vx = jr.normal(getkey(), (2, BATCH, TOKENS, WIDTH))
    return params, x, vx, jnp.float64(0.7)


def close(found, expected):
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-10)


def along(f, x, vx, t):
    return jax.jvp(f, (x, t), (vx, jnp.ones_like(t)))


def consistency(F, dF):
    return jnp.sum((F - sg(F) + 0.1 * sg(dF)) ** 2)


def value(f, params, x, vx, t):
    return f(params, x, t)


def jvp(f, params, x, vx, t):
    return along(functools.partial(f, params), x, vx, t)


def grad(f, params, x, vx, t):
    return jax.grad(lambda p: jnp.sum(jnp.sin(f(p, x, t))))(params)


def grad_of_jvp(f, params, x, vx, t):
    """The consistency training step, as the losses write it."""

    def loss(p):
        return consistency(*along(functools.partial(f, p), x, vx, t))

    return jax.value_and_grad(loss)(params)


def jvp_of_vjp(f, params, x, vx, t):
    """The same, forward over reverse."""

    def run(x, t):
        return jax.vjp(lambda p: f(p, x, t), params)

    F, dF, pull = jax.jvp(run, (x, t), (vx, jnp.ones_like(t)), has_aux=True)
    loss, gF = jax.value_and_grad(consistency)(F, dF)
    return loss, pull(gF)[0]


def two_passes(f, params, x, vx, t):
    """What both are to equal: a pass for the tangent, and one to differentiate."""
    dF = along(functools.partial(f, params), x, vx, t)[1]
    return jax.value_and_grad(lambda p: consistency(f(p, x, t), dF))(params)


def jvp_of_grad(f, params, x, vx, t):
    return jax.jvp(lambda x: jax.grad(lambda p: jnp.sum(jnp.sin(f(p, x, t))))(params), (x,), (vx,))


def grad_through_the_tangent(f, params, x, vx, t):
    return jax.grad(lambda p: jnp.sum(along(functools.partial(f, p), x, vx, t)[1] ** 2))(params)


def jvp_of_jvp(f, params, x, vx, t):
    def tangent(x):
        return along(functools.partial(f, params), x, vx, t)[1]

    return jax.jvp(tangent, (x,), (vx,))


def grad_of_grad(f, params, x, vx, t):
    def size(x):
        return jnp.sum(jax.grad(lambda x: jnp.sum(jnp.sin(f(params, x, t))))(x) ** 2)

    return jax.grad(size)(x)


def linearize(f, params, x, vx, t):
    return jax.linearize(lambda x: f(params, x, t), x)[1](vx)


@functools.cache
def of_plain_layers(transform):
    return jax.jit(functools.partial(transform, functools.partial(net, plain, "")))


MODES = ("", "scan", "vmap scan checkpoint", "scan policy")
PARTS = ("vmap", "checkpoint", "scan checkpoint")
"""Modes that the others have as well: with `pytest -m slow` alone."""
FIRST = (value, jvp, grad, grad_of_jvp, jvp_of_vjp, linearize)
SECOND = (jvp_of_grad, grad_through_the_tangent, jvp_of_jvp, grad_of_grad)


@pytest.mark.parametrize(
    ("transform", "mode"),
    [(f, mode) for f in FIRST for mode in MODES]
    + [(f, mode) for f in SECOND for mode in ("", "vmap scan checkpoint")]
    + [pytest.param(f, mode, marks=pytest.mark.slow) for f in FIRST for mode in PARTS],
    ids=lambda a: getattr(a, "__name__", a),
)
def test_equals_plain_autodiff(transform, mode, given):
    """The modes differ in how a program runs, not in what it computes: plain layers in turn serve for all."""
    found = jax.jit(functools.partial(transform, functools.partial(net, attention, mode)))(*given)
    close(found, of_plain_layers(transform)(*given))


N = LAYERS
ONE_STEP = {"dual": N, "backward": N}
RECOMPUTED = {"dual": N, "forward": N, "backward": N}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("transform", "once", "again"),
    [
        (value, {"forward": N}, {"forward": N}),
        (jvp, {"dual": N}, {"dual": N}),
        (grad, {"forward": N, "backward": N}, {"forward": 2 * N, "backward": N}),
        (grad_of_jvp, ONE_STEP, RECOMPUTED),
        (jvp_of_vjp, ONE_STEP, RECOMPUTED),
        (two_passes, ONE_STEP | {"forward": N}, ONE_STEP | {"forward": 2 * N}),
    ],
    ids=lambda a: getattr(a, "__name__", ""),
)
def test_calls(transform, once, again, mode, given):
    """The primal runs once, and once more for the backward pass where it is rematerialised."""
    f = functools.partial(net, attention, mode)
    found = attention_calls(functools.partial(transform, f), *given)
    assert found == (again if "checkpoint" in mode else once)


@pytest.mark.parametrize("mode", ["", "vmap scan checkpoint"])
@pytest.mark.parametrize("shared", [grad_of_jvp, jvp_of_vjp], ids=lambda f: f.__name__)
def test_shared_primal_equals_two_passes(shared, mode, given):
    f = functools.partial(net, attention, mode)
    close(*(jax.jit(functools.partial(step, f))(*given) for step in (shared, two_passes)))


def qkv(getkey, *batch):
    return tuple(jr.normal(getkey(), (*batch, n, HEADS, 4)) for n in (5, 7, 7))


@pytest.mark.parametrize("axes", [(0, 0, 0), (0, None, None), (None, 2, 1), (1, 3, None)])
def test_vmap_over_anything(axes, getkey):
    arrays = tuple(
        a if axis is None else jnp.moveaxis(jnp.stack([a, 2 * a, -a]), 0, axis)
        for a, axis in zip(qkv(getkey), axes, strict=True)
    )
    close(jax.vmap(attention, axes)(*arrays), jax.vmap(plain, axes)(*arrays))


@pytest.mark.parametrize("transform", [jax.jacfwd, jax.jacrev, jax.hessian])
def test_jacobians(transform, getkey):
    arrays = qkv(getkey)
    close(*(jax.jit(transform(f, (0, 1, 2)))(*arrays) for f in (attention, plain)))


def test_many_tangents_at_one_point_compute_its_output_once(getkey):
    arrays, tangents = qkv(getkey), qkv(getkey, 3)

    def pushed(*tangents):
        return jax.jvp(attention, arrays, tangents)

    o, _ = jax.vmap(pushed, out_axes=(None, 0))(*tangents)
    assert o.shape == arrays[0].shape
    assert attention_calls(jax.vmap(pushed), *tangents) == {"forward": 1, "tangent": 1}


def test_per_example_gradients(given):
    params, x, _, t = given

    def one(attend, x):
        return jax.grad(lambda p: jnp.sum(net(attend, "", p, x, t) ** 2))(params)

    close(*(jax.jit(jax.vmap(functools.partial(one, f)))(x) for f in (attention, plain)))


@pytest.mark.parametrize("masked", [False, True])
def test_bias_and_mask_have_their_derivatives(masked, getkey):
    q, k, v = qkv(getkey, 2)
    bias, dbias = jr.normal(getkey(), (2, HEADS, 1, 7))
    mask = jr.bernoulli(getkey(), 0.6, (2, 1, 5, 7)).at[0, 0, 2].set(False) if masked else None

    def reference(q, k, v, bias):
        s = jnp.einsum("bnhd,bmhd->bhnm", q, k) / 2 + bias[None]
        allowed = jnp.ones((2, 1, 5, 7), bool) if mask is None else mask
        e = jnp.where(allowed, jnp.exp(s - jnp.max(s, axis=-1, keepdims=True)), 0)
        total = jnp.sum(e, axis=-1, keepdims=True)
        return jnp.einsum("bhnm,bmhd->bnhd", e / jnp.where(total == 0, 1, total), v)

    def ours(q, k, v, bias):
        return attention(q, k, v, bias=bias, mask=mask)

    primals, tangents = (q, k, v, bias), (v[:, :5], q[:, [0] * 7], k, dbias)

    def everything(f):
        def gradient(*primals):
            return jax.grad(lambda *p: jnp.sum(jnp.sin(f(*p))), (0, 1, 2, 3))(*primals)

        def each(bias):
            return jax.grad(lambda bias: jnp.sum(f(q, k, v, bias) ** 2))(bias)

        mapped = jax.vmap(each)(jnp.stack([bias, dbias]))
        return jax.jvp(f, primals, tangents), jax.jvp(gradient, primals, tangents), mapped

    close(*(jax.jit(functools.partial(everything, f))() for f in (ours, reference)))


def test_third_derivatives(getkey):
    arrays, tangents = qkv(getkey), qkv(getkey)

    def third(f):
        def second(*arrays):
            return jax.jvp(lambda *a: jax.jvp(f, a, tangents)[1], arrays, tangents)[1]

        return jax.grad(lambda *a: jnp.sum(second(*a) ** 2), (0, 1, 2))(*arrays)

    close(*(jax.jit(functools.partial(third, f))() for f in (attention, plain)))


class Net(eqx.Module):
    """Labels, static fields and a rematerialised body, as Equinox users have them."""

    params: dict
    classes: jax.Array
    name: str = eqx.field(static=True)

    def __call__(self, x, t, label):
        @eqx.filter_checkpoint
        def body(params, x, t):
            return net(attention, "", params, x, t)

        return body(self.params, x + self.classes[label][None], t)


@pytest.mark.parametrize("forward_over_reverse", [False, True])
def test_equinox(forward_over_reverse, given, getkey):
    params, x, vx, t = given
    model = Net(params, jr.normal(getkey(), (10, WIDTH)), "net")
    label = jnp.arange(BATCH)
    t, vt = t * jnp.arange(1.0, 1 + BATCH), jnp.ones(BATCH)

    def total(model):
        F, dF = eqx.filter_jvp(
            lambda x, t, label: jax.vmap(model)(x, t, label), (x, t, label), (vx, vt, None)
        )
        return consistency(F, dF)

    def shared(model):
        def run(x, t):
            return eqx.filter_vjp(lambda model: jax.vmap(model)(x, t, label), model)

        F, dF, pull = jax.jvp(run, (x, t), (vx, vt), has_aux=True)
        return pull(jax.grad(consistency)(F, dF))[0]

    def plain_step(model):
        dF = jax.jvp(lambda x, t: jax.vmap(model)(x, t, label), (x, t), (vx, vt))[1]
        return eqx.filter_grad(lambda model: consistency(jax.vmap(model)(x, t, label), dF))(model)

    step = shared if forward_over_reverse else eqx.filter_grad(total)
    close(eqx.filter_jit(step)(model), eqx.filter_jit(plain_step)(model))
    arrays, static = eqx.partition(model, eqx.is_array)
    calls = attention_calls(lambda a: jax.tree.leaves(step(eqx.combine(a, static))), arrays)
    assert calls == RECOMPUTED


def test_eager_and_compiled_agree(getkey):
    arrays = qkv(getkey)
    close(attention(*arrays), jax.jit(attention)(*arrays))
