"""InceptionV3 against the originals' features on the same weights, and files that are something else."""

import re
from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scmkit_plugins.features import inception
from scmkit_plugins.features._inception_weights import _shapes, assembled, digest, parameters
from scmkit_plugins.features.inception import Inception
from weights_formula import images, parameter

from scmkit.composing.build import build_free
from scmkit.data import ArrayDataset
from scmkit.errors import DataError, OptionError, UsageError
from scmkit.plugin import Slot
from scmkit.testing import checks
from scmkit.weights import WeightFile, write_safetensors

with np.load(Path(__file__).parents[1] / "support" / "files" / "inception.npz") as file:
    THEIRS = dict(file)
"""What `benchmarks/parity_inception.py` had from pytorch-fid and torchvision."""

SHAPE = (2, 3, 16, 16)
prepared = jax.jit(inception.prepared)
CLASSES = {"pytorch-fid": 1008, "torchvision": 1000}


@cache
def shapes(definition) -> dict[str, tuple[int, ...]]:
    classes = CLASSES[definition]
    return _shapes(definition) | {"fc.weight": (classes, 2048), "fc.bias": (classes,)}


def state(definition) -> dict[str, np.ndarray]:
    arrays = {name: parameter(name, shape) for name, shape in shapes(definition).items()}
    # As state dicts have them, and the network has not.
    return arrays | {
        "AuxLogits.fc.bias": np.zeros(3, np.float32),
        "Mixed_7c.branch1x1.bn.num_batches_tracked": np.asarray(7),
    }


def samples(shape) -> np.ndarray:
    return images(shape).astype(np.float32) / 127.5 - 1


def close(ours, theirs, tolerance):
    assert ours.shape == theirs.shape
    assert np.linalg.norm(ours - theirs) < tolerance * np.linalg.norm(theirs)


def built(weights="", shape=SHAPE, **options) -> Inception:
    data = np.zeros(shape, np.float32)
    given = {"weights": str(weights), **options}
    return build_free(Slot.features, "inception", given, ArrayDataset(data, data), Path())


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    """A weight file of pytorch-fid's definition."""
    path = tmp_path_factory.mktemp("weights") / "w.safetensors"
    write_safetensors(path, state("pytorch-fid"), {})
    return path


@pytest.fixture(scope="module")
def extractors(file) -> dict[str, Inception]:
    """Of pytorch-fid's definition from a file, of torchvision's from arrays."""
    other = parameters(WeightFile(Path("other"), state("torchvision"), {}))
    return {
        "pytorch-fid": built(file, batch=2),
        "torchvision": Inception(assembled(*other), digest(*other), "other", 2),
    }


@pytest.mark.parametrize("definition", CLASSES)
def test_features_and_probabilities_are_the_originals(extractors, definition):
    extractor = extractors[definition]
    x = samples(SHAPE)
    found = extractor(np.concatenate([x, x[:1]]))
    assert found.vectors.dtype == found.probabilities.dtype == np.float32
    vectors, wanted = found.vectors[:2], THEIRS[f"{definition}/features"]
    close(vectors, wanted, 2e-6)
    close(vectors[0] - vectors[1], wanted[0] - wanted[1], 2e-4)
    logits = THEIRS[f"{definition}/logits"].astype(np.float64)
    if definition == "pytorch-fid":
        logits = logits - parameter("fc.bias", (1008,))
    odds = np.exp(logits - logits.max(1, keepdims=True))
    np.testing.assert_allclose(
        found.probabilities[:2], odds / odds.sum(1, keepdims=True), rtol=2e-4, atol=1e-7
    )
    # The third is the first, in a batch that had to be filled up.
    np.testing.assert_array_equal(found.vectors[2], found.vectors[0])
    assert extractor.facts["definition"] == definition
    assert re.fullmatch("[0-9a-f]{64}", extractor.digest)


@pytest.mark.slow
def test_conformance(file):
    for check in checks(inception.plugin, config={"weights": str(file), "batch": 2}):
        check.run()


def test_facts_name_the_file(extractors):
    assert re.fullmatch(
        r"w\.safetensors, SHA-256 [0-9a-f]{8}", extractors["pytorch-fid"].facts["weights"]
    )
    assert extractors["torchvision"].digest != extractors["pytorch-fid"].digest


