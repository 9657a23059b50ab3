"""What tests of importing share: files to import, and what to hold their stores against."""

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from PIL import Image

from scmkit.data import import_data
from scmkit.errors import DataError
from scmkit.interfaces import Split

SPLITS: tuple[Split, ...] = ("train", "test")
RNG = np.random.default_rng(0)
Z = np.zeros

anything = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def imported(source, dest, **options):
    """The store, and what was told about the source."""
    lines: list[str] = []
    store = import_data(source, dest, told=lines.append, **options)
    return store, "\n".join(lines)


def everything(store, split) -> tuple[np.ndarray, Any]:
    return store.read(split, np.arange(store.size(split)))


def as_pixels(x):
    return np.round((x + 1) * 127.5).astype(np.uint8)


def refused(path, tmp_path, *parts, **options):
    """Imports in vain: a `DataError` of one line with all `parts`, and nothing left behind."""
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(DataError) as caught:
        import_data(path, tmp_path / "store", **options)
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert str(part) in message
    assert sorted(tmp_path.rglob("*")) == before


def save(path, pixels, mode=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.asarray(pixels, np.uint8))
    (image.convert(mode) if mode else image).save(path)


def images(n, *shape):
    return RNG.integers(0, 256, (n, *shape), np.uint8)
