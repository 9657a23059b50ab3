"""The store: written atomically, read back exactly, and damage found and named."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

import scmkit.data.layout as layout
from scmkit import Run, compose
from scmkit.data import Store, StoreWriter
from scmkit.errors import DataError
from scmkit.interfaces import Split

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (1500, 3, 4, 5), np.uint8)
LABELS = RNG.integers(0, 7, 1500).astype(np.int32)


def write_images(path: Path) -> Store:
    with StoreWriter(path, shape=(3, 4, 5), dtype="uint8", num_classes=7) as writer:
        for start in range(0, 1000, 130):
            stop = min(start + 130, 1000)
            writer.append("train", IMAGES[start:stop], LABELS[start:stop])
        writer.append("test", IMAGES[1000:], LABELS[1000:])
    return Store(path)


@pytest.fixture
def store(tmp_path):
    write_images(tmp_path / "store")
    return tmp_path / "store"


def test_what_is_written_is_made_durable(tmp_path, monkeypatch):
    """Content before the name, and the name in its folder after; of a recipe as of a store."""
    done = []
    monkeypatch.setattr(os, "fsync", lambda fd: done.append(os.readlink(f"/proc/self/fd/{fd}")))
    Run.create(tmp_path / "r", compose(["diffusion"], data="two-moons"))
    root, temporary, folder = done
    assert (root, folder) == (str(tmp_path), str(tmp_path / "r"))
    assert temporary.startswith(f"{folder}/recipe.json.")
    done.clear()
    write_images(tmp_path / "s")
    hidden = next(name for name in done if name.endswith("/scmkit.json")).removesuffix(
        "/scmkit.json"
    )
    folders = [
        str(p.relative_to(tmp_path / "s")) for p in (tmp_path / "s").rglob("*") if p.is_dir()
    ]
    assert {f"{hidden}/{name}" for name in folders} < set(done)
    assert done[-1] == str(tmp_path)


@pytest.fixture
def small_shards(monkeypatch):
    """About 9 samples of 60 bytes to a chunk and 45 to a shard."""
    monkeypatch.setattr(layout, "_CHUNK_BYTES", 540)
    monkeypatch.setattr(layout, "_SHARD_BYTES", 2700)
    monkeypatch.setattr(layout, "_LABELS_PER_CHUNK", 100)


@pytest.mark.parametrize("ram_limit", [1 << 30, 0])
def test_images_round_trip(tmp_path, small_shards, ram_limit):
    write_images(tmp_path / "s")
    store = Store(tmp_path / "s", ram_limit=ram_limit)
    assert (store.shape, store.num_classes) == ((3, 4, 5), 7)
    assert (store.size("train"), store.size("test")) == (1000, 500)
    assert len(list((tmp_path / "s/train/samples/c").rglob("0"))) > 10
    indices = np.array([999, 0, 46, 46, 500])
    offsets: dict[Split, int] = {"train": 0, "test": 1000}
    for split, offset in offsets.items():
        chosen = indices % store.size(split)
        x, labels = store.read(split, chosen)
        assert x.dtype == np.float32
        assert labels is not None
        assert labels.dtype == np.int32
        np.testing.assert_allclose(x, IMAGES[offset + chosen] / 127.5 - 1, atol=1e-6)
        np.testing.assert_array_equal(labels, LABELS[offset + chosen])
    raw = IMAGES[:1000] / 127.5 - 1
    np.testing.assert_allclose(store.statistics().mean, raw.mean((0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(store.statistics().std, raw.std((0, 2, 3)), rtol=1e-12)
    assert store.density() is None


@pytest.mark.parametrize("shape", [(2,), (1, 3, 3), (2, 3, 4, 5)])
def test_floats_round_trip_without_labels(tmp_path, shape):
    data = (1e4 + RNG.normal(size=(20, *shape))).astype(np.float32)
    with StoreWriter(tmp_path / "s", shape=shape, dtype="float32") as writer:
        writer.append("train", data)
    store = Store(tmp_path / "s")
    x, labels = store.read("train", np.arange(20))
    np.testing.assert_array_equal(x, data)
    assert labels is None
    assert store.levels == 0
    assert store.size("test") == 0
    axes = (0, *range(2, data.ndim))
    np.testing.assert_allclose(store.statistics().std, data.std(axes, dtype=np.float64), rtol=1e-9)


def test_black_images_are_not_missing_ones(tmp_path):
    with StoreWriter(tmp_path / "s", shape=(1, 2, 2), dtype="uint8", num_classes=1) as writer:
        writer.append("train", np.zeros((3, 1, 2, 2), np.uint8), np.zeros(3, np.int32))
    store = Store(tmp_path / "s")
    assert store.levels == 256
    x, labels = store.read("train", np.arange(3))
    np.testing.assert_array_equal(x, np.full((3, 1, 2, 2), -1, np.float32))
    np.testing.assert_array_equal(labels, [0, 0, 0])


def test_chunks_and_shards_are_of_useful_sizes():
    for shape, itemsize in (((1, 8, 8), 1), ((3, 32, 32), 1), ((3, 512, 512), 1), ((2,), 4)):
        chunk, shard = layout.samples_per_shard(shape, itemsize)
        sample = int(np.prod(shape)) * itemsize
        assert shard % chunk == 0
        assert chunk == 1 or 16 << 10 <= chunk * sample <= 64 << 10
        assert 16 << 20 <= shard * sample <= 64 << 20


def test_reading_out_of_range(store):
    for bad in (-1, 1000):
        with pytest.raises(IndexError, match=r"indices must lie in 0\.\.999"):
            Store(store).read("train", np.array([bad]))


# What is wrong with a path


def fails(path, *parts):
    def read_all():
        store = Store(path)
        for split in ("train", "test"):
            store.read(split, np.arange(store.size(split)))

    with pytest.raises(DataError) as caught:
        read_all()
    message = str(caught.value)
    assert "\n" not in message
    for part in (str(path), "scmkit data import SOURCE DEST", *parts):
        assert part in message


def test_not_a_store(tmp_path):
    fails(tmp_path / "nothing", "no such folder")
    (tmp_path / "file").write_text("x")
    fails(tmp_path / "file", "a file, not a store")
    fails(tmp_path, "not a store (it has no scmkit.json)")


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("{", "scmkit.json is unreadable (Expecting"),
        ("[" * 100_000, "scmkit.json is unreadable"),
        ("[]", 'does not say "format": "scmkit-store"'),
        ('{"format": "zarr"}', 'does not say "format": "scmkit-store"'),
        ('{"format": "scmkit-store"}', "version None, but this scmkit reads version 1"),
        ('{"format": "scmkit-store", "version": 2}', "store format version 2, but"),
        ('{"format": "scmkit-store", "version": 1}', "('dtype': Field required)"),
    ],
)
def test_unreadable_metadata(store, text, part):
    (store / "scmkit.json").write_text(text)
    fails(store, part)


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"dtype": "float64"}, "'dtype'"),
        ({"shape": [3, 0, 5]}, "'shape.1'"),
        ({"shape": []}, "'shape' is empty"),
        ({"sizes": {"train": -1, "test": 1}}, "'sizes.train'"),
        ({"sizes": {"train": 1000}}, "'sizes' must have 'train' and 'test'"),
        ({"statistics": {"mean": [0.0], "std": [1.0]}}, "must have 3 values, one per channel"),
        ({"class_names": ["a"]}, "1 class names for 7 classes"),
        ({"sizes": {"train": 999, "test": 500}}, "'train/samples' is uint8 (1000, 3, 4, 5), but"),
        ({"dtype": "float32"}, "scmkit.json says float32 (1000, 3, 4, 5)"),
    ],
)
def test_metadata_that_disagrees(store, change, part):
    content = json.loads((store / "scmkit.json").read_text())
    (store / "scmkit.json").write_text(json.dumps(content | change))
    fails(store, part)


def test_missing_and_truncated_files(store):
    file = store / "train/samples/c/0/0/0/0"
    whole = file.read_bytes()
    file.write_bytes(whole[:-100])
    fails(store, "train/samples/c/0/0/0/0", f"has {len(whole) - 100} bytes, expected {len(whole)}")
    file.unlink()
    fails(store, "file 'train/samples/c/0/0/0/0' is missing")
    shutil.rmtree(store / "train/samples")
    content = json.loads((store / "scmkit.json").read_text())
    (store / "scmkit.json").write_text(json.dumps(content | {"files": {}}))
    fails(store, "array 'train/samples' is missing")


@pytest.mark.parametrize("name", ["train/samples/c/0/0/0/0", "test/labels/c/0"])
@pytest.mark.parametrize("position", [0, -1])
def test_corrupt_files_are_named(store, name, position):
    content = bytearray((store / name).read_bytes())
    content[position] ^= 1
    (store / name).write_bytes(content)
    fails(store, f"damaged file '{name}'", "igest")


def test_corrupt_files_are_named_in_block_reads(store):
    file = store / "train/samples/c/0/0/0/0"
    content = bytearray(file.read_bytes())
    content[0] ^= 1
    file.write_bytes(content)
    with pytest.raises(DataError, match="damaged file 'train/samples/c/0/0/0/0'"):
        Store(store, ram_limit=0).read("train", np.array([0]))


def test_corrupt_array_metadata(store):
    file = store / "train/samples/zarr.json"
    file.write_text(" " * file.stat().st_size)
    fails(store, "array 'train/samples' has a damaged file 'zarr.json'")


# Writing


def test_nothing_is_overwritten(store, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "dangling").symlink_to("nowhere")
    for path in (store, tmp_path / "empty", tmp_path / "dangling"):
        with (
            pytest.raises(DataError, match="exists already, and a store is never overwritten"),
            StoreWriter(path, shape=(2,), dtype="float32"),
        ):
            pass
    writer = StoreWriter(tmp_path / "late", shape=(2,), dtype="float32").__enter__()
    writer.append("train", np.zeros((1, 2), np.float32))
    (tmp_path / "late").mkdir()
    with pytest.raises(DataError, match="exists already"):
        writer.__exit__(None, None, None)
    assert not list(tmp_path.glob(".*"))


def test_two_writers_of_one_store(tmp_path):
    """The one that ends first has the name; neither removes what the other is writing."""
    slow = StoreWriter(tmp_path / "s", shape=(2,), dtype="float32").__enter__()
    slow.append("train", np.zeros((1, 2), np.float32))
    write_one(tmp_path / "s", np.ones((3, 2), np.float32))
    with pytest.raises(DataError, match="exists already"):
        slow.__exit__(None, None, None)
    assert [path.name for path in tmp_path.iterdir()] == ["s"]
    assert Store(tmp_path / "s").size("train") == 3


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_failure_leaves_nothing_behind(tmp_path, error):
    def write():
        with StoreWriter(tmp_path / "a/b/store", shape=(2,), dtype="float32") as writer:
            writer.append("train", np.zeros((1, 2), np.float32))
            raise error("stop")

    with pytest.raises(error, match="stop"):
        write()
    assert list(tmp_path.iterdir()) == []


def write_one(path, samples, labels=None, **options):
    with StoreWriter(path, shape=(2,), dtype="float32", **options) as writer:
        writer.append("train", samples, labels)


def test_values_that_cannot_be_stored(tmp_path):
    good = np.zeros((3, 2), np.float32)
    bad = good.copy()
    bad[1, 0] = np.nan
    with pytest.raises(DataError, match="train sample 1 has values that are not finite"):
        write_one(tmp_path / "s", bad)
    with pytest.raises(DataError, match="sample 2 has label 4, but there are 4 classes"):
        write_one(tmp_path / "s", good, np.array([0, 3, 4]), num_classes=4)
    with pytest.raises(DataError, match="the train split would be empty"):
        write_one(tmp_path / "s", good[:0])
    with pytest.raises(ValueError, match="3 samples need as many labels, not none"):
        write_one(tmp_path / "s", good, num_classes=4)
    with pytest.raises(ValueError, match="labels were given, but num_classes is 0"):
        write_one(tmp_path / "s", good, np.array([0, 0, 0]))
    with pytest.raises(ValueError, match=r"samples must be float32 \(n, 2\), not float64 \(3, 2\)"):
        write_one(tmp_path / "s", good.astype(np.float64))
    with pytest.raises(ValueError, match="1 class names for 2 classes"):
        write_one(tmp_path / "s", good, num_classes=2, class_names=("a",))
    with pytest.raises(ValueError, match="axes of length 1 or more"):
        StoreWriter(tmp_path / "s", shape=(0, 2), dtype="float32")
    with pytest.raises(ValueError, match="used as a context manager"):
        StoreWriter(tmp_path / "s", shape=(2,), dtype="float32").append("train", good)
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"cannot write the store .*; check that the place"):
        write_one(tmp_path / "file/store", np.zeros((1, 2), np.float32))
