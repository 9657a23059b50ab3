"""The transformer: its sizes, gates, positions and scan, and its equality to the original."""

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from scmkit_plugins.layers import xla_attention
from scmkit_plugins.layers.positions import rotary_angles, rotate, sincos_positions
from scmkit_plugins.modulation import adagn, adaln, adaptive_double_norm, positional
from scmkit_plugins.networks import dit

from scmkit.interfaces import (
    AbstractAttention,
    AbstractGate,
    AbstractNorm,
    Conditioning,
    DataSpec,
    GatedNormFactory,
    NormFactory,
)
from scmkit.plugin import Context, Slot

SHAPE = (2, 8, 12)
DATA = DataSpec(source="test", shape=SHAPE, num_classes=3, shift=(0.0,), scale=(1.0,))
SMALL: dict[str, Any] = {"width": 16, "depth": 2, "heads": 2}
LABEL = Conditioning(jnp.asarray(1))
NORMS = [
    pytest.param(adaln, id="adaln"),
    pytest.param(adaptive_double_norm, id="double-norm"),
    pytest.param(adagn, id="adagn"),
]


def initialise(
    *, norm=adaln, shape=SHAPE, classes=3, conditions=(), time=None, **options
) -> dit.DiT:
    """The network as training starts with it, by the options of its plugin."""
    data = dataclasses.replace(DATA, shape=shape, num_classes=classes)
    built: dict[Slot, Any] = {}
    for slot, part, settings in (
        (Slot.embedding, positional, time or {}),
        (Slot.norm, norm, {}),
        (Slot.attention, xla_attention, {}),
        (Slot.network, dit, options),
    ):
        context = Context(data, dict(built), conditions=frozenset(conditions))
        factory = part.plugin.provides[slot]
        built[slot] = factory(part.plugin.config(**settings), context, key=jr.key(0))
    return built[Slot.network]


def trained(**options) -> dit.DiT:
    """A small one with no layer at zero: its arrays are shapes only, then filled by numpy."""
    shapes = eqx.filter_eval_shape(initialise, **{**SMALL, **options})
    rng = np.random.default_rng(0)

    def fill(leaf):
        if not isinstance(leaf, jax.ShapeDtypeStruct):
            return leaf
        fan_in = leaf.shape[-2] if leaf.ndim > 1 else 16
        return jnp.asarray(fan_in**-0.5 * rng.standard_normal(leaf.shape), jnp.float32)

    return jax.tree.map(fill, shapes)


def block_of(network: dit.DiT, i: int) -> dit.DiTBlock:
    """One of the stacked blocks."""
    return jax.tree.map(lambda a: a[i] if eqx.is_array(a) else a, network.blocks)


def factory_of(norm) -> NormFactory:
    """What a plugin puts into the norm slot."""
    build = norm.plugin.provides[Slot.norm]
    return build(norm.plugin.config(), Context(DATA), key=jr.key(0))


@eqx.filter_jit
def run(network, x, t, cond: Conditioning = LABEL, key=None):
    return network(x, t, cond, key=key)


@eqx.filter_jit
def run_jvp(network, x, t, dx, dt, key=None):
    return eqx.filter_jvp(lambda x, t: network(x, t, LABEL, key=key), (x, t), (dx, dt))


# Sizes.


def test_presets_and_what_overrides_them():
    assert dit.size(dit.DiTOptions()) == (256, 6, 4)
    assert dit.size(dit.DiTOptions(preset="XL")) == (1152, 28, 16)
    assert dit.size(dit.DiTOptions(preset="S", depth=3, heads=4)) == (384, 3, 4)
    assert dit.size(dit.DiTOptions(width=256, depth=6, heads=4, preset="L")) == (256, 6, 4)


