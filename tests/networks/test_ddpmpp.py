"""DDPM++ against NVIDIA's SongUNet: outputs, weights and sizes; its resampling and conditioning."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from scmkit_plugins.importers.ddpmpp import DDPMPPImporter, from_songunet
from scmkit_plugins.layers import xla_attention
from scmkit_plugins.layers.resample import FILTERS, downsample, upsample
from scmkit_plugins.layers.unet_levels import Place
from scmkit_plugins.modulation import adaptive_double_norm, additive_group_norm, positional
from scmkit_plugins.networks import ddpmpp, unet

from scmkit import Conditioning
from scmkit.errors import UsageError
from scmkit.interfaces import UNCONDITIONED, DataSpec
from scmkit.plugin import Context, Slot
from scmkit.runs.arrays import named_leaves

REFERENCES = ("songunet-box", "songunet-fir")
TINY: dict[str, Any] = {
    "channels": 8,
    "multipliers": (1, 2),
    "blocks": 1,
    "attention_resolutions": (4,),
    "dropout": 0.0,
    "embedding_multiplier": 2,
    "resample": "fir",
    "heads": 2,
}
SHAPE = (2, 8, 8)
DATA = DataSpec("test", shape=SHAPE, num_classes=3, shift=(0.0,), scale=(1.0,))


def reference(name: str) -> dict[str, np.ndarray]:
    """Weights, inputs and results that `benchmarks/parity_edm.py torch` wrote."""
    with np.load(Path(__file__).parents[1] / "support" / "files" / f"{name}.npz") as file:
        return {key: file[key].astype(np.float32) for key in file.files}


def weights(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: a for name, a in arrays.items() if name.startswith("model.")}


def initialise(
    *,
    shape=SHAPE,
    classes=3,
    norm=additive_group_norm,
    norm_options=None,
    features=16,
    **options,
) -> ddpmpp.DDPMPP:
    """A network as training starts with it."""
    data = dataclasses.replace(DATA, shape=shape, num_classes=classes)
    built: dict[Slot, Any] = {}
    for slot, part, settings in (
        (Slot.embedding, positional, {"channels": features}),
        (Slot.norm, norm, norm_options or {}),
        (Slot.attention, xla_attention, {}),
        (Slot.network, ddpmpp, options),
    ):
        context = Context(data, dict(built))
        factory = part.plugin.provides[slot]
        built[slot] = factory(part.plugin.config(**settings), context, key=jr.key(0))
    return built[Slot.network]


def shapes_of(**options) -> dict[str, tuple[int, ...]]:
    """The shape of each array of a network, which is not allocated."""
    network = eqx.filter_eval_shape(initialise, **options)
    return {n: a.shape for n, a in named_leaves(network) if isinstance(a, jax.ShapeDtypeStruct)}


def count(**options) -> int:
    return sum(int(np.prod(shape)) for shape in shapes_of(**options).values())


def filled(leaves: dict[str, Any], **options) -> ddpmpp.DDPMPP:
    """A network with the given arrays, none left over."""
    skeleton = eqx.filter_eval_shape(initialise, **options)
    named = named_leaves(skeleton)
    values = [
        jnp.asarray(leaves[n]) if isinstance(a, jax.ShapeDtypeStruct) else a for n, a in named
    ]
    return jax.tree.unflatten(jax.tree.structure(skeleton), values)


def tiny(seed: int = 0, **options) -> ddpmpp.DDPMPP:
    """A small network with no layer near zero."""
    options = TINY | options
    rng = np.random.default_rng(seed)
    leaves = {
        name: (
            (len(shape) == 1 and name.endswith("weight"))
            + max(4, np.prod(shape[:-1])) ** -0.5 * rng.standard_normal(shape)
        ).astype(np.float32)
        for name, shape in shapes_of(**options).items()
    }
    return filled(leaves, **options)


def imported(arrays: dict[str, np.ndarray]) -> tuple[ddpmpp.DDPMPP, dict[str, Any]]:
    """The network of a SongUNet's state dict, and its options."""
    options, leaves = from_songunet(weights(arrays))
    return filled({name: a for name, (_, a) in leaves.items()}, **settings(options)), options


