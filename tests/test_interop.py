"""Foreign weights as runs: parity with the original's figures, order of a file, errors, and back again."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scmkit_plugins._unet_weights import Structure

from scmkit import Conditioning, Run, compose, resume, sample, train
from scmkit.data import StoreWriter
from scmkit.errors import UsageError
from scmkit.interop import convert, export, restore_exported
from scmkit.training import checkpoint
from scmkit.weights import read_weights, write_safetensors

DATA = Path(__file__).parent / "data"
HEADS = {"edm2.head_dim": 4}


def reference(name):
    """Weights of an original network, and its inputs and outputs (`benchmarks/parity_*.py` made them)."""
    arrays = dict(np.load(DATA / f"{name}.npz"))
    state = {k.removeprefix("state/"): a for k, a in arrays.items() if k.startswith("state/")}
    return state, {k: a for k, a in arrays.items() if not k.startswith("state/")}


@pytest.fixture(scope="module")
def edm2(tmp_path_factory):
    folder = tmp_path_factory.mktemp("edm2")
    state, figures = reference("edm2-tiny")
    np.savez(folder / "weights.npz", **state)
    return convert("edm2", folder / "weights.npz", folder / "run", HEADS), figures


def error(a, b):
    return np.linalg.norm(a - b) / np.linalg.norm(b)


def forward(network, cond):
    return lambda x, c: jax.vmap(lambda x, c, cond: network(x, c, cond, key=None))(
        x, c[:, None], cond
    )


def test_edm2_gives_the_originals_figures(edm2):
    run, figures = edm2
    x, c, dx, dc = (jnp.asarray(figures[k]) for k in ("x", "c", "dx", "dc"))
    labelled = forward(run.model.network, Conditioning(jnp.arange(2) * 3))
    out, slope = jax.jit(lambda *a: jax.jvp(labelled, a[:2], a[2:]))(x, c, dx, dc)
    assert error(out, figures["out"]) < 1e-5
    assert error(slope, figures["jvp"]) < 1e-5
    without = jax.jit(forward(run.model.network, None))(x, c)
    assert error(without, figures["none"]) < 1e-5


def test_a_converted_run_says_what_it_is(edm2):
    run, _ = edm2
    recipe = run.recipe
    assert recipe.plugins["edm2"].config["multipliers"] == (1, 2)
    assert recipe.plugins["edm2"].config["attention_resolutions"] == (8,)
    assert (recipe.data.shape, recipe.data.num_classes) == ((3, 8, 8), 5)
    assert recipe.sampler == "pf-ode"
    assert run.finished
    with pytest.raises(UsageError, match="converted weights and no state of training"):
        resume(run.path, steps=5)


def test_the_order_of_a_file_does_not_matter(edm2, tmp_path):
    """Safetensors files are sorted by name, where 16x16 comes before 8x8 and in1 after block0."""
    run, _ = edm2
    state, _ = reference("edm2-tiny")
    backwards = {name: state[name].astype(np.float32) for name in sorted(state, reverse=True)}
    write_safetensors(tmp_path / "w.safetensors", backwards, {})
    other = convert("edm2", tmp_path / "w.safetensors", tmp_path / "run", HEADS)
    for a, b in zip(jax.tree.leaves(run.model), jax.tree.leaves(other.model), strict=True):
        np.testing.assert_array_equal(a, b)


def test_blocks_come_in_the_order_of_execution():
    levels = Structure((16, 8), (4, 6), blocks=2, attended=(8,))
    encoder, decoder = levels.encoder(3), levels.decoder(3, last_attends=True)
    assert [(p.name, p.in_, p.out, p.resamples, p.attends) for p in encoder] == [
        ("enc.16x16_block0", 3, 4, False, False),
        ("enc.16x16_block1", 4, 4, False, False),
        ("enc.8x8_down", 4, 4, True, False),
        ("enc.8x8_block0", 4, 6, False, True),
        ("enc.8x8_block1", 6, 6, False, True),
    ]
    assert [(p.name, p.in_, p.out, p.resamples, p.attends) for p in decoder] == [
        ("dec.8x8_in0", 6, 6, False, True),
        ("dec.8x8_in1", 6, 6, False, False),
        ("dec.8x8_block0", 12, 6, False, False),
        ("dec.8x8_block1", 12, 6, False, False),
        ("dec.8x8_block2", 10, 6, False, True),
        ("dec.16x16_up", 6, 6, True, False),
        ("dec.16x16_block0", 10, 4, False, False),
        ("dec.16x16_block1", 8, 4, False, False),
        ("dec.16x16_block2", 7, 4, False, False),
    ]


@pytest.mark.parametrize(
    ("change", "settings", "message"),
    [
        (
            {},
            {"edm2.channels": 16},
            r"parameter 'unet.enc.8x8_conv.weight' gives 'network/first/weight' the shape 3x3x4x8, this "
            r"model's is 3x3x4x16; the file fits .*--set edm2.channels=8",
        ),
        (
            {"unet.enc.8x8_block0.conv_skip.weight": np.zeros((8, 8, 1, 1))},
            {},
            r"it has 'unet.enc.8x8_block0.conv_skip.weight', which the published network has not",
        ),
        (
            {"enc.8x8_block0.conv_res0.weight": None},
            {},
            r"lacks 1 of its 60 parameters \('unet.enc.8x8_block0.conv_res0.weight'\): the file is incomplete",
        ),
        (
            {"emb_fourier.freqs": None},
            {},
            "is not for importer 'edm2': it lacks 1 of its 60 parameters",
        ),
        (
            {"out_conv.weight": np.zeros((3, 9, 3, 3))},
            {},
            "has the shape 3x9x3x3, and .* would be 3x8x3x3",
        ),
    ],
)
def test_what_does_not_fit_is_named(change, settings, message, tmp_path):
    state, _ = reference("edm2-tiny")
    prefix = "" if "out_gain" in state else "unet."
    for name, array in change.items():
        name = prefix + name.removeprefix("unet.")
        if array is None:
            del state[name]
        else:
            state[name] = array.astype(np.float32)
    np.savez(tmp_path / "w.npz", **state)
    with pytest.raises(
        UsageError, match=message.replace("'enc.8x8_conv", f"'{prefix}enc.8x8_conv")
    ):
        convert("edm2", tmp_path / "w.npz", tmp_path / "run", HEADS | settings)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["w.npz"]


def test_a_taken_directory_is_left_alone(edm2):
    run, _ = edm2
    before = checkpoint.digest(checkpoint.latest(run.checkpoints))
    with pytest.raises(UsageError, match="exists; choose another name"):
        convert("edm2", run.path.parent / "weights.npz", run.path, HEADS)
    assert Run.load(run.path).digest() == before


def test_export_and_back_again(edm2, tmp_path):
    run, _ = edm2
    export(run, tmp_path / "w.safetensors")
    again = restore_exported(tmp_path / "w.safetensors", tmp_path / "run")
    assert again.recipe == run.recipe
    for a, b in zip(jax.tree.leaves(run.model), jax.tree.leaves(again.model), strict=True):
        np.testing.assert_array_equal(a, b)
    weights = read_weights(tmp_path / "w.safetensors")
    assert json.loads(weights.metadata["scmkit.recipe"])["slots"]["network"] == "edm2"
    assert weights.arrays["network/first/weight"].shape == (3, 3, 4, 8)
    with pytest.raises(UsageError, match="exists"):
        export(run, tmp_path / "w.safetensors")
    with pytest.raises(UsageError, match="give a name that ends so"):
        export(run, tmp_path / "w.npz")
    write_safetensors(tmp_path / "bare.safetensors", {"a": np.zeros(2, np.float32)}, {})
    with pytest.raises(UsageError, match="no scmkit recipe in its metadata"):
        restore_exported(tmp_path / "bare.safetensors", tmp_path / "other")


class Silent:
    """Keeps what training says."""

    def __init__(self):
        self.messages, self.lines = [], []

    def message(self, text):
        self.messages.append(text)

    def start(self, *_):
        pass

    def advance(self, step, line):
        self.lines.append(line)

    def stop(self):
        pass


def of_one_resolution(state):
    """Weights of a network half as deep, whose training step takes half as long to compile."""
    kept = {k: a for k, a in state.items() if "4x4" not in k and "8x8_up" not in k}
    encoder = {k: a for k, a in kept.items() if "enc.8x8_block0" in k}
    for name, array in encoder.items():
        kept[name.replace("enc.8x8_block0", "dec.8x8_in0")] = array
        if "attn" not in name:
            kept[name.replace("enc.8x8_block0", "dec.8x8_in1")] = array
    # What came from below had 16 channels, and so had the embedding.
    for name, array in kept.items():
        if "dec.8x8_block0.conv_res0" in name or "dec.8x8_block0.conv_skip" in name:
            kept[name] = array[:, :16]
        elif "emb_linear" in name:
            kept[name] = array[:, :8]
        elif "emb_noise" in name or "emb_label" in name:
            kept[name] = array[:8]
    return kept


def test_a_converted_network_is_a_teacher(tmp_path):
    """Its student has its slots, its weights and its view of the data, and trains."""
    np.savez(tmp_path / "weights.npz", **of_one_resolution(reference("edm2-tiny")[0]))
    run = convert("edm2", tmp_path / "weights.npz", tmp_path / "run", HEADS)
    rng = np.random.default_rng(0)
    store = StoreWriter(tmp_path / "store", shape=(3, 8, 8), dtype="uint8", num_classes=5)
    with store as writer:
        for split in ("train", "test"):
            pixels = rng.integers(0, 256, (24, 3, 8, 8)).astype(np.uint8)
            writer.append(split, pixels, np.arange(24, dtype=np.int32) % 5)
    recipe = compose(
        ["scd"],
        {"train.steps": 2, "train.batch_size": 4, "train.log_every": 1, "scd.guidance": 1.5},
        data=str(tmp_path / "store"),
        teacher=run.path,
    )
    assert recipe.slots == {**run.recipe.slots, **{s: "scd" for s in ("tangent", "loss")}}
    assert recipe.data.shift == (0.0, 0.0, 0.0)
    reporter = Silent()
    student = train(recipe, out=tmp_path, name="student", reporter=reporter)
    assert not reporter.messages
    assert [np.isfinite(line["loss"]) for line in student.metrics] == [True, True]
    # As many as on the last step's picture, whose program this is.
    x = sample(student.model, student.recipe.data, 8 * 5)
    assert np.isfinite(x).all()