@pytest.mark.parametrize(
    ("preset", "millions", "exact"),
    [
        ("S", 33, 32_858_896),
        ("B", 130, 130_303_504),
        ("L", 458, 457_824_272),
        ("XL", 675, 674_816_272),
    ],
)
def test_parameters_are_as_many_as_published(preset, millions, exact):
    network = eqx.filter_eval_shape(initialise, shape=(4, 32, 32), classes=1000, preset=preset)
    count = sum(leaf.size for leaf in jax.tree.leaves(network) if hasattr(leaf, "size"))
    # The original without its frozen positions and its output for the variance has exactly these.
    assert count == exact
    assert abs(count / 1e6 - millions) < 0.01 * millions


# Gates.


def test_only_a_factory_of_gates_is_one():
    assert isinstance(factory_of(adaln), GatedNormFactory)
    assert not isinstance(adaln.AdaptiveLayerNorm, GatedNormFactory)
    assert not isinstance(partial(adaln.AdaptiveLayerNorm), GatedNormFactory)


def test_a_norm_class_with_a_method_of_that_name_is_no_factory_of_gates():
    class Norm(AbstractNorm):
        def __init__(self, channels: int, dim: int, *, key: Any) -> None:
            pass

        def __call__(self, x: Any, emb: Any) -> Any:
            return x

        def gate(self, channels: int, dim: int, *, key: Any) -> AbstractGate:
            raise NotImplementedError

    block = dit.DiTBlock(dit.DiTOptions(**SMALL), norm=Norm, key=jr.key(0))
    assert block.gate1 is None
    assert block.gate2 is None


@pytest.mark.parametrize("norm", NORMS)
def test_branches_start_silent_and_learn(norm, getkey):
    block = dit.DiTBlock(dit.DiTOptions(**SMALL), norm=factory_of(norm), key=getkey())
    h, emb, target = (jr.normal(getkey(), shape) for shape in ((24, 16), (16,), (24, 16)))

    @eqx.filter_jit
    @eqx.filter_grad(has_aux=True)
    def grad(block):
        y = block(h, emb, xla_attention.XLAAttention(), None, key=None)
        return jnp.mean((y - target) ** 2), y

    grads, y = grad(block)
    np.testing.assert_array_equal(y, h)
    if norm is adaln:  # Normal weights behind a gate at zero.
        assert jnp.std(block.out.weight) > 0.2
        assert jnp.std(block.down.weight) > 0.1
        learning, waiting = (grads.gate1, grads.gate2), (grads.out, grads.down)
    else:  # A last layer at zero, and no gate: the norm's own modulation must not start at zero.
        assert block.gate1 is None
        assert block.gate2 is None
        assert np.any(block.norm1.modulation.weight)
        learning, waiting = (grads.out, grads.down), (grads.qkv, grads.up)
    assert all(np.any(leaf) for leaf in jax.tree.leaves(learning))
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(waiting))


def test_gates_multiply_their_branches(getkey):
    network = trained()
    block = block_of(network, 0)
    h, emb = jr.normal(getkey(), (24, 16)), jr.normal(getkey(), (16,))

    @eqx.filter_jit
    def added(attention, mlp):
        gates = tuple(Constant(jnp.full(16, g)) for g in (attention, mlp))
        gated = eqx.tree_at(lambda b: (b.gate1, b.gate2), block, gates)
        return gated(h, emb, network.attention, None, key=None) - h

    one = jnp.ones(())
    np.testing.assert_array_equal(added(0 * one, 0 * one), jnp.zeros_like(h))
    np.testing.assert_allclose(added(3 * one, 0 * one), 3 * added(one, 0 * one), atol=1e-4)
    np.testing.assert_allclose(added(0 * one, 3 * one), 3 * added(0 * one, one), atol=1e-4)
    # With both open the perceptron sees what attention added.
    both = added(one, one) - added(one, 0 * one)
    assert not np.allclose(both, added(0 * one, one), atol=1e-2)


class Constant(AbstractGate):
    """A gate that is told its factors."""

    factors: Any

    def __call__(self, emb: Any) -> Any:
        return self.factors


