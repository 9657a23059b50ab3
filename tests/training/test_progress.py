"""What training says of its length: counted before it, measured in it; and a bar that nothing runs into."""

import io

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from rich.console import Console

from scmkit import build_model, compose, dataset_of
from scmkit.composing.footprint import products
from scmkit.data import StoreWriter
from scmkit.interfaces import Conditioning, DataSpec
from scmkit.testing import exact_model
from scmkit.training import estimate, progress
from scmkit.training.estimate import FEW, announce, product_speed
from scmkit.training.preview import collapsed, picture
from scmkit.training.progress import Bar, Silent, duration, unseen
from scmkit.training.rehearsal import rehearse

IMAGES = DataSpec("photos.store", (3, 64, 64), 0, (0.0,) * 3, (1.0,) * 3)


def counted(f, *shapes):
    arrays = [jax.ShapeDtypeStruct(s, jnp.float32) for s in shapes]
    program = jax.jit(f).lower(*arrays)
    return products(jax.make_jaxpr(f)(*arrays).jaxpr), program.cost_analysis()["flops"]


@pytest.mark.parametrize(("stride", "padding"), [(1, "VALID"), (2, "VALID")])
def test_products_and_convolutions_count_as_xla_counts_them(stride, padding):
    """Forward, and for the gradients of both arguments, where inputs and windows are dilated."""

    def convolve(x, w):
        return jax.lax.conv_general_dilated(
            x, w, (stride, stride), padding, dimension_numbers=("NCHW", "OIHW", "NCHW")
        )

    shapes = (2, 3, 12, 12), (5, 3, 3, 3)
    found, xla = counted(convolve, *shapes)
    side = (12 - 3) // stride + 1
    assert found == xla == 2 * 2 * 5 * side**2 * 3 * 3 * 3
    dot, xla = counted(lambda a, b: jnp.einsum("bij,bkj->bik", a, b), (4, 5, 6), (4, 7, 6))
    assert dot == xla == 2 * 4 * 5 * 6 * 7
    grads, _ = counted(jax.grad(lambda x, w: jnp.sum(convolve(x, w) ** 2), argnums=(0, 1)), *shapes)
    # Each gradient is one more convolution; that of the input also meets the padding's zeros.
    assert 3 * found <= grads < 5.5 * found


def test_loops_count_as_often_as_they_run():
    w = jnp.ones((8, 8))

    def scanned(x):
        return jax.lax.scan(
            lambda c, _: (jax.lax.fori_loop(0, 3, lambda _, c: c @ w, c), None), x, length=5
        )[0]

    assert counted(scanned, (8, 8))[0] == 15 * 2 * 8**3
    either = counted(
        lambda x: jax.lax.cond(x[0, 0] > 0, lambda x: x @ w @ w, lambda x: x @ w, x), (8, 8)
    )
    assert either[0] == 2 * 2 * 8**3


def test_a_rehearsal_counts_what_is_left_to_train():
    """Of a sample of a diffusion model three forward passes: its own, and one for each gradient."""
    sizes = {"mlp.width": 64, "mlp.depth": 3, "train.steps": 10, "train.batch_size": 4}
    recipe = compose(["trigflow", "sct"], sizes, data="two-moons")
    assert recipe.teacher is not None
    own = rehearse(recipe.replace(teacher=None))
    teacher = rehearse(recipe.teacher)
    assert rehearse(recipe, step=4, teacher_step=9) == pytest.approx(0.6 * own + 0.1 * teacher)
    skeleton = eqx.filter_eval_shape(build_model, recipe, key=jr.key(0))
    arrays, static = eqx.partition(skeleton.network, lambda a: isinstance(a, jax.ShapeDtypeStruct))

    def forward(arrays, x, c, label):
        return eqx.combine(arrays, static)(x, c, Conditioning(label), key=None)

    given = [
        jax.ShapeDtypeStruct(s, d) for s, d in (((2,), "float32"), ((1,), "float32"), ((), "int32"))
    ]
    once = products(jax.make_jaxpr(forward)(arrays, *given).jaxpr)
    config = {**recipe.plugins["mlp"].config, **recipe.plugins["positional"].config}
    # Nobody asks for the gradient of the first layer's input, which is the time's embedding.
    first = 2 * config["channels"] * config["embedding_dim"]
    assert teacher / (10 * 4) == pytest.approx(3 * once - first, rel=2e-3)
    # The tangent is one more forward pass, carried along.
    assert own / (10 * 4) == pytest.approx(4 * once - first, rel=0.03)


class Messages(Silent):
    def __init__(self):
        self.said = []

    def message(self, text):
        self.said.append(text)


def said(recipe, flops, **given):
    told = Messages()
    announce(recipe, flops, told, **given)
    return told.said