def settings(options: dict[str, Any]) -> dict[str, Any]:
    """What `initialise` takes."""
    options = dict(options)
    side = options.pop("resolution")
    return {
        "shape": (options.pop("image_channels"), side, side),
        "classes": options.pop("num_classes"),
        "features": options.pop("positional_channels"),
        **options,
    }


@eqx.filter_jit
def run(network, x, t, cond=UNCONDITIONED, key=None):
    return network(x, t, cond, key=key)


def error(value, expected) -> float:
    return float(np.linalg.norm(value - expected) / np.linalg.norm(expected))


@pytest.mark.parametrize("name", REFERENCES)
def test_output_and_tangent_are_those_of_songunet(name):
    given = reference(name)
    network, options = imported(given)
    cond = Conditioning(jnp.arange(2) * 3) if options["num_classes"] else UNCONDITIONED

    @eqx.filter_jit
    def both(network, x, c, dx, dc, cond):
        def forward(x, c):
            return jax.vmap(lambda x, c, cond: network(x, c[None], cond, key=None))(x, c, cond)

        return jax.jvp(forward, (x, c), (dx, dc))

    inputs = [jnp.asarray(given[key]) for key in ("x", "c", "dx", "dc")]
    out, slope = both(network, *inputs, cond)
    assert error(out, given["out"]) < 3e-6
    assert error(slope, given["jvp"]) < 5e-6
    if cond.label is not None:
        without, _ = both(network, *inputs, Conditioning(jnp.full(2, options["num_classes"])))
        assert error(without, given["none"]) < 3e-6
        assert error(given["none"], given["out"]) > 1e-2


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "songunet-box",
            {
                "channels": 8,
                "multipliers": (1, 2),
                "blocks": 1,
                "attention_resolutions": (8,),
                "embedding_multiplier": 4,
                "resample": "box",
                "heads": 1,
                "num_classes": 0,
                "image_channels": 3,
                "resolution": 8,
                "positional_channels": 8,
            },
        ),
        (
            "songunet-fir",
            {
                "channels": 8,
                "multipliers": (2, 1),
                "blocks": 1,
                "attention_resolutions": (4,),
                "embedding_multiplier": 3,
                "resample": "fir",
                "heads": 1,
                "num_classes": 5,
                "image_channels": 3,
                "resolution": 8,
                "positional_channels": 8,
            },
        ),
    ],
)
def test_a_state_dict_tells_the_options_and_fills_the_network(name, expected):
    arrays = weights(reference(name))
    options, leaves = from_songunet(arrays)
    assert options == expected
    assert {n: a.shape for n, (_, a) in leaves.items()} == shapes_of(**settings(options))
    assert all(a.dtype == np.float32 for _, a in leaves.values())
    # Every parameter arrives once, under the name it has in the file.
    sources = [source for source, _ in leaves.values()]
    assert len(set(sources)) == len(sources)
    left = set(arrays) - set(sources)
    assert all(re.search("resample_filter|map_augment", source) for source in left)
    bare = from_songunet({n.removeprefix("model."): a for n, a in arrays.items()})
    assert bare[0] == options
    assert all((bare[1][n][1] == a).all() for n, (_, a) in leaves.items())


def test_the_importer_makes_a_recipe():
    arrays = weights(reference("songunet-fir"))
    found = DDPMPPImporter().read(arrays, {"class": "EDMPrecond"})
    assert found.data.shape == (3, 8, 8)
    assert found.data.num_classes == 5
    assert found.settings["positional.channels"] == 8
    assert found.settings["ddpmpp.multipliers"] == (2, 1)
    assert not found.dropped  # The filters are an option, which is known.
    assert "network/encoder/0/norm1/affine/weight" in found.leaves
    with pytest.raises(ValueError, match="holds a 'VPPrecond'"):
        DDPMPPImporter().read(arrays, {"class": "VPPrecond"})