# Positions.


def test_sincos_positions_are_their_definition():
    rows, columns, width = 3, 5, 16
    expected = np.zeros((rows * columns, width))
    for r in range(rows):
        for c in range(columns):
            for i in range(width // 4):
                omega = 10000.0 ** (-4 * i / width)
                token = expected[r * columns + c]
                token[i], token[i + 4] = np.sin(c * omega), np.cos(c * omega)
                token[i + 8], token[i + 12] = np.sin(r * omega), np.cos(r * omega)
    np.testing.assert_allclose(sincos_positions((rows, columns), width), expected, atol=1e-12)


def test_rotations_keep_norms_and_turn_by_row_and_column(getkey):
    grid, head_dim = (3, 4), 8
    x = jr.normal(getkey(), (12, 2, head_dim))
    y = rotate(x, rotary_angles(grid, head_dim))
    np.testing.assert_allclose(np.linalg.norm(y, axis=-1), np.linalg.norm(x, axis=-1), rtol=1e-6)
    np.testing.assert_array_equal(y[0], x[0])
    # By definition: complex numbers, times e^{i omega r} in the first half and e^{i omega c} in the second.
    z = np.asarray(x).view(np.complex64).reshape(3, 4, 2, 2, 2)
    omega = np.asarray([1.0, 1e-2])
    rows = np.exp(1j * np.arange(3)[:, None, None, None] * omega)
    columns = np.exp(1j * np.arange(4)[None, :, None, None] * omega)
    expected = np.stack([z[..., 0, :] * rows, z[..., 1, :] * columns], axis=-2)
    actual = np.asarray(y).view(np.complex64).reshape(z.shape)
    np.testing.assert_allclose(actual, expected, atol=1e-6)


def test_rotary_scores_depend_on_offsets_alone(getkey):
    rows, columns, head_dim = 4, 6, 16
    q, k = jr.normal(getkey(), (head_dim,)), jr.normal(getkey(), (head_dim,))
    angles = rotary_angles((rows, columns), head_dim)
    qs, ks = (
        rotate(jnp.broadcast_to(a, (rows * columns, 1, head_dim)), angles)[:, 0] for a in (q, k)
    )
    scores = np.asarray(qs @ ks.T).reshape(rows, columns, rows, columns)
    by_offset: dict[tuple[int, int], list[float]] = {}
    for (r, c, s, d), score in np.ndenumerate(scores):
        by_offset.setdefault((s - r, d - c), []).append(score)
    assert len(by_offset) == (2 * rows - 1) * (2 * columns - 1)
    assert max(np.ptp(group) for group in by_offset.values()) < 1e-5
    means = np.asarray([np.mean(group) for group in by_offset.values()])
    assert np.diff(np.sort(means)).min() > 1e-4


def test_without_positions_added_the_blocks_alone_tell_tokens_apart(getkey):
    tokens = jnp.broadcast_to(jr.normal(getkey(), (16,)), (24, 16))
    emb = jr.normal(getkey(), (16,))
    moved = tokens.at[0].set(jr.normal(getkey(), (16,)))
    for positions, apart in (("rotary", True), ("sincos", False)):
        # Only `trunk`: added positions are not in it.
        out = trained(positions=positions).trunk(moved, emb, emb, key=None)[1:]
        assert (np.abs(out - out[:1]).max() > 1e-3) == apart


def test_rotary_adds_nothing_to_the_tokens(getkey):
    x, t = jr.normal(getkey(), SHAPE), jnp.asarray([0.7])
    network = trained(positions="rotary")
    still = jnp.broadcast_to(x[:, :2, :2][:, None, :, None, :], (2, 4, 2, 6, 2)).reshape(SHAPE)
    y = network.patches(run(network, still, t))
    # Attention over equal values gives that value, whatever the scores.
    np.testing.assert_allclose(y, jnp.broadcast_to(y[:1], y.shape), atol=1e-5)


def test_qk_norm_ignores_the_size_of_queries_and_keys(getkey):
    x, t = jr.normal(getkey(), SHAPE), jnp.asarray([0.7])
    scale = jnp.concatenate([jnp.full(32, 7.0), jnp.ones(16)])
    network = trained(qk_norm=True, positions="rotary")
    louder = eqx.tree_at(
        lambda n: (n.blocks.qkv.weight, n.blocks.qkv.bias),
        network,
        (network.blocks.qkv.weight * scale[None, None], network.blocks.qkv.bias * scale[None]),
    )
    np.testing.assert_allclose(run(louder, x, t), run(network, x, t), atol=1e-3, rtol=1e-3)


def test_rotary_keeps_qk_norm(getkey):
    """Rotated after the normalization and its gains: one gain per channel would not commute."""
    network = trained(qk_norm=True, positions="rotary", depth=1)
    block = block_of(network, 0)
    h, emb = jr.normal(getkey(), (24, 16)), jr.normal(getkey(), (16,))
    qkv = block.qkv(block.norm1(h, emb)).reshape(24, 3, 2, 8)
    angles = rotary_angles((4, 6), 8)
    seen = {}

    class Spy(AbstractAttention):
        def __call__(self, q, k, v):
            seen.update(q=q, k=k)
            return v

    block(h, emb, Spy(), angles, key=None)
    for name, i in (("q", 0), ("k", 1)):
        a = qkv[:, i]
        a = a / np.sqrt(np.mean(a**2, axis=-1, keepdims=True) + 1e-6)
        a = a * np.asarray(block.gains)[i][None, None]
        np.testing.assert_allclose(seen[name], rotate(jnp.asarray(a), angles), atol=1e-5)


# The whole network.


@pytest.mark.parametrize("norm", NORMS[:2])
def test_bfloat16_runs_in_bfloat16(norm, getkey):
    network = trained(norm=norm, positions="rotary", qk_norm=True)
    x, t = jr.normal(getkey(), SHAPE), jnp.asarray([0.7])
    low, high = run(network, x.astype(jnp.bfloat16), t), run(network, x, t)
    assert low.dtype == jnp.bfloat16
    error = np.linalg.norm(np.asarray(low, np.float32) - high)
    assert error < 0.03 * np.linalg.norm(high)
    # No product of tokens is wider than bfloat16: only the embedding's vectors are float32.
    jaxpr = jax.make_jaxpr(lambda x: network(x, t, LABEL, key=None))(x.astype(jnp.bfloat16))
    products = [e for e in _equations(jaxpr.jaxpr) if e.primitive.name == "dot_general"]
    assert len(products) > 8
    for equation in products:
        left = equation.invars[0].aval
        assert left.dtype == (jnp.bfloat16 if left.ndim > 1 and 24 in left.shape else jnp.float32)


def _equations(jaxpr):
    for equation in jaxpr.eqns:
        yield equation
        for value in jax.tree.leaves(list(equation.params.values()), is_leaf=_is_jaxpr):
            if _is_jaxpr(value):
                yield from _equations(getattr(value, "jaxpr", value))


def _is_jaxpr(value) -> bool:
    return hasattr(value, "eqns") or hasattr(value, "jaxpr")


def test_scan_is_a_loop_over_the_stacked_blocks(getkey):
    network = trained(depth=3, positions="rotary")
    x, emb = jr.normal(getkey(), (24, 16)), jr.normal(getkey(), (16,))
    angles, h = rotary_angles((4, 6), 8), x
    for i in range(3):
        h = block_of(network, i)(h, emb, network.attention, angles, key=None)
    np.testing.assert_allclose(network.trunk(x, emb, emb, key=None), h, atol=1e-4, rtol=1e-4)


def test_rematerialisation_changes_no_gradient(getkey):
    x, t, key = jr.normal(getkey(), SHAPE), jnp.asarray([0.7]), getkey()

    @eqx.filter_jit
    @eqx.filter_grad
    def grad(network):
        F, dF = run_jvp(network, x, t, x, t, key=key)
        return jnp.mean((F - jax.lax.stop_gradient(F + dF)) ** 2)

    options = {"dropout": 0.3, "positions": "rotary"}
    expected = jax.tree.leaves(grad(trained(**options)))
    for remat in ({"remat": "none", "unroll": 2}, {"remat": "full"}):
        actual = jax.tree.leaves(grad(trained(**options, **remat)))
        for a, b in zip(actual, expected, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-4, rtol=1e-3)


def test_patches_and_back(getkey):
    network = trained()
    x = jr.normal(getkey(), SHAPE)
    tokens = network.patches(x)
    assert tokens.shape == (24, 8)
    # The second token is the first row's second patch, each pixel's channels side by side.
    np.testing.assert_array_equal(tokens[1].reshape(2, 2, 2), x[:, :2, 2:4].transpose(1, 2, 0))
    np.testing.assert_array_equal(network.image(tokens), x)


def test_it_can_be_told_a_guidance_strength(getkey):
    x, t = jr.normal(getkey(), SHAPE), jnp.asarray([0.7])
    network = trained(conditions=("guidance",))
    one, four = (Conditioning(jnp.asarray(1), {"guidance": jnp.asarray(w)}) for w in (1.0, 4.0))
    np.testing.assert_array_equal(run(network, x, t, one), run(network, x, t, LABEL))
    assert np.any(run(network, x, t, four) != run(network, x, t, one))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shape": (2,)}, r"images.*\(2,\); use the mlp"),
        ({"patch": 3}, "8x12 does not divide into patches of 3; set dit.patch"),
        ({"heads": 3}, "width 16 is not a multiple of 4 and of the 3 heads; change dit.width"),
        (
            {"preset": "S", "width": None, "heads": 5},
            "width 384 is not a multiple of 4 and of the 5",
        ),
        (
            {"positions": "rotary", "heads": 8},
            "heads of a multiple of 4 channels, not 2; change dit.width or dit.heads, or set "
            "dit.positions=sincos",
        ),
    ],
)
def test_what_does_not_fit_is_refused_with_a_remedy(options, message):
    with pytest.raises(ValueError, match=message):
        initialise(**{**SMALL, **options})


