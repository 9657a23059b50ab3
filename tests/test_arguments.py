"""What Python passes is held to the command line's bounds, in one line that names the value."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from exact import exact_model
from hypothesis import given, settings
from hypothesis import strategies as st
from scmkit_plugins.processes.edm import VarianceExploding

import scmkit
from scmkit import compose
from scmkit.arguments import as_count, as_labels, as_samples, as_seed
from scmkit.bounds import LARGEST, LAST_SEED
from scmkit.composing.entries import find
from scmkit.composing.loading import load
from scmkit.editing import edit_samples, nothing
from scmkit.errors import OptionError, UsageError
from scmkit.evaluation.likelihood import bits_of_samples
from scmkit.interfaces import DataSpec
from scmkit.models.change_of_process import angular_velocity, velocity_under

DATA = DataSpec("none", (2,), 3, (0.0, 0.0), (1.0, 1.0))
PLAIN = DataSpec("none", (2,), 0, (0.0, 0.0), (1.0, 1.0))
MODEL = exact_model(VarianceExploding())


@pytest.mark.parametrize(
    "labels", [[0, 2, 1], (0, 2, 1), np.asarray([0.0, 2.0, 1.0]), jnp.array([0, 2, 1])]
)
def test_labels_one_for_each(labels):
    found = as_labels(labels, DATA, 3)
    np.testing.assert_array_equal(found, [0, 2, 1])
    assert found.dtype == np.int32


def test_one_label_for_all():
    np.testing.assert_array_equal(as_labels(2, DATA, 4), [2, 2, 2, 2])


BAD_LABELS = [
    ([0, 1, 3], "class 3: this data has classes 0 to 2"),
    (-1, "class -1: this data has classes 0 to 2"),
    ([0, 1.5, float("nan")], "class 1.5, nan: this data has classes 0 to 2"),
    (np.ones(3, bool), "class True, True, True: this data"),
    (["a", "b", "c"], "class a, b, c: this data"),
    ([0, 1], r"labels of shape \(2,\): give one class for all, or one for each of 3 samples"),
    ([[0, 1, 2]], r"labels of shape \(1, 3\)"),
    ([[0], [1, 2]], "rows of different lengths"),
]


@pytest.mark.parametrize(("labels", "message"), BAD_LABELS)
def test_what_is_no_label(labels, message):
    with pytest.raises(UsageError, match=message):
        as_labels(labels, DATA, 3)
    with pytest.raises(UsageError, match=r"no classes|different lengths"):
        as_labels(labels, PLAIN, 3)


@settings(max_examples=40)
@given(st.lists(st.one_of(st.integers(-3, 6), st.floats()), min_size=1, max_size=5))
def test_labels_are_kept_or_refused(labels):
    if all(label in range(3) for label in labels):
        assert as_labels(labels, DATA, len(labels)).tolist() == labels
    else:
        with pytest.raises(UsageError, match="class "):
            as_labels(labels, DATA, len(labels))


def test_seeds_and_counts():
    assert (as_seed(0), as_seed(np.int64(LAST_SEED)), as_count(LARGEST, "n")) == (
        0,
        LAST_SEED,
        LARGEST,
    )
    for seed in (-1, LAST_SEED + 1, 2**63, 1.0, True, "1", None):
        with pytest.raises(
            UsageError, match=r"^seed .*: give a whole number from 0 to 4294967295$"
        ):
            as_seed(seed)
    for count in (0, LARGEST + 1, 10**12, 2.0, True):
        with pytest.raises(UsageError, match=r"^n .*: give a whole number from 1 to 2147483647$"):
            as_count(count, "n")


@pytest.mark.parametrize(
    "samples", [np.zeros((0, 2)), np.zeros((3, 3)), np.zeros(()), [[0, np.nan]], "a"]
)
def test_what_are_no_samples(samples):
    with pytest.raises(UsageError, match=r"^samples"):
        as_samples(samples, DATA)


X = np.zeros((3, 2), np.float32)
DOORS = {
    "sample, label": lambda: scmkit.sample(MODEL, DATA, 3, labels=[0, 1, 3]),
    "sample, number": lambda: scmkit.sample(MODEL, DATA, 0),
    "sample, seed": lambda: scmkit.sample(MODEL, DATA, 3, seed=2**32),
    "sample, steps": lambda: scmkit.sample(MODEL, DATA, 3, steps=10**12),
    "sample, guidance": lambda: scmkit.sample(MODEL, DATA, 3, guidance=float("nan")),
    "edit, label": lambda: edit_samples(MODEL, DATA, X, nothing, [0, 1]),
    "edit, samples": lambda: edit_samples(MODEL, DATA, X[:, :1], nothing),
    "edit, seed": lambda: edit_samples(MODEL, DATA, X, nothing, seed=-1),
    "bits, label": lambda: bits_of_samples(MODEL, DATA, X, [0, 1, 3], levels=0),
    "bits, seed": lambda: bits_of_samples(MODEL, DATA, X, levels=0, seed=2**63),
}


@pytest.mark.parametrize("door", DOORS)
def test_every_door_checks(door):
    with pytest.raises(UsageError, match=r": (give|this data)"):
        DOORS[door]()


@pytest.mark.parametrize("t", [1, 1.0, np.float64(1.0)])
def test_times_may_be_python_numbers(t):
    x, exact = jnp.asarray([0.3, -0.7]), jnp.asarray(1.0, jnp.float32)
    for call in (
        MODEL.denoise,
        MODEL.velocity,
        MODEL.raw,
        lambda x, t: velocity_under(MODEL.process, MODEL, x, t),
        lambda x, t: angular_velocity(MODEL, x, t),
    ):
        np.testing.assert_array_equal(call(x, t), call(x, exact))


@pytest.mark.parametrize(
    ("option", "value"),
    [("steps", 10**12), ("warmup", 10**20), ("seed", 2**32), ("seed", -1), ("batch_size", 2**31)],
)
def test_bounds_are_part_of_the_option(option, value):
    with pytest.raises(OptionError, match=rf"'train.{option}': bad value .*: input should be"):
        compose([], {f"train.{option}": str(value)}, data=DATA)


def test_float64_is_told_before_a_plugin_is_blamed():
    with jax.enable_x64(True), pytest.raises(UsageError, match="JAX_ENABLE_X64 is on"):
        load(find("trigflow"))