ONE = np.ones((1, 1, 1, 1), np.float32)


@pytest.mark.parametrize(
    ("extra", "dropped", "message"),
    [
        ({"model.map_noise.freqs": ONE}, "", r"NCSN\+\+ .*Fourier.*only DDPM\+\+"),
        ({"model.enc.4x4_aux_residual.weight": ONE}, "", r"NCSN\+\+ .*residual or skip path"),
        ({"model.dec.8x8_aux_up.resample_filter": ONE}, "", r"NCSN\+\+ .*residual or skip path"),
        ({"model.out_norm.weight": ONE}, "aux", r"ADM \(DhariwalUNet\)"),
        ({"unet.gain": ONE}, "model", r"no SongUNet .*unet\.gain"),
        ({"model.u": ONE}, "", "iDDPM's preconditioning"),
        ({}, "dec.8x8_aux_norm.weight", r"lacks 1 of its .*'model\.dec\.8x8_aux_norm\.weight'"),
        ({"model.enc.4x4_down.conv0.resample_filter": ONE}, "", "neither .1, 1. nor .1, 3, 3, 1."),
        ({"model.enc.9x9_block0.conv1.weight": ONE}, "", "resolution of its own"),
    ],
)
def test_other_networks_are_named(extra, dropped, message):
    arrays = weights(reference("songunet-fir"))
    if dropped:
        arrays = {name: a for name, a in arrays.items() if dropped not in name}
    with pytest.raises(ValueError, match=message):
        from_songunet(arrays | extra)


def test_the_default_is_the_network_of_cifar10():
    image = {"shape": (3, 32, 32), "classes": 0, "features": 128}
    # Of EDM's 55,733,891 parameters 9 * 128 are the augmentation's.
    assert count(**image) == 55_733_891 - 9 * 128
    # sCM's: scale and shift from the embedding, in place of a shift and a learned scale and bias.
    double = {"norm": adaptive_double_norm, "norm_options": {"norm": "group"}}
    widths = {n: s[0] for n, s in shapes_of(**image).items() if n.endswith("norm1/norm/bias")}
    assert count(**image, **double) == 60_049_667
    assert count(**image) + (512 + 1 - 2) * sum(widths.values()) == 60_049_667


def by_convolution(x: jax.Array, taps, up: bool) -> jax.Array:
    """What PyTorch's depthwise `conv2d` and `conv_transpose2d` compute."""
    c = x.shape[-1]
    kernel = np.outer(taps, taps).astype(np.float32) / sum(taps) ** 2
    margin = (len(taps) - 1) // 2
    if up:
        # A transposed convolution is that with the flipped kernel of zeros between the values.
        kernel, margin = 4 * kernel[::-1, ::-1], len(taps) - 1 - margin
    dilation = (2, 2) if up else (1, 1)
    return jax.lax.conv_general_dilated(
        x[None],
        jnp.broadcast_to(jnp.asarray(kernel, x.dtype)[:, :, None, None], (*kernel.shape, 1, c)),
        window_strides=(1, 1) if up else (2, 2),
        padding=[(margin, margin)] * 2,
        lhs_dilation=dilation,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=c,
    )[0]