def test_parity_with_the_original():
    """The original PyTorch DiT on random weights: its output and its forward derivative.

    Written by `benchmarks/parity_dit.py`, which has the mapping of the weights.
    """
    with np.load(Path(__file__).parents[1] / "support" / "files" / "dit-small.npz") as file:
        data = {name: jnp.asarray(a, jnp.float32) for name, a in file.items()}
    shapes = eqx.filter_eval_shape(
        initialise,
        shape=data["x"].shape[1:],
        classes=3,
        time={"min_frequency": 1e-4 ** (127 / 128)},
        width=32,
        depth=2,
        heads=4,
        remat="none",
    )

    def weight(path, leaf):
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        if not isinstance(leaf, jax.ShapeDtypeStruct):
            return leaf
        assert data[name].shape == leaf.shape
        return data[name]

    network = jax.tree_util.tree_map_with_path(weight, shapes)

    @eqx.filter_jit
    @jax.vmap
    def both(x, t, label, dx, dt):
        cond = Conditioning(label)
        return jax.jvp(lambda x, t: network(x, t[None], cond, key=None), (x, t), (dx, dt))

    labels = data["label"].astype(jnp.int32)
    out, tangent = both(data["x"], data["t"], labels, data["dx"], data["dt"])
    for actual, name, tolerance in ((out, "out", 1e-5), (tangent, "tangent", 1e-5)):
        expected = data[name]
        assert np.linalg.norm(actual - expected) < tolerance * np.linalg.norm(expected)
