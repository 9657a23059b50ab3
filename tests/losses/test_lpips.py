"""LPIPS against its definition in NumPy on the same weights, and in the losses that compare samples."""

import re
import shutil
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from lpips_formula import lpips
from scmkit_plugins.distances import lpips as plugin
from scmkit_plugins.distances._vgg import STAGES, shapes
from scmkit_plugins.methods.continuous_consistency import hessian_product
from weights_formula import images, parameter

from scmkit import compose, resume, train
from scmkit.errors import DataError, OptionError, RunError
from scmkit.interfaces import DataSpec
from scmkit.plugin import Context
from scmkit.runs import checkpoint
from scmkit.testing import checks
from scmkit.training.progress import Silent
from scmkit.training.rehearsal import rehearse
from scmkit.weights import write_safetensors

STATE = {name: parameter(name, shape) for name, shape in shapes().items()}
HEADS = {
    f"lin{i}.model.1.weight": np.abs(parameter(f"lin{i}", (1, stage[-1], 1, 1)))
    for i, stage in enumerate(STAGES)
}


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("lpips")
    write_safetensors(folder / "vgg.safetensors", STATE | {"classifier.0.bias": np.zeros(3)}, {})
    write_safetensors(folder / "heads.safetensors", HEADS, {})
    return {"weights": str(folder / "vgg.safetensors"), "heads": str(folder / "heads.safetensors")}


def spec(shape, shift=0.0, scale=1.0) -> DataSpec:
    return DataSpec("x", shape, 0, (shift,) * shape[0], (scale,) * shape[0])


def built(files, shape=(3, 16, 18), side=0, data=None):
    options = plugin.Options(**files, side=side)
    return plugin.build(options, Context(data or spec(shape)), key=jr.key(0))


def pair(shape) -> list[np.ndarray]:
    return list(images((2, *shape)).astype(np.float32) / 127.5 - 1)


def test_it_is_the_definition(files):
    x, y = pair((3, 19, 18))
    found = eqx.filter_jit(built(files, x.shape))(jnp.asarray(x), jnp.asarray(y))
    assert float(found) == pytest.approx(lpips(STATE, HEADS, x, y), rel=1e-5)


def test_images_are_in_the_datas_units_grey_and_resized(files):
    x, y = pair((1, 8, 8))
    distance = built(files, data=spec(x.shape, shift=-0.2, scale=0.4), side=16)
    found = eqx.filter_jit(distance)(*(jnp.asarray((v + 0.2) * 0.4) for v in (x, y)))
    larger = [
        np.asarray(jax.image.resize(np.repeat(v, 3, 0), (3, 16, 16), "bilinear")) for v in (x, y)
    ]
    assert float(found) == pytest.approx(lpips(STATE, HEADS, *larger), rel=1e-5)


def test_where_no_channel_answers_the_gradient_is_finite(files):
    distance = built(files)
    dead = eqx.tree_at(lambda d: d.network.stages[0][0].bias, distance, jnp.full(64, -1e3))
    x, y = map(jnp.asarray, pair((3, 16, 18)))
    for one in (distance, dead):
        gradient = eqx.filter_jit(lambda d, x, y: jax.grad(d)(x, y))(one, x, y)
        assert bool(jnp.isfinite(gradient).all())


def test_it_is_curved_where_images_are_equal(files):
    """Continuous-time methods differentiate it twice."""
    x = jnp.asarray(pair((3, 16, 16))[0])
    product = eqx.filter_jit(hessian_product)(built(files), x, jnp.ones_like(x))
    assert bool(jnp.isfinite(product).all())
    assert float(jnp.sum(product)) > 0


@pytest.mark.slow
def test_conformance(files):
    for check in checks(plugin.plugin, config={**files, "side": 16}):
        check.run()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"weights": ""},
            r"lpips\.weights: LPIPS needs VGG16's weights.*--set lpips\.weights=FILE",
        ),
        ({"heads": ""}, r"lpips\.heads: .*pip install --no-deps lpips.*--set lpips\.heads=FILE"),
    ],
)
def test_without_a_file_the_error_says_which_and_how(files, given, message):
    with pytest.raises(OptionError, match=message):
        built(files | given)


def test_a_file_of_another_network_is_refused(files):
    with pytest.raises(DataError, match=r"is no VGG16: it lacks 26 of its 26 parameters"):
        built(files | {"weights": files["heads"]})


@pytest.mark.parametrize("shape", [(5,), (4, 16, 16), (3, 16, 8)])
def test_what_it_cannot_see_is_refused(files, shape):
    with pytest.raises(ValueError, match=r"sides of at least 16|images of 1 or 3 channels"):
        built(files, shape)


# In training.

SMALL = {
    "mlp.width": 8,
    "mlp.depth": 1,
    "mlp.embedding_dim": 8,
    "positional.channels": 4,
    "lpips.side": 16,
    "train.steps": 2,
    "train.batch_size": 4,
}


def recipe(files, loss, **settings):
    named = [loss, "distance=lpips", "network=mlp"]
    given = SMALL | {f"lpips.{name}": value for name, value in files.items()} | settings
    return compose(named, given, data="digits")


LOSSES = ["ect", "cd", "ct", "ict", "ctm", "pid", "tcm", "cmt", "multistep-cd", "dmd"]


@pytest.mark.parametrize("loss", [*LOSSES, pytest.param("continuous-cd", marks=pytest.mark.slow)])
def test_every_loss_that_compares_samples_takes_it(files, loss):
    """Traced with its gradient, and every answer held against its interface."""
    assert rehearse(recipe(files, loss)) > 0


@pytest.mark.slow
def test_it_is_not_trained_and_not_in_checkpoints_and_must_be_there(files, tmp_path):
    copies = {name: tmp_path / f"{name}.safetensors" for name in files}
    for name, copy in copies.items():
        copy.write_bytes(Path(files[name]).read_bytes())
    given = {"train.steps": 3, "train.checkpoint_every": 2}
    asked = recipe({name: str(copy) for name, copy in copies.items()}, "ect", **given)
    run = train(asked, out=tmp_path, name="run", reporter=Silent())
    saved = checkpoint.latest(run.checkpoints)
    leaves = [leaf.relative_to(saved) for leaf in saved.rglob("*") if leaf.is_file()]
    assert any("generator" in str(leaf) for leaf in leaves)
    assert not [leaf for leaf in leaves if "stages" in str(leaf) or "heads" in str(leaf)]
    assert re.fullmatch("[0-9a-f]{64}", checkpoint.metadata(saved)["fixed"])
    # Stopped after two steps and resumed it ends the same.
    again = tmp_path / "again"
    shutil.copytree(run.path, again)
    shutil.rmtree(again / "checkpoints" / saved.name)
    shutil.copytree(again, tmp_path / "other")
    resumed = checkpoint.latest(resume(again, reporter=Silent()).checkpoints)
    arrays = [leaf for leaf in leaves if leaf.parts[0] == "arrays"]
    assert arrays
    assert all((saved / a).read_bytes() == (resumed / a).read_bytes() for a in arrays)
    write_safetensors(copies["heads"], {n: 2 * a for n, a in HEADS.items()}, {})
    with pytest.raises(RunError, match=r"the weights of 'lpips' are not those"):
        resume(tmp_path / "other", reporter=Silent())
    copies["heads"].unlink()
    with pytest.raises(DataError, match=r"heads\.safetensors' cannot be read: .*; check the path"):
        resume(tmp_path / "other", reporter=Silent())