@pytest.mark.parametrize(
    "taps", [*FILTERS.values(), (1, 2, 4, 1, 0, 3), (1, 5, 2, 3, 4, 1, 1, 2)], ids=str
)
def test_resampling_is_a_depthwise_convolution(taps, getkey):
    x, y = jr.normal(getkey(), (6, 10, 3)), jr.normal(getkey(), (3, 5, 3))

    @jax.jit
    def results(x, y):
        down, transpose = jax.vjp(lambda x: downsample(x, taps), x)
        convolutions = [by_convolution(x, taps, up=up) for up in (False, True)]
        return down, upsample(x, taps), convolutions, transpose(y)[0], upsample(y, taps)

    down, up, expected, transposed, enlarged = results(x, y)
    np.testing.assert_allclose(down, expected[0], atol=2e-6)
    np.testing.assert_allclose(up, expected[1], atol=2e-6)
    # Enlarging is the transpose, up to the factor 4.
    np.testing.assert_allclose(enlarged, 4 * transposed, atol=2e-6)
    assert {a.dtype for a in results(x.astype(jnp.bfloat16), y.astype(jnp.bfloat16))[:2]} == {
        jnp.dtype(jnp.bfloat16)
    }


def test_the_box_averages_and_repeats(getkey):
    x = jr.normal(getkey(), (4, 6, 2))
    np.testing.assert_allclose(downsample(x, (1, 1)), unet.halve(x), atol=1e-6)
    np.testing.assert_array_equal(upsample(x, (1, 1)), unet.double(x))


def test_additive_group_norm_adds_before_it_normalises(getkey):
    norm = additive_group_norm.AdditiveGroupNorm(16, 8, key=getkey())
    weight, bias = jr.normal(getkey(), (16,)), jr.normal(getkey(), (16,))
    norm = eqx.tree_at(lambda m: (m.norm.weight, m.norm.bias), norm, (weight, bias))
    x, emb = jr.normal(getkey(), (5, 3, 16)), jr.normal(getkey(), (8,))
    y = np.asarray(x, np.float64) + np.asarray(emb) @ np.asarray(norm.affine.weight)
    groups = y.reshape(15, 4, 4)
    groups = (groups - groups.mean((0, 2), keepdims=True)) / groups.std((0, 2), keepdims=True)
    expected = groups.reshape(5, 3, 16) * np.asarray(weight) + np.asarray(bias)
    np.testing.assert_allclose(norm(x, emb), expected, atol=2e-5)
    assert norm(x.astype(jnp.bfloat16), emb).dtype == jnp.bfloat16
    # Sums near 100 are half a unit apart in bfloat16: these are of float32.
    far = eqx.tree_at(lambda m: m.affine.bias, norm, jnp.full(16, 100.0))
    y = far(jnp.zeros((1, 1, 16), jnp.bfloat16), emb).astype(jnp.float32)
    np.testing.assert_allclose(y, norm(jnp.zeros((1, 1, 16)), emb), atol=0.03)


def test_no_label_is_a_class_vector_of_zeros(getkey):
    mapping, t = tiny().conditioning, jnp.asarray([0.7])
    assert mapping.label is not None
    silenced = eqx.tree_at(lambda m: m.label.weight, mapping, jnp.zeros((3, 16)))
    expected = silenced(t, Conditioning(jnp.asarray(1)))
    for cond in (Conditioning(), Conditioning(jnp.asarray(3))):
        np.testing.assert_allclose(mapping(t, cond), expected, atol=1e-6)
    unbiased = eqx.tree_at(lambda m: m.label.bias, mapping, jnp.zeros(16))
    assert np.any(np.abs(unbiased(t, UNCONDITIONED) - expected) > 1e-3)
    # A class adds its row of the weight, times the square root of their number.
    row = np.sqrt(3) * mapping.label.weight[1]
    shifted = eqx.tree_at(lambda m: m.label.bias, mapping, mapping.label.bias + row)
    given = mapping(t, Conditioning(jnp.asarray(1)))
    np.testing.assert_allclose(given, shifted(t, UNCONDITIONED), atol=1e-6)
    assert np.any(np.abs(given - expected) > 1e-3)


def test_a_label_without_classes_is_refused():
    mapping = tiny(classes=0).conditioning
    assert mapping.label is None
    with pytest.raises(UsageError, match="built without classes but was given a label"):
        mapping(jnp.asarray([0.7]), Conditioning(jnp.asarray(1)))