def test_the_estimate_is_told_where_it_matters():
    recipe = compose(["trigflow", "diffusion"], data=IMAGES)
    assert said(recipe, FEW / 2) == []
    line, *_ = said(recipe, FEW)  # On a machine as busy as can be, that is long, too.
    assert line.startswith("estimate        2e+13 FLOP")
    assert "at the least" in line
    long, shorter = said(recipe, 1e19)
    assert "days" in long
    assert "--steps (now 10000)" in shorter
    assert "--batch-size (128)" in shorter
    assert "unet.channels=64 unet.blocks=2" in shorter
    assert "data import --size" in shorter
    assert said(recipe, 1e19, begun=True)[1] == "shorter with    fewer --steps (now 10000)"


def test_the_estimate_counts_all_devices(monkeypatch):
    monkeypatch.setattr(estimate.jax, "device_count", lambda: 3)
    monkeypatch.setattr(estimate, "product_speed", lambda precision: 1e12)
    recipe = compose(["trigflow", "diffusion"], {"train.batch_size": 6}, data=IMAGES)
    assert "3,000 GFLOP/s" in said(recipe, FEW)[0]


def test_the_speed_of_this_machine_is_a_machines():
    assert 1e8 < product_speed("float32", seconds=0.01) < 1e16


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (3, "3 s"),
        (89, "89 s"),
        (90, "1.5 min"),
        (3600, "60 min"),
        (5400, "1.5 h"),
        (40 * 3600, "1.7 days"),
    ],
)
def test_durations(seconds, said):
    assert duration(seconds) == said


@pytest.fixture
def clock(monkeypatch):
    """Time that stands still until it is moved."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_without_a_terminal_the_first_estimate_is_a_line(clock, capsys):
    bar = Bar()
    bar.start("r", 0, 100)
    for step in range(1, 8):
        clock[0] += 500.0 if step == 1 else 60.0
        bar.advance(step, None)
    # After four steps, the first of which is all compiling: one took a minute, 95 are left.
    assert capsys.readouterr().err == "r  5/100  1.6 h left\n"
    with unseen(bar):
        clock[0] += 5000.0
    clock[0] += 60.0
    bar.advance(8, {"loss": 0.5, "steps_per_second": 1 / 60})
    assert capsys.readouterr().err == "r  8/100  1.5 h left  60 s/step  loss 0.5000\n"
    bar.stop()


def test_a_rollback_starts_the_clock_again(clock, capsys):
    bar = Bar()
    bar.start("r", 0, 100)
    for step in (1, 2, 3, 4, 5, 2, 3):
        clock[0] += 10.0
        bar.advance(step, None)
    assert bar._left == "16 min left"


def test_nothing_runs_into_the_bar():
    """While something compiles there is none, and what C++ writes then begins a line of its own."""
    screen = io.StringIO()
    bar = Bar()
    bar._console = Console(file=screen, force_terminal=True, width=100)
    bar.start("r", 0, 100)
    assert screen.getvalue() == "r  0/100  compiling ...\n"
    bar.advance(1, None)
    assert "1/100" in screen.getvalue()
    with unseen(bar):
        before = screen.getvalue()
        # The bar's line is erased, and the cursor at its beginning.
        assert before.endswith("\r\x1b[1A\x1b[2K")
        screen.write("Very slow compile?\n")
    assert "1/100" in screen.getvalue()[len(before) :]
    bar.stop()
    with unseen(bar), unseen(Silent()):
        pass


@pytest.mark.parametrize(
    ("variety", "before", "last", "said"),
    [
        (0.03, [], False, False),  # A fresh network makes nothing yet,
        (0.03, [0.02], True, True),  # which at the end is told.
        (0.03, [0.1, 0.9], False, True),
        (0.8, [1.0], True, False),
        (float("nan"), [1.0], True, False),
    ],
)
def test_a_generator_that_makes_one_sample_of_all_noise_is_told(variety, before, last, said):
    assert collapsed(variety, before, last=last) == said


def test_the_variety_of_samples_is_that_of_the_data():
    made = compose(["diffusion"], {"mlp.width": 8, "mlp.depth": 1}, data="gmm")
    model, dataset = build_model(made, key=jr.key(0)), dataset_of(made)
    density = dataset.density()
    assert density is not None
    for part in (1.0, 0.1):  # Of the data's spread, about its mean.
        scale = part * jnp.asarray(made.data.scale)
        exact = exact_model(
            model.parameterization, density.affine(jnp.asarray(made.data.shift), scale)
        )
        variety = picture(exact, made, dataset, steps=(20,)).variety
        assert variety == pytest.approx(part, rel=0.1)


def test_without_test_samples_the_picture_is_over_training_data(tmp_path):
    x = np.random.default_rng(0).normal(size=(40, 2)).astype(np.float32)
    with StoreWriter(tmp_path / "s.store", shape=(2,), dtype="float32") as writer:
        writer.append("train", x)
    made = compose(["diffusion"], {"mlp.width": 8, "mlp.depth": 1}, data=str(tmp_path / "s.store"))
    model = build_model(made, key=jr.key(0))
    assert np.isfinite(picture(model, made, dataset_of(made), steps=(2,)).variety)
