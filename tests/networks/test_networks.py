"""Networks through their plugins: shapes, derivatives, dropout, batching, dtypes."""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from scmkit_plugins.layers import xla_attention
from scmkit_plugins.modulation import adaptive_double_norm, positional
from scmkit_plugins.networks import dit, mlp, unet

from scmkit.errors import UsageError
from scmkit.interfaces import UNCONDITIONED, AbstractNetwork, Conditioning, DataSpec
from scmkit.plugin import Context, Slot

SMALL: dict[Any, dict[str, Any]] = {
    mlp: {"width": 16, "depth": 2, "embedding_dim": 16},
    unet: {
        "channels": 8,
        "multipliers": (1, 2),
        "blocks": 1,
        "attention_resolutions": (4,),
        "head_dim": 8,
        "embedding_dim": 16,
    },
    dit: {"width": 16, "depth": 2, "heads": 2},
}
SHALLOW: dict[Any, dict[str, Any]] = {mlp: {}, unet: {"multipliers": (1,)}, dit: {}}
"""Options where depth does not matter: a U-Net takes seconds to compile."""
SHAPES = {mlp: (5,), unet: (2, 8, 12), dit: (2, 8, 12)}
LABEL = Conditioning(jnp.asarray(1))
NETWORKS = [pytest.param(m, id=m.plugin.name) for m in SMALL]


def initialise(module, *, classes=3, k=1, shape=None, **options) -> AbstractNetwork:
    """A small network as training starts with it."""
    data = DataSpec(
        source="test",
        shape=shape or SHAPES[module],
        num_classes=classes,
        shift=(0.0,),
        scale=(1.0,),
    )
    built: dict[Slot, Any] = {}
    for slot, part in (
        (Slot.embedding, positional),
        (Slot.norm, adaptive_double_norm),
        (Slot.attention, xla_attention),
        (Slot.network, module),
    ):
        settings = {**SMALL[module], **options} if part is module else {}
        context = Context(data, dict(built), noise_labels=k)
        factory = part.plugin.provides[slot]
        built[slot] = factory(part.plugin.config(**settings), context, key=jr.key(0))
    return built[Slot.network]


def build(module, **options) -> AbstractNetwork:
    """The same with no layer at zero: its arrays are shapes only, then filled by numpy."""
    shapes = eqx.filter_eval_shape(initialise, module, **options)
    rng = np.random.default_rng(0)

    def fill(leaf):
        if not isinstance(leaf, jax.ShapeDtypeStruct):
            return leaf
        fan_in = math.prod(leaf.shape[-4:-1]) if leaf.ndim > 1 else 16
        return jnp.asarray(fan_in**-0.5 * rng.standard_normal(leaf.shape), jnp.float32)

    return jax.tree.map(fill, shapes)


@eqx.filter_jit
def run(network, x, t, cond: Conditioning = LABEL, key=None):
    return network(x, t, cond, key=key)


@eqx.filter_jit
def run_jvp(network, x, t, dx, dt, key=None):
    return eqx.filter_jvp(lambda x, t: network(x, t, LABEL, key=key), (x, t), (dx, dt))


@pytest.mark.parametrize("module", NETWORKS)
@pytest.mark.parametrize("k", [1, 2])
def test_shapes_and_labels(module, k, getkey):
    x, t = jr.normal(getkey(), SHAPES[module]), jr.uniform(getkey(), (k,))
    network = build(module, k=k)
    y = run(network, x, t)
    assert y.shape == x.shape
    assert np.isfinite(y).all()
    assert np.any(y != run(network, x, t, Conditioning(jnp.asarray(2))))
    for i in range(k):
        assert np.any(y != run(network, x, t.at[i].add(0.5)))


@pytest.mark.parametrize("module", NETWORKS)
def test_no_condition_is_the_label_num_classes(module, getkey):
    x, t = jr.normal(getkey(), SHAPES[module]), jnp.asarray([0.7])
    network = build(module)
    none = run(network, x, t, UNCONDITIONED)
    # Two compiled programs: equal up to rounding.
    np.testing.assert_allclose(
        none, run(network, x, t, Conditioning(jnp.asarray(3))), atol=1e-4, rtol=1e-4
    )


def test_an_unconditional_network(getkey):
    network = build(mlp, classes=0)
    x, t = jr.normal(getkey(), SHAPES[mlp]), jnp.asarray([0.7])
    assert np.isfinite(run(network, x, t, UNCONDITIONED)).all()
    with pytest.raises(UsageError, match="without classes"):
        run(network, x, t, LABEL)


@pytest.mark.parametrize("module", NETWORKS)
def test_the_output_starts_at_zero_with_a_gradient(module, getkey):
    network = initialise(module, **SHALLOW[module])
    x, t = jr.normal(getkey(), SHAPES[module]), jnp.asarray([0.7])

    @eqx.filter_jit
    @eqx.filter_grad(has_aux=True)
    def grad(network):
        y = network(x, t, LABEL, key=None)
        return jnp.mean((y - x) ** 2), y

    grads, y = grad(network)
    assert not np.any(y)
    grads = [np.asarray(g) for g in jax.tree.leaves(grads)]
    assert all(np.isfinite(g).all() for g in grads)
    assert any(np.any(g != 0) for g in grads)