def test_guidance_is_added_to_the_features_and_starts_silent():
    t, label = jnp.asarray([0.7]), jnp.asarray(1)
    built = {Slot.embedding: tiny().conditioning.embedding}
    plain, told = (
        ddpmpp.Mapping(32, Context(DATA, built, conditions=frozenset(c)), key=jr.key(0))
        for c in ((), ("guidance",))
    )
    strong = Conditioning(label, {"guidance": jnp.asarray(3.0)})
    np.testing.assert_array_equal(plain(t, Conditioning(label)), told(t, strong))
    heard = eqx.tree_at(lambda m: m.scalars.embeddings["guidance"].weight, told, jnp.ones((64, 16)))
    shift = heard.scalars(strong)
    shifted = eqx.tree_at(lambda m: m.label.bias, plain, shift)
    np.testing.assert_allclose(heard(t, strong), shifted(t, Conditioning(label)), atol=1e-5)
    assert np.any(np.abs(heard(t, strong) - told(t, strong)) > 1e-3)
    with pytest.raises(UsageError, match="is not told the condition 'guidance'; wrap its model"):
        plain(t, strong)


def test_bfloat16_images_keep_a_float32_time(getkey):
    network = tiny(multipliers=(1,), attention_resolutions=())
    x, t = jr.normal(getkey(), SHAPE), jnp.asarray([0.7])
    low, high = run(network, x.astype(jnp.bfloat16), t), run(network, x, t)
    assert low.dtype == jnp.bfloat16
    assert error(np.asarray(low, np.float32), high) < 0.05
    # 1e-3 is below bfloat16's resolution at 0.7: only a float32 time path can see it.
    emb = network.conditioning(t, UNCONDITIONED)
    assert emb.dtype == jnp.float32
    assert np.any(emb != network.conditioning(t + 1e-3, UNCONDITIONED))


def test_dropout_is_a_function_of_its_key(getkey):
    network, x, t = tiny(dropout=0.5, multipliers=(1,)), jr.normal(getkey(), SHAPE), jnp.ones(1)
    first, other = getkey(), getkey()
    y = run(network, x, t, key=first)
    np.testing.assert_array_equal(y, run(network, x, t, key=first))
    assert np.any(y != run(network, x, t, key=other))
    without = run(tiny(multipliers=(1,)), x, t, key=first)
    np.testing.assert_allclose(run(network, x, t), without, atol=1e-5)


def test_initial_weights_are_xaviers():
    config, norm = ddpmpp.DDPMPPOptions(channels=8), additive_group_norm.AdditiveGroupNorm
    place = Place("block", 8, 16, 32, attends=True)
    block = ddpmpp.Block(place, config, norm=norm, key=jr.key(0))
    assert isinstance(block.norm1, norm)
    assert block.attention is not None
    assert block.skip is not None
    for layer, fan_in, fan_out, gain in (
        (block.conv0, 9 * 16, 9 * 32, 1),
        (block.conv1, 9 * 32, 9 * 32, 1e-5),
        (block.skip, 16, 32, 1),
        (block.norm1.affine, 32, 32, 1),
        (block.attention.qkv, 32, 96, np.sqrt(0.2)),
        (block.attention.out, 32, 32, 1e-5),
    ):
        bound = gain * np.sqrt(6 / (fan_in + fan_out))
        assert 0.95 * bound < np.abs(layer.weight).max() <= bound
        assert np.std(layer.weight) == pytest.approx(bound / np.sqrt(3), rel=0.1)
        assert not np.any(layer.bias)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shape": (2,)}, r"images.*\(2,\); use the mlp"),
        ({"shape": (1, 10, 7)}, "10x7 cannot be halved 1 times.* pad the data to a multiple of 2"),
        ({"heads": 3}, "16 channels do not divide into 3 attention heads; set ddpmpp.heads"),
    ],
)
def test_what_does_not_fit_is_refused_with_a_remedy(options, message):
    with pytest.raises(ValueError, match=message):
        eqx.filter_eval_shape(initialise, **TINY | options)
