"""Foreign weights as runs: parity with the original's figures, order of a file, errors, and back again."""

import dataclasses
import functools
import json
import re
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from scmkit_plugins.importers.ddpmpp import DDPMPPImporter
from scmkit_plugins.importers.edm2 import EDM2Importer
from scmkit_plugins.layers.unet_levels import Structure

from scmkit import Conditioning, Run, build_model, compose, resume, sample, train
from scmkit.composing.build import build_sampler
from scmkit.data import StoreWriter
from scmkit.errors import CheckpointError, DataError, UsageError
from scmkit.interfaces import UNCONDITIONED, DataSpec
from scmkit.runs import checkpoint
from scmkit.runs.convert import _filled, convert, export, restore_exported
from scmkit.runs.recovery import recover
from scmkit.weights import read_weights, write_safetensors

DATA = Path(__file__).parents[1] / "support" / "files"
HEADS = {"edm2.head_dim": 4}


def arrays_of(name):
    with np.load(DATA / f"{name}.npz") as file:
        return dict(file)


def reference(name):
    """Weights of an original network, and its inputs and outputs (`benchmarks/parity_*.py` made them)."""
    arrays = arrays_of(name)
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
    without = jax.jit(forward(run.model.network, UNCONDITIONED))(x, c)
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
    assert [(p.name, p.in_, p.out, p.resample, p.attends) for p in encoder] == [
        ("enc.16x16_block0", 3, 4, "keep", False),
        ("enc.16x16_block1", 4, 4, "keep", False),
        ("enc.8x8_down", 4, 4, "down", False),
        ("enc.8x8_block0", 4, 6, "keep", True),
        ("enc.8x8_block1", 6, 6, "keep", True),
    ]
    assert [(p.name, p.in_, p.out, p.resample, p.attends) for p in decoder] == [
        ("dec.8x8_in0", 6, 6, "keep", True),
        ("dec.8x8_in1", 6, 6, "keep", False),
        ("dec.8x8_block0", 12, 6, "keep", False),
        ("dec.8x8_block1", 12, 6, "keep", False),
        ("dec.8x8_block2", 10, 6, "keep", True),
        ("dec.16x16_up", 6, 6, "up", False),
        ("dec.16x16_block0", 10, 4, "keep", False),
        ("dec.16x16_block1", 8, 4, "keep", False),
        ("dec.16x16_block2", 7, 4, "keep", False),
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
            r"lacks 1 of its 60 parameters \('unet.enc.8x8_block0.conv_res0.weight'\): the file is",
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
    # Guidance by the network's own prediction without a label needs one that was trained without labels, too.
    given = HEADS | {"diffusion.label_dropout": 0.1}
    run = convert("edm2", tmp_path / "weights.npz", tmp_path / "run", given)
    rng = np.random.default_rng(0)
    store = StoreWriter(tmp_path / "store", shape=(3, 8, 8), dtype="uint8", num_classes=5)
    with store as writer:
        for split in ("train", "test"):
            pixels = rng.integers(0, 256, (24, 3, 8, 8)).astype(np.uint8)
            writer.append(split, pixels, np.arange(24, dtype=np.int32) % 5)
    settings = {"train.batch_size": 4, "train.log_every": 1, "scd.guidance": 1.5}
    at_the_end = {"train.steps": 2, "train.sample_every": 9, "train.checkpoint_every": 9}
    recipe = compose(
        ["scd"],
        settings | at_the_end,
        data=str(tmp_path / "store"),
        teacher=run.path,
    )
    assert recipe.slots == {**run.recipe.slots, **{s: "scd" for s in ("tangent", "loss")}}
    assert recipe.data.shift == (0.0, 0.0, 0.0)
    reporter = Silent()
    student = train(recipe, out=tmp_path, name="student", reporter=reporter)
    # Converted weights come without the data that they were trained on.
    (message,) = reporter.messages
    assert message.endswith("has no digest of its data: whether it is this run's cannot be told")
    assert [np.isfinite(line["loss"]) for line in student.metrics] == [True, True]
    # As many as on the last step's picture, whose program this is.
    x = sample(student.model, student.recipe.data, 8 * 5)
    assert np.isfinite(x).all()


# What a file says of itself, and what it does not.


TINY = {"channels_per_head": 4, "img_resolution": 8, "use_fp16": False}


@functools.cache
def tiny():
    return {n: a.astype(np.float32) for n, a in reference("edm2-tiny")[0].items()}


def read(kwargs=None, modules=None, without=(), extra=None):
    """What the importer makes of the tests' EDM2 network, as if it came from a pickle that says this."""
    arrays = {n: a for n, a in tiny().items() if n not in without}
    metadata = {"class": "Precond", "kwargs": kwargs or {}, "modules": modules or {}}
    return EDM2Importer().read(arrays | (extra or {}), metadata)


def denoised(found, figures):
    """Samples that an imported network denoises, of noise levels and classes of the reference's."""
    recipe = compose(found.plugins, found.settings, data=found.data)
    filled = _filled(recipe, found.leaves, "file", {})
    model = jax.tree.map(lambda a: jnp.asarray(a) if isinstance(a, np.ndarray) else a, filled)
    process, cond = model.process, Conditioning(jnp.arange(2) * 3)

    def one(x, sigma, cond):
        return model.denoise(x, process.time_at(sigma), cond)

    given = (jnp.asarray(figures[k]) for k in ("x", "sigma"))
    return jax.jit(jax.vmap(one))(*given, cond)


ARGUMENTS = {
    "label_balance": 0.3,
    "concat_balance": 0.7,
    "res_balance": 0.5,
    "attn_balance": 0.6,
    "clip_act": 0.5,
    "sigma_data": 1.0,
}
"""As in `benchmarks/parity_edm2.py`."""


def test_arguments_of_edm2_that_leave_no_trace_in_the_weights():
    """Each of them changes the samples by at least a hundredth (`benchmarks/parity_edm2.py`)."""
    _, figures = reference("edm2-tiny")
    theirs = arrays_of("edm2-arguments")
    found = read(TINY | ARGUMENTS)
    assert error(denoised(found, figures | {"sigma": theirs["sigma"]}), theirs["out"]) < 2e-6
    settings = {f"edm2.{n}_balance" for n in ("label", "concat", "residual", "attention")}
    for name, value in ARGUMENTS.items():
        one = read(TINY | {name: value})
        changed = {k for k, v in one.settings.items() if v != read(TINY).settings.get(k)}
        assert changed <= settings | {"edm2.clip"}
        assert len(changed) == (name != "sigma_data")


def test_arguments_are_options_here_and_what_modules_hold_wins():
    """The modules' attributes are what the original computes with, whatever it was made with."""
    modules = {
        "": {"class": "Precond", "sigma_data": 1.0},
        "unet": {"class": "UNet", "label_balance": 0.3},
        "unet.dec.4x4_in0": {"class": "Block", "num_heads": 2, "out_channels": 16, "dropout": 0.1},
    }
    found = read({"sigma_data": 0.5, "label_balance": 0.5, "clip_act": None}, modules)
    assert found.data.sigma_data == 1.0
    expected = {
        "edm2.label_balance": 0.3,
        "edm2.clip": None,
        "edm2.head_dim": 8,
        "edm2.dropout": 0.1,
        "diffusion.label_dropout": 0.0,
    }
    assert expected.items() <= found.settings.items()
    assert found.assumed == tuple(f"edm2.{n}_balance" for n in ("concat", "residual", "attention"))
    silent = read().assumed
    assert silent[:2] == ("data.sigma_data", "edm2.head_dim")
    assert "edm2.label_balance" in silent


@pytest.mark.parametrize(
    ("kwargs", "modules", "message"),
    [
        ({"magic": 3}, {}, "made with magic=3, which the published network has not"),
        (
            {"resample_filter": [1, 3, 3, 1]},
            {},
            r"resample_filter=\[1, 3, 3, 1\], and only \[1, 1\]",
        ),
        ({"sigma_data": "x"}, {}, "sigma_data='x', which is no number above 0"),
        (
            {"channels_per_head": 64},
            {"unet.dec.4x4_in0": {"num_heads": 0, "out_channels": 16}},
            "channels_per_head=64, which divides the channels of its levels unevenly",
        ),
        (
            {},
            {"a": {"res_balance": 0.3}, "b": {"res_balance": 0.4}},
            r"its parts differ in res_balance \(0.3 and 0.4\)",
        ),
    ],
)
def test_arguments_that_are_not_supported_are_refused_by_name(kwargs, modules, message):
    with pytest.raises(ValueError, match=message):
        read(kwargs, modules)


def test_every_parameter_that_is_missing_is_named():
    state, _ = reference("edm2-tiny")
    unused = {n for n in state if "logvar" in n}
    assert len(state) - len(unused) == 60
    for name in state:
        if name in unused or name.endswith("emb_label.weight"):
            read(without=[name])  # No class, or nothing that is used.
            continue
        with pytest.raises(ValueError, match=re.escape(f"'{name}'")):
            read(without=[name])
    some = [n for n in state if ".dec." in n][:12]
    with pytest.raises(ValueError, match=r"lacks 12 of its 60 parameters .*, \.\.\."):
        read(without=some)


def test_surplus_arrays_are_named_unless_their_use_is_known():
    one = np.ones(1, np.float32)
    assert read(extra={"steps": one, "ema.decay": one}).dropped == ("steps", "ema.decay")
    assert any("logvar" in name for name in reference("edm2-tiny")[0])
    assert not read().dropped


def test_sigma_data_of_edm():
    with np.load(DATA / "songunet-fir.npz") as file:
        given = {name: file[name].astype(np.float32) for name in file.files}
    theirs = arrays_of("edm-arguments")
    weights = {name: a for name, a in given.items() if name.startswith("model.")}
    kwargs = {"sigma_data": 1.0, "sigma_max": 20.0, "sigma_min": 0.1, "dropout": 0.2}
    metadata = {"class": "EDMPrecond", "kwargs": kwargs | {"label_dropout": 0.3}}
    found = DDPMPPImporter().read(weights, metadata)
    assert (
        error(denoised(found, {"x": given["x"], "sigma": theirs["sigma"]}), theirs["sigma_data"])
        < 3e-6
    )
    expected = {
        "edm.ratio_max": 20.0,
        "pf-ode.ratio_min": 0.1,
        "ddpmpp.dropout": 0.2,
        "diffusion.label_dropout": 0.3,
    }
    assert expected.items() <= found.settings.items()
    assert not found.assumed
    assert DDPMPPImporter().read(weights, {}).assumed == ("data.sigma_data",)
    for name in weights:
        if re.search("resample_filter|map_label", name):
            continue
        with pytest.raises(ValueError, match=re.escape(f"'{name}'")):
            DDPMPPImporter().read({n: a for n, a in weights.items() if n != name}, {})
    for kwargs, message in (
        ({"model_type": "DhariwalUNet"}, "model_type=DhariwalUNet, and only SongUNet"),
        ({"embedding_type": "fourier"}, "embedding_type=fourier, and only positional"),
        ({"magic": 1}, "made with magic=1"),
    ):
        with pytest.raises(ValueError, match=message):
            DDPMPPImporter().read(weights, {"class": "EDMPrecond", "kwargs": kwargs})


# Small runs, of every kind.

TWO = DataSpec("two-moons", (2,), 3, (0.0, 0.0), (1.0, 1.0))
SMALL = {"mlp.width": 8, "mlp.depth": 1, "mlp.embedding_dim": 8, "positional.channels": 8}


def written(path, plugins, settings=None, change=lambda model: model):
    """A run of fresh weights, as training would have left it; `change` alters its model."""
    recipe = compose(plugins, {**SMALL, **(settings or {}), "train.steps": 3}, data=TWO)
    run = Run.create(path, recipe)
    model = change(build_model(recipe, key=jr.key(0)))
    checkpoint.save(run.checkpoints, 3, {"players": {"generator": {"ema": model}}})
    return run


@pytest.mark.parametrize(
    ("plugins", "settings"),
    [
        (["diffusion"], {"pf-ode.solver": "Euler"}),
        (["edm", "diffusion", "heun"], {"heun.churn": 3.0}),
        (["scd"], {"consistency.angles": "1.2,0.7"}),
        (["sct"], {"consistency.angles": "0.9"}),
        (["scd"], {"scd.guidance_range": "1,2"}),
        (["scd"], {"scd.guidance": 1.5}),
    ],
    ids=["teacher", "edm teacher", "scd", "sct", "told strengths", "one strength"],
)
def test_every_kind_of_run_comes_back_as_what_it_was(plugins, settings, tmp_path):
    run = written(tmp_path / "run", plugins, settings)
    export(run, tmp_path / "w.safetensors")
    again = restore_exported(tmp_path / "w.safetensors", tmp_path / "again")
    steps = dataclasses.replace(run.recipe.train, steps=1)
    assert again.recipe == run.recipe.replace(teacher=None, train=steps)
    assert again.recipe.conditions == run.recipe.conditions
    for a, b in zip(jax.tree.leaves(run.model), jax.tree.leaves(again.model), strict=True):
        np.testing.assert_array_equal(a, b)
    consistent = set(plugins) & {"scd", "sct"}
    right, wrong = ("consistency", "diffusion") if consistent else ("diffusion", "consistency")
    assert getattr(again, f"{right}_model") is again.model
    with pytest.raises(UsageError, match=f"is a {right} model"):
        getattr(again, f"{wrong}_model")
    with pytest.raises(UsageError, match="converted weights and no state of training"):
        resume(again.path, steps=5)
    # And once more, from what came back.
    export(again, tmp_path / "v.safetensors")
    assert (tmp_path / "v.safetensors").stat().st_size > 0
    assert restore_exported(tmp_path / "v.safetensors", tmp_path / "third").recipe == again.recipe


@pytest.mark.parametrize(
    ("plugins", "settings"),
    [
        (["sct"], {"consistency.angles": "0.9,0.4", "consistency.steps": "3,1"}),
        (["tcm"], {"tcm.transition": 1.5}),
        (["progressive-distillation"], {"progressive-distillation.last": 4}),
        (["ms-scd"], {"ms-scd.segments": 3, "flow-map.gamma": 0.5}),
        (["consistency-fm"], {}),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_exported_weights_keep_their_sampler_and_its_times(plugins, settings, tmp_path):
    run = written(tmp_path / "run", plugins, settings)
    export(run, tmp_path / "w.safetensors")
    again = Run.load(restore_exported(tmp_path / "w.safetensors", tmp_path / "again").path)
    drawn = []
    for one in (run, again):
        sampler = build_sampler(one.recipe)
        drawn += [
            (steps, sample(one.model, one.recipe.data, 8, sampler, steps=steps))
            for steps in (*sampler.usual_steps, 3)
        ]
    half = len(drawn) // 2
    for (steps, x), (same, y) in zip(drawn[:half], drawn[half:], strict=True):
        assert steps == same
        np.testing.assert_array_equal(x, y)


def test_arrays_of_an_exported_run_that_are_missing_or_left_over_are_named(tmp_path):
    export(written(tmp_path / "run", ["diffusion"]), tmp_path / "w.safetensors")
    weights = read_weights(tmp_path / "w.safetensors")
    names = list(weights.arrays)
    write_safetensors(
        tmp_path / "less.safetensors",
        {n: weights.arrays[n] for n in names[2:]},
        weights.metadata,
    )
    with pytest.raises(UsageError, match=f"lacks 2 of the {len(names)} arrays .*'{names[0]}'"):
        restore_exported(tmp_path / "less.safetensors", tmp_path / "other")
    more = weights.arrays | {"extra": np.ones(1, np.float32)}
    write_safetensors(tmp_path / "more.safetensors", more, weights.metadata)
    with pytest.raises(UsageError, match="no place in this model: 'extra'"):
        restore_exported(tmp_path / "more.safetensors", tmp_path / "other")


def test_weights_that_are_not_finite_are_named_wherever_they_go(tmp_path):
    def spoiled(model):
        where = lambda m: m.network.last.weight  # noqa: E731
        return eqx.tree_at(where, model, where(model).at[0, 0].set(jnp.nan))

    run = written(tmp_path / "run", ["diffusion"], change=spoiled)
    message = r"NaN or infinity in '[\w/]*network/last/weight' \(1 of 16\)"
    with pytest.raises(CheckpointError, match=f"is as it was written, and its model has {message}"):
        sample(run.model, run.recipe.data, 2)
    with pytest.raises(CheckpointError, match=message):
        export(run, tmp_path / "w.safetensors")
    found = [c.problem for c in run.verify() if c.problem is not None]
    assert len(found) == 1
    assert re.fullmatch(f"is as it was written, and has {message}", found[0])
    # Not damaged: nothing is set aside, and who knows what they do can read it.
    assert checkpoint.problem(checkpoint.latest(run.checkpoints)) is None
    assert recover(run.checkpoints) == []
    assert np.isnan(run.read_model().network.last.weight).sum() == 1
    good = written(tmp_path / "good", ["diffusion"])
    assert not [c.problem for c in good.verify() if c.problem is not None]
    export(good, tmp_path / "w.safetensors")
    weights = read_weights(tmp_path / "w.safetensors")
    for bad in (np.nan, np.inf):
        arrays = {n: a.copy() for n, a in weights.arrays.items()}
        arrays["network/last/weight"][0, 0] = bad
        write_safetensors(tmp_path / "bad.safetensors", arrays, weights.metadata)
        with pytest.raises(DataError, match=message):
            restore_exported(tmp_path / "bad.safetensors", tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_a_value_too_large_for_float32_is_named(tmp_path):
    state, _ = reference("edm2-tiny")
    state["unet.out_conv.weight"] = np.full(state["unet.out_conv.weight"].shape, 1e300)
    np.savez(tmp_path / "w.npz", **state)
    with pytest.raises(DataError, match=r"infinity in 'unet.out_conv.weight' \(216 of 216\)"):
        convert("edm2", tmp_path / "w.npz", tmp_path / "run", HEADS)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.", "model._orig_mod.module."])
def test_wrappers_are_taken_off_every_name_and_said(prefix, tmp_path, capsys):
    state, _ = reference("edm2-tiny")
    np.savez(tmp_path / "w.npz", **{prefix + n: a for n, a in state.items()})
    weights = read_weights(tmp_path / "w.npz")
    assert weights.prefix == prefix
    assert list(weights.arrays) == list(state)
    # One that not all have is part of a name.
    np.savez(tmp_path / "v.npz", other=np.ones(1), **{prefix + n: a for n, a in state.items()})
    assert not read_weights(tmp_path / "v.npz").prefix
    state["steps"] = np.ones(1)
    np.savez(tmp_path / "w.npz", **{prefix + n: a for n, a in state.items()})
    run = convert("edm2", tmp_path / "w.npz", tmp_path / "run", HEADS | {"data.sigma_data": 1.0})
    assert run.recipe.data.sigma_data == 1.0
    said = capsys.readouterr().err.splitlines()
    assert f"names are read without '{prefix}'" in said[0]
    assert said[1] == "not used: 1 arrays of the file ('steps')"
    assert said[2].startswith("the file does not say, and is taken to be: edm2.label_balance=0.5, ")
    assert len(said) == 3


def test_settings_that_contradict_a_file_are_said(tmp_path, capsys):
    convert("edm", DATA / "songunet-fir.npz", tmp_path / "run", {"ddpmpp.resample": "box"})
    said = capsys.readouterr().err.splitlines()
    assert "--set ddpmpp.resample=box wins over fir, which the file says" in said