@pytest.mark.parametrize("module", NETWORKS)
def test_jvp_is_the_limit_of_differences(module, getkey):
    network = build(module)
    x, dx = jr.normal(getkey(), SHAPES[module]), jr.normal(getkey(), SHAPES[module])
    t, dt = jnp.asarray([0.8]), jnp.asarray([1.0])
    _, tangent = run_jvp(network, x, t, dx, dt)
    h = 1e-2
    ends = [run(network, x + s * h * dx, t + s * h * dt) for s in (1, -1)]
    difference = (ends[0] - ends[1]) / (2 * h)
    assert np.linalg.norm(tangent - difference) < 1e-2 * np.linalg.norm(difference)


@pytest.mark.parametrize("module", NETWORKS)
def test_dropout_is_a_function_of_its_key(module, getkey):
    network = build(module, dropout=0.5, **SHALLOW[module])
    x, t = jr.normal(getkey(), SHAPES[module]), jnp.asarray([0.7])
    first, other = getkey(), getkey()
    y = run(network, x, t, key=first)
    np.testing.assert_array_equal(y, run(network, x, t, key=first))
    assert np.any(y != run(network, x, t, key=other))
    # Without a key it is the network without dropout, whose arrays are the same.
    np.testing.assert_allclose(
        run(network, x, t), run(build(module, **SHALLOW[module]), x, t), atol=1e-6
    )
    # The primal of a JVP has the mask of a plain pass: sCM trains the one along the other.
    primal, _ = run_jvp(network, x, t, x, t, key=first)
    np.testing.assert_allclose(primal, y, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("module", NETWORKS)
def test_vmap_is_a_loop(module, getkey):
    network = build(module)
    x, t = jr.normal(getkey(), (3, *SHAPES[module])), jr.uniform(getkey(), (3, 1))
    labels = jnp.arange(3)
    batched = eqx.filter_jit(eqx.filter_vmap(run, in_axes=(None, 0, 0, 0)))
    loop = [run(network, x[i], t[i], Conditioning(labels[i])) for i in range(3)]
    np.testing.assert_allclose(
        batched(network, x, t, Conditioning(labels)), np.stack(loop), atol=1e-4, rtol=1e-4
    )


@pytest.mark.parametrize("module", NETWORKS)
def test_vmap_makes_matrix_products_of_whole_batches(module):
    """No linear layer is applied per sample: its weight never becomes a batched operand."""
    network = build(module)
    x, t = jnp.ones((3, *SHAPES[module])), jnp.ones((3, 1))
    jaxpr = jax.make_jaxpr(jax.vmap(lambda x, t: network(x, t, UNCONDITIONED, key=None)))(x, t)
    dots = list(_dots(jaxpr.jaxpr))
    assert dots
    for equation in dots:
        _, (batch, _) = equation.params["dimension_numbers"]
        # Only attention's two products have batch axes: samples and heads.
        assert len(batch) in (0, 2)


def _dots(jaxpr):
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            yield equation
        for value in jax.tree.leaves(list(equation.params.values()), is_leaf=_is_jaxpr):
            if _is_jaxpr(value):
                yield from _dots(getattr(value, "jaxpr", value))


def _is_jaxpr(value) -> bool:
    return hasattr(value, "eqns") or hasattr(value, "jaxpr")


@pytest.mark.parametrize("module", NETWORKS)
def test_bfloat16_images_keep_a_float32_time(module, getkey):
    network = build(module)
    x, t = jr.normal(getkey(), SHAPES[module]), jnp.asarray([0.7])
    low = run(network, x.astype(jnp.bfloat16), t)
    assert low.dtype == jnp.bfloat16
    high = run(network, x, t)
    error = np.linalg.norm(np.asarray(low, np.float32) - high)
    assert error < 0.1 * np.linalg.norm(high)
    # 1e-3 is below bfloat16's resolution at 0.7: only a float32 time path can see it.
    conditioning = network.conditioning  # pyright: ignore[reportAttributeAccessIssue]
    assert conditioning(t, UNCONDITIONED).dtype == jnp.float32
    assert np.any(conditioning(t, UNCONDITIONED) != conditioning(t + 1e-3, UNCONDITIONED))


def test_unet_resampling():
    x = jnp.arange(16.0).reshape(4, 4, 1)
    np.testing.assert_array_equal(unet.halve(x)[..., 0], [[2.5, 4.5], [10.5, 12.5]])
    np.testing.assert_array_equal(unet.halve(unet.double(x)), x)
    np.testing.assert_array_equal(unet.double(x)[:2, 2:4, 0], [[1, 1], [1, 1]])


@pytest.mark.parametrize(
    ("module", "options", "message"),
    [
        (
            unet,
            {"shape": (1, 10, 8), "multipliers": (1, 2, 2)},
            "10x8 cannot be halved 2 times.*3 ",
        ),
        (unet, {"shape": (2,)}, r"images.*\(2,\); use the mlp"),
        (unet, {"head_dim": 5}, "unet.head_dim to a divisor"),
    ],
)
def test_what_does_not_fit_is_refused_with_a_remedy(module, options, message):
    with pytest.raises(ValueError, match=message):
        initialise(module, **options)


def test_unet_multiple_error_names_the_size_to_pad_to():
    with pytest.raises(ValueError, match="fewer multipliers, or pad the data to a multiple of 4"):
        initialise(unet, shape=(1, 10, 8), multipliers=(1, 2, 2))