@pytest.mark.parametrize(("name", "shape"), [("small", SHAPE), ("large", (2, 3, 400, 512))])
def test_images_are_resized_as_pytorch_fid_does(name, shape):
    wanted = THEIRS[f"{name}/resized"]
    x = samples(shape)[0]
    image = np.asarray(prepared(jnp.asarray(x))).transpose(2, 0, 1)
    assert image.shape == (3, 299, 299)
    np.testing.assert_allclose(image[:, ::26, ::26], wanted, atol=2e-6)


def test_images_are_prepared():
    x = jnp.asarray(samples((1, 8, 8)))
    image = prepared(x)
    assert bool((image == image[..., :1]).all())
    # Rounded to 8 bits, and clipped.
    noise = jax.random.uniform(jax.random.key(0), x.shape, minval=-0.49, maxval=0.49) / 127.5
    np.testing.assert_array_equal(prepared(x + noise), image)
    np.testing.assert_array_equal(prepared(3 * jnp.sign(x)), prepared(jnp.sign(x)))
    # Of the right size they stay as they are.
    x = jnp.asarray(samples((3, 299, 299)))
    np.testing.assert_allclose(prepared(x).transpose(2, 0, 1), x, atol=1e-6)


def test_the_digest_is_of_every_value():
    arrays = {"a": np.zeros((2, 3), np.float32), "b": np.zeros(3, np.float32)}
    found = {
        digest("torchvision", arrays),
        digest("pytorch-fid", arrays),
        digest("torchvision", arrays | {"a": np.zeros((3, 2), np.float32)}),
        digest("torchvision", arrays | {"b": np.eye(1, 3, dtype=np.float32)[0]}),
        digest("torchvision", {"a": arrays["a"], "c": arrays["b"]}),
    }
    assert len(found) == 5


# What is wrong.


def test_without_a_file_the_error_says_which_and_how():
    with pytest.raises(OptionError) as caught:
        built()
    message = str(caught.value)
    assert "\n" not in message
    for told in ("pt_inception-2015-12-05-6726825d.pth", "--set inception.weights=FILE"):
        assert told in message


@pytest.mark.parametrize("shape", [(2, 5), (2, 4, 8, 8)])
def test_what_is_no_image_is_refused(shape):
    with pytest.raises(UsageError, match=r"images of 1 or 3 channels, not samples of shape \("):
        built("w.pth", shape)


def test_a_file_that_is_not_there():
    with pytest.raises(DataError, match=r"'nowhere.pth' cannot be read"):
        built("nowhere.pth")


KERNEL, FOREIGN = "Mixed_5b.branch5x5_2.conv.weight", "Mixed_8a.conv.weight"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({KERNEL: (64, 48, 3, 3)}, f"'{KERNEL}' has shape (64, 48, 3, 3), not (64, 48, 5, 5)"),
        ({"fc.weight": (1008, 7)}, "'fc.weight' has shape (1008, 7), not (1008, 2048)"),
        ({"fc.bias": (10,)}, "'fc.bias' should have shape (1008,) as pytorch-fid's or (1000,)"),
        ({KERNEL: None}, f"it lacks 1 of its 472 parameters ('{KERNEL}'); did you mean"),
        ({FOREIGN: (3, 3)}, f"it has '{FOREIGN}', which that network has not"),
    ],
)
def test_other_networks_are_refused(changes, message):
    wanted = {k: s for k, s in (shapes("pytorch-fid") | changes).items() if s}
    arrays = {k: np.broadcast_to(np.float32(0), shape) for k, shape in wanted.items()}
    with pytest.raises(DataError, match=re.escape(message)):
        parameters(WeightFile(Path("w"), arrays, {}))


def test_a_file_of_another_network_shows_what_it_has():
    arrays = {f"layer.{i}": np.zeros(2) for i in range(5)}
    with pytest.raises(DataError, match=r"the file has layer\.0, layer\.1, layer\.2, \.\.\."):
        parameters(WeightFile(Path("w"), arrays, {}))
