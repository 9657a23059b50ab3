"""Importing folders of images, .npz files and IDX files, and every way in which they are wrong."""

import gzip
import io
import json
import math
import struct
import subprocess
import sys
import tracemalloc
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from import_files import RNG, Z, anything, as_pixels, everything, images, refused, save
from mnist_format import idx
from PIL import Image
from scmkit_cli.data import app
from scmkit_cli.data_facts import describe
from typer.testing import CliRunner

from scmkit.data import Store, import_data
from scmkit.data.readers import source as blocks
from scmkit.data.readers.idx import open_idx
from scmkit.data.readers.npz import open_npz
from scmkit.errors import BadFilesError, DataError, RunError, UsageError
from scmkit.storage import containment


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """A few samples to a block, so that every import takes several."""
    monkeypatch.setattr(blocks, "_BLOCK_BYTES", 200)


# Folders of images


def test_class_folders_become_labels(tmp_path):
    pixels = images(12, 6, 5, 3)
    for i, image in enumerate(pixels):
        save(tmp_path / "in" / ("zebra", "ant", "bee")[i % 3] / f"{i:02}.png", image)
    (tmp_path / "in" / ".hidden").write_text("")
    (tmp_path / "in" / "ant" / "Thumbs.db").write_text("")
    calls = []
    store = import_data(
        tmp_path / "in",
        tmp_path / "store",
        test_fraction=0.25,
        progress=lambda done, total: calls.append((done, total)),
    )
    assert (store.shape, store.num_classes) == ((3, 6, 5), 3)
    assert store.class_names == ("ant", "bee", "zebra")
    assert (store.size("train"), store.size("test")) == (9, 3)
    assert calls[-1] == (12, 12)
    assert [done for done, _ in calls] == sorted({done for done, _ in calls})
    found = {}
    for split in ("train", "test"):
        samples, labels = everything(store, split)
        for x, label in zip(samples, labels, strict=True):
            found[as_pixels(x).transpose(1, 2, 0).tobytes()] = store.class_names[label]
    assert found == {p.tobytes(): ("zebra", "ant", "bee")[i % 3] for i, p in enumerate(pixels)}


def test_seeded_split(tmp_path):
    np.savez(tmp_path / "in.npz", x=np.arange(40, dtype=np.float32)[:, None])
    parts = []
    for i, seed in enumerate((0, 0, 1)):
        store = import_data(tmp_path / "in.npz", tmp_path / f"store{i}", seed=seed)
        parts.append(tuple(everything(store, "test")[0][:, 0]))
    assert len(parts[0]) == 4
    assert parts[0] == parts[1] != parts[2]
    store = import_data(tmp_path / "in.npz", tmp_path / "none", test_fraction=0.0)
    assert (store.size("train"), store.size("test")) == (40, 0)
    store = import_data(tmp_path / "in.npz", tmp_path / "one", test_fraction=1e-6)
    assert store.size("test") == 1


def test_split_folders_and_unlabelled_images(tmp_path):
    for split, n in (("train", 4), ("test", 2)):
        for i, image in enumerate(images(n, 4, 4)):
            save(tmp_path / "in" / split / f"{i}.png", image)
    store = import_data(tmp_path / "in", tmp_path / "store")
    assert (store.size("train"), store.size("test"), store.num_classes) == (4, 2, 0)
    assert store.shape == (1, 4, 4)
    assert everything(store, "train")[1] is None


def test_split_folders_with_classes(tmp_path):
    for split, names in (("train", "abc"), ("test", "ac")):
        for name in names:
            save(tmp_path / "in" / split / name / "0.png", images(1, 4, 4)[0])
    store = import_data(tmp_path / "in", tmp_path / "store")
    np.testing.assert_array_equal(everything(store, "train")[1], [0, 1, 2])
    np.testing.assert_array_equal(everything(store, "test")[1], [0, 2])


def test_a_train_folder_alone_is_split(tmp_path):
    for i, image in enumerate(images(10, 4, 4)):
        save(tmp_path / "in/train" / f"{i}.png", image)
    store = import_data(tmp_path / "in", tmp_path / "store")
    assert (store.size("train"), store.size("test"), store.num_classes) == (9, 1, 0)


@pytest.mark.parametrize(("grayscale", "channels"), [(None, 3), (True, 1), (False, 3)])
def test_gray_and_colour(tmp_path, grayscale, channels):
    save(tmp_path / "in/a.png", np.full((4, 4), 100))
    save(tmp_path / "in/b.png", np.full((4, 4, 3), 100))
    options = {"test_fraction": 0.0, "grayscale": grayscale}
    store = import_data(tmp_path / "in", tmp_path / "store", **options)
    assert store.shape == (channels, 4, 4)
    assert set(as_pixels(everything(store, "train")[0]).flat) == {100}


def test_centre_crop_and_resize(tmp_path):
    wide = np.zeros((10, 30, 3))
    wide[:, 10:20] = 200
    save(tmp_path / "in/a.png", wide)
    save(tmp_path / "in/b.png", wide.transpose(1, 0, 2))
    store = import_data(tmp_path / "in", tmp_path / "store", size=5, test_fraction=0.0)
    assert store.shape == (3, 5, 5)
    assert set(as_pixels(everything(store, "train")[0]).flat) == {200}


def test_transparency_and_rotation(tmp_path):
    clear = np.zeros((4, 6, 4))
    clear[:, :3, 3] = 255
    save(tmp_path / "in/clear.png", clear)
    turned = Image.new("RGB", (4, 6))
    exif = Image.Exif()
    exif[0x0112] = 6
    turned.save(tmp_path / "in/turned.jpg", exif=exif)
    store = import_data(tmp_path / "in", tmp_path / "store", test_fraction=0.0)
    x = as_pixels(everything(store, "train")[0])
    assert x.shape == (2, 3, 4, 6)
    assert set(x[0, :, :, :3].flat) == {0}
    assert set(x[0, :, :, 3:].flat) == {255}


def test_folders_that_are_wrong(tmp_path):
    def folder(name, *files):
        for file in files:
            save(tmp_path / name / file, images(1, 4, 4)[0])
        return tmp_path / name

    path = folder("a", "1.png", "2.png")
    save(path / "3.png", images(1, 5, 4)[0])
    refused(path, tmp_path, path / "1.png", "4x4", path / "3.png", "4x5", "--size N")

    path = folder("b", "1.png")
    (path / "notes.txt").write_text("x")
    refused(path, tmp_path, path / "notes.txt", "not an image", "--skip-non-images")
    import_data(path, tmp_path / "skipped", skip_non_images=True, test_fraction=0.0)

    path = folder("c", "cats/1.png", "2.png")
    refused(path, tmp_path, "'2.png' lies beside class folders such as 'cats'")

    path = folder("d", "cats/1.png", "cats/old/2.png")
    refused(path, tmp_path, path / "cats", "has a subfolder 'old'")

    path = folder("e", "train/1.png", "test/1.png", "more/1.png")
    refused(path, tmp_path, "'more' lies beside the splits 'test' and 'train'")

    path = folder("f", "train/a/1.png", "test/b/1.png")
    refused(path, tmp_path, "the class folder 'b' is in test but not in train")

    path = folder("g", "train/a/1.png", "test/1.png")
    refused(path, tmp_path, "train has class folders and test has none")

    path = folder("h", "a/1.png")
    (path / "b").mkdir()
    refused(path, tmp_path, path / "b", "no images")

    path = folder("i", "1.png", "2.png")
    file = path / "2.png"
    file.write_bytes(file.read_bytes()[:-30])
    refused(path, tmp_path, file, "damaged image")

    path = folder("j", "1.png")
    Image.fromarray(np.full((4, 4), 40_000, np.uint16)).save(path / "deep.png")
    refused(path, tmp_path, path / "deep.png", "more than 8 bits")


def test_decompression_bombs_are_refused(tmp_path):
    save(tmp_path / "in/1.png", images(1, 10, 15)[0])
    for limit in (100, 20):
        refused(tmp_path / "in", tmp_path, "1.png", f"more than {limit} pixels", max_pixels=limit)
    refused(tmp_path / "in", tmp_path, "--max-bytes", max_bytes=149)
    refused(tmp_path / "in", tmp_path, "more than 0 images", max_images=0)


def test_every_bad_file_is_reported_or_skipped_by_name(tmp_path):
    for i in range(4):
        save(tmp_path / f"in/{i}.png", images(1, 6, 6)[0])
    (tmp_path / "in/0.png").write_bytes(b"text")
    cut = (tmp_path / "in/1.png").read_bytes()
    (tmp_path / "in/1.png").write_bytes(cut[:-30])
    Image.fromarray(np.full((6, 6), 40_000, np.uint16)).save(tmp_path / "in/deep.png")
    refused(
        tmp_path / "in",
        tmp_path,
        "3 of its files",
        "0.png: not an image",
        "1.png: damaged image",
        "deep.png: pixels of more than 8 bits",
    )
    passed = []
    store = import_data(
        tmp_path / "in",
        tmp_path / "store",
        skip_bad=True,
        test_fraction=0.0,
        skipped=lambda file, reason: passed.append(file.name),
    )
    assert store.size("train") == 2
    assert sorted(passed) == ["0.png", "1.png", "deep.png"]


def test_an_image_that_would_start_a_program_is_none(tmp_path):
    save(tmp_path / "in/1.png", images(1, 6, 6)[0])
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 6 6\n%%EndComments\nshowpage\n"
    (tmp_path / "in/2.png").write_bytes(eps)
    refused(tmp_path / "in", tmp_path, "2.png: not an image")


# .npz files


@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 1), (1, 6, 5), (3, 6, 5), (6, 5, 3)])
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_images(tmp_path, shape, save):
    x, y = images(20, *shape), RNG.permutation(20) % 4
    save(tmp_path / "in.npz", x_train=x[:15], y_train=y[:15], x_test=x[15:], y_test=y[15:, None])
    store = import_data(tmp_path / "in.npz", tmp_path / "store")
    expected = x.reshape(20, 1, 6, 5) if 3 not in shape else x
    expected = np.moveaxis(x, -1, 1) if shape[-1] == 3 else expected
    assert (store.shape, store.num_classes) == (expected.shape[1:], 4)
    for split, part in (("train", slice(0, 15)), ("test", slice(15, 20))):
        found, labels = everything(store, split)
        np.testing.assert_array_equal(as_pixels(found), expected[part])
        np.testing.assert_array_equal(labels, y[part])


@pytest.mark.parametrize("dtype", [">f4", "f2", "f8"])
def test_npz_floats_are_kept(tmp_path, dtype):
    x = RNG.uniform(-1, 1, (20, 4, 4)).astype(dtype)
    np.savez(tmp_path / "in.npz", images=x, labels=np.arange(20) % 2)
    store = import_data(tmp_path / "in.npz", tmp_path / "store", test_fraction=0.0)
    np.testing.assert_array_equal(everything(store, "train")[0][:, 0], x.astype(np.float32))


@pytest.mark.parametrize("key", ["x", "arr_0", "images", "x_train"])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_npz_vectors_are_taken_as_they_are(tmp_path, key, dtype):
    x = (100 * RNG.uniform(size=(20, 7))).astype(dtype)
    np.savez(tmp_path / "in.npz", allow_pickle=False, **{key: x, "other": x})
    store = import_data(tmp_path / "in.npz", tmp_path / "store", test_fraction=0.0)
    assert (store.shape, store.num_classes) == ((7,), 0)
    np.testing.assert_array_equal(everything(store, "train")[0], x.astype(np.float32))


def test_npz_size_and_grayscale(tmp_path):
    np.savez(tmp_path / "in.npz", x=np.full((4, 10, 12, 3), 90, np.uint8))
    store = import_data(tmp_path / "in.npz", tmp_path / "a", size=5, grayscale=True)
    assert store.shape == (1, 5, 5)
    assert set(as_pixels(everything(store, "train")[0]).flat) == {90}
    np.savez(tmp_path / "in.npz", x=np.zeros((4, 10), np.float32))
    refused(tmp_path / "in.npz", tmp_path, "size and grayscale apply to uint8 images", size=5)


@pytest.mark.parametrize(
    ("arrays", "part"),
    [
        ({}, "no samples by a known name (it holds no arrays); use the keys x_train"),
        ({"stuff": Z((3, 2))}, "no samples by a known name (it holds 'stuff')"),
        ({"x": Z((3, 2)), "images": Z((3, 2))}, "more than one set of samples"),
        ({"x": np.array([{}] * 3)}, "'x' holds Python objects, which scmkit does not unpickle"),
        ({"x": np.asfortranarray(Z((3, 2)))}, "'x' is in Fortran order"),
        ({"x": Z((0, 2))}, "shape (0, 2) and holds no samples"),
        ({"x": Z(())}, "shape () and holds no samples"),
        ({"x": Z(3)}, "shape (3,) is not understood"),
        ({"x": Z((3, 4, 4, 2))}, "shape (3, 4, 4, 2) is not understood"),
        ({"x": Z((3, 1, 4, 3))}, "could be n,c,h,w as well as n,h,w,c"),
        ({"x": Z((3, 2), np.int64)}, "'x' is int64; samples must be uint8 or float"),
        ({"x": Z((3, 2)), "y": Z(4, int)}, "labels 'y' are int64 (4,), but 'x' needs integers"),
        ({"x": Z((3, 2)), "y": Z(3)}, "labels 'y' are float64 (3,)"),
        ({"x": Z((3, 2)), "y": np.array([0, -1, 1])}, "labels 'y' lie in -1..1"),
        ({"x": Z((3, 2)), "y": np.array([0, 2**40, 1])}, "labels 'y' lie in 0..1099511627776"),
        ({"x": Z((3, 2)), "y": np.array([0, 9, 1])}, "labels are all different, from 0 to 9"),
        ({"x_train": Z((3, 2)), "x_test": Z((3, 3))}, "'x_test' has samples float64 (3,), but"),
        (
            {"x_train": Z((3, 2)), "x_test": Z((3, 2)), "y_train": Z(3, int)},
            "'x_test' has no labels, but there is 'y_train'",
        ),
        (
            {"x": np.full((3, 2), np.nan)},
            "'x' has values that are not finite in float32 (sample 0)",
        ),
        ({"x": np.full((3, 2), 1e300)}, "'x' has values that are not finite in float32"),
        ({"x": np.full((3, 4, 4), 255.0)}, "float images must lie in [-1, 1], but sample 0 of 'x'"),
        ({"x": np.full((3, 4, 4), 0.5)}, "images in 'x' lie in [0, 1], and float images"),
    ],
)
def test_npz_files_that_are_wrong(tmp_path, arrays, part):
    np.savez(tmp_path / "in.npz", **arrays)
    refused(tmp_path / "in.npz", tmp_path, tmp_path / "in.npz", part)


def test_npz_files_that_are_damaged(tmp_path):
    path = tmp_path / "in.npz"
    path.write_bytes(b"not a zip file")
    refused(path, tmp_path, path, "not an .npz file", "write it with numpy.savez")
    np.savez(path, x=RNG.normal(size=(20, 7)))
    whole = path.read_bytes()
    path.write_bytes(whole[:400] + b"\x00\x01" + whole[402:])
    refused(path, tmp_path, path, "array 'x' is damaged (Bad CRC-32", "save the file again")


def npy_header(shape, dtype="|u1"):
    buffer = io.BytesIO()
    header = {"descr": dtype, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, header)
    return buffer.getvalue()


def write_member(path, content):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", content)


@anything
@given(
    shape=st.lists(st.integers(-(2**40), 2**40) | st.integers(0, 4), max_size=3).map(tuple),
    size=st.integers(0, 100),
)
def test_npz_headers_that_claim_too_much(tmp_path, shape, size):
    path = tmp_path / "in.npz"
    write_member(path, npy_header(shape) + bytes(size))
    if len(shape) in (2, 3) and min(shape) > 0 and math.prod(shape) == size:
        assert sum(len(x) for x, _ in open_npz(path).read("train")) == shape[0]
    else:
        with pytest.raises(DataError, match=r"^[^\n]*$"):
            open_npz(path)


@anything
@given(data=st.data())
def test_npz_bytes_that_are_wrong_are_a_data_error(tmp_path, data):
    path = tmp_path / "in.npz"
    if data.draw(st.booleans()):
        write_member(path, data.draw(st.binary(max_size=200)))
    else:
        np.savez(path, x=np.arange(12, dtype=np.uint8).reshape(3, 2, 2))
        content = bytearray(path.read_bytes())
        for _ in range(data.draw(st.integers(1, 4))):
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
        path.write_bytes(content)
    try:
        for x, _ in open_npz(path).read("train"):
            assert len(x)
    except DataError:
        pass


@pytest.fixture
def small(monkeypatch):
    """Files that are small enough to unpack to anything are those of no bytes."""
    monkeypatch.setattr(containment, "SMALL", 0)


def compressed(path, **arrays):
    np.savez_compressed(path, **arrays)
    return path


def test_npz_of_which_one_sample_or_the_labels_fill_the_memory(tmp_path, small):
    path = tmp_path / "in.npz"
    refused(
        compressed(path, x=Z((2, 10**6), np.uint8)), tmp_path, "sample of it unpacked takes 1000000"
    )
    # Many samples may: they are read a few at a time.
    assert (
        import_data(compressed(path, x=Z((10**5, 10), np.uint8)), tmp_path / "a").size("train") > 0
    )
    labelled = {"x": Z((10**5, 1), np.uint8), "y": Z(10**5, int)}
    refused(
        compressed(path, **labelled), tmp_path, "'y' of labels unpacked takes 800000 bytes, over 50"
    )


def test_npz_of_other_compressions(tmp_path):
    for method in (zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2):
        with zipfile.ZipFile(tmp_path / "in.npz", "w", method) as archive:
            archive.writestr("x.npy", npy_header((2, 3)) + bytes(6))
        refused(
            tmp_path / "in.npz", tmp_path, "'x' is damaged (it is compressed in an unknown way)"
        )


def test_npz_headers_that_claim_the_memory(tmp_path):
    claims = b"\x93NUMPY\2\0" + struct.pack("<I", 60_000_000) + bytes(60_000_000)
    with zipfile.ZipFile(
        tmp_path / "in.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1
    ) as archive:
        archive.writestr("x.npy", claims)
    tracemalloc.start()
    refused(tmp_path / "in.npz", tmp_path, "'x' is damaged (its header is none of a plain array)")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10_000_000


# IDX files


def write(path, content):
    path.write_bytes(gzip.compress(content, 1) if path.suffix == ".gz" else content)


@pytest.mark.parametrize("ending", ["-idx{}-ubyte", "-idx{}-ubyte.gz", ".idx{}-ubyte"])
def test_idx_folder(tmp_path, ending):
    x, y = images(30, 6, 5), np.arange(30, dtype=np.uint8) % 10
    (tmp_path / "in").mkdir()
    for prefix, part in (("train", slice(0, 20)), ("t10k", slice(20, 30))):
        write(tmp_path / "in" / f"{prefix}-images{ending.format(3)}", idx(x[part]))
        write(tmp_path / "in" / f"{prefix}-labels{ending.format(1)}", idx(y[part]))
    store = import_data(tmp_path / "in", tmp_path / "store")
    assert (store.shape, store.num_classes) == ((1, 6, 5), 10)
    for split, part in (("train", slice(0, 20)), ("test", slice(20, 30))):
        found, labels = everything(store, split)
        np.testing.assert_array_equal(as_pixels(found)[:, 0], x[part])
        np.testing.assert_array_equal(labels, y[part])


def test_idx_single_file(tmp_path):
    x, y = images(30, 6, 5), np.arange(30, dtype=np.uint8) % 3
    write(tmp_path / "my-images-idx3-ubyte.gz", idx(x))
    store = import_data(tmp_path / "my-images-idx3-ubyte.gz", tmp_path / "a", test_fraction=0.0)
    assert store.num_classes == 0
    write(tmp_path / "my-labels-idx1-ubyte", idx(y))
    store = import_data(tmp_path / "my-images-idx3-ubyte.gz", tmp_path / "b", test_fraction=0.0)
    np.testing.assert_array_equal(everything(store, "train")[1], y)
    store = import_data(tmp_path / "my-images-idx3-ubyte.gz", tmp_path / "c", size=4)
    assert store.shape == (1, 4, 4)


def test_idx_files_that_are_wrong(tmp_path):
    x, y = images(9, 3, 3), np.arange(9, dtype=np.uint8)
    path = tmp_path / "images-idx3-ubyte"

    write(path, idx(y))
    refused(path, tmp_path, path, "in 3 dimensions: it begins with 0x00000801, expected 0x00000803")
    write(path, idx(x)[:10])
    refused(path, tmp_path, path, "truncated: 10 bytes, expected a header of 16")
    write(path, idx(x)[:-1])
    refused(path, tmp_path, path, "dimensions (9, 3, 3) make 97 bytes, found 96 in all")
    write(path, idx(x) + b"x")
    refused(path, tmp_path, path, "dimensions (9, 3, 3) make 97 bytes, found 98 or more")
    write(path, idx(x[:0]))
    refused(path, tmp_path, path, "its dimensions (0, 3, 3) leave no samples")
    path.write_bytes(gzip.compress(idx(x))[:-12])
    refused(path, tmp_path, path, "cannot be read", "fetch the file again")
    write(path, idx(x))
    labels = tmp_path / "labels-idx1-ubyte"
    write(labels, idx(y[:8]))
    refused(path, tmp_path, labels, "8 labels for the 9 images", "do not belong together")

    folder = tmp_path / "mnist"
    folder.mkdir()
    write(folder / "t10k-labels-idx1-ubyte", idx(y))
    refused(folder, tmp_path, folder, "'t10k-images-idx3-ubyte' is missing, plain or with .gz")
    write(folder / "t10k-images-idx3-ubyte", idx(x))
    refused(folder, tmp_path, folder, "'train-images-idx3-ubyte' is missing")
    write(folder / "train-images-idx3-ubyte", idx(images(9, 4, 3)))
    refused(folder, tmp_path, folder, "'train-labels-idx1-ubyte' is missing")
    write(folder / "train-labels-idx1-ubyte", idx(y))
    refused(folder, tmp_path, folder, "test images are 3x3, train images 4x3")


@anything
@given(
    shape=st.tuples(*[st.integers(0, 2**32 - 1) | st.integers(0, 4)] * 3),
    size=st.integers(0, 80),
    compress=st.booleans(),
)
def test_idx_headers_are_checked_before_anything_is_read(tmp_path, shape, size, compress):
    path = tmp_path / ("in.gz" if compress else "in")
    write(path, bytes((0, 0, 8, 3)) + struct.pack(">3I", *shape) + bytes(size))
    if shape[0] * shape[1] * shape[2] == size > 0:
        assert sum(len(x) for x, _ in open_idx(path).read("train")) == shape[0]
    else:
        with pytest.raises(DataError, match=r"make|leave no samples"):
            open_idx(path)


def test_idx_of_which_one_image_or_the_labels_fill_the_memory(tmp_path, small):
    path = tmp_path / "images-idx3.gz"
    write(path, idx(np.zeros((2, 1000, 1000), np.uint8)))
    refused(path, tmp_path, path, "an image unpacked takes 1000000 bytes, over 50 times the file's")
    write(path, idx(np.zeros((10**5, 1, 10), np.uint8)))
    assert import_data(path, tmp_path / "a").size("train") > 0
    write(tmp_path / "labels-idx1.gz", idx(np.zeros(10**5, np.uint8)))
    refused(path, tmp_path, "labels-idx1.gz", "all of it unpacked takes 100000 bytes")


@anything
@given(content=st.binary(max_size=40), magic=st.sampled_from([b"", b"\0\0\x08\3", b"\x1f\x8b"]))
def test_idx_bytes_that_are_wrong_are_a_data_error(tmp_path, content, magic):
    (tmp_path / "in").write_bytes(magic + content)
    with pytest.raises(DataError):
        open_idx(tmp_path / "in")


# What is no kind of data


def test_sources_and_options_that_are_wrong(tmp_path):
    refused(tmp_path / "nothing", tmp_path, "no such file or folder; import takes a folder of")
    (tmp_path / "file.csv").write_text("1,2")
    refused(tmp_path / "file.csv", tmp_path, "not a kind of data that is known; import takes")
    np.savez(tmp_path / "in.npz", x=Z((2, 2)))
    refused(tmp_path / "in.npz", tmp_path, "none is left to train on", test_fraction=0.9)
    with pytest.raises(DataError, match="exists already"):
        import_data(tmp_path / "in.npz", tmp_path)
    for fraction in (1.0, -0.1):
        with pytest.raises(UsageError, match="must be at least 0 and below 1"):
            import_data(tmp_path / "in.npz", tmp_path / "store", test_fraction=fraction)
    with pytest.raises(UsageError, match="must be at least 1 pixel"):
        import_data(tmp_path / "in.npz", tmp_path / "store", size=0)


# The command line


def test_import_and_info(tmp_path):
    x = images(40, 8, 8, 3)
    np.savez(tmp_path / "in.npz", x=x, y=np.arange(40) % 4)
    source, dest, png = (str(tmp_path / name) for name in ("in.npz", "store", "grid.png"))
    done = CliRunner().invoke(app, ["import", source, dest, "--size", "4", "--rgb", "--seed", "3"])
    assert done.exit_code == 0, done.output
    assert "36 train and 4 test images of shape 3x4x4, 4 classes" in done.stdout
    done = CliRunner().invoke(app, ["info", dest, "--json", "--png", png])
    facts = json.loads(done.stdout)
    assert done.stderr.splitlines() == [png]
    assert facts == {"data": dest} | describe(Store(dest))
    assert (facts["kind"], facts["train"], facts["num_classes"]) == ("images", 36, 4)
    with Image.open(png) as grid:
        assert grid.size[0] > 100
    done = CliRunner().invoke(app, ["info", dest])
    assert "36 train and 4 test images" in done.stdout
    assert "mean" in done.stdout


def test_import_names_what_it_skips(tmp_path):
    for i in range(3):
        save(tmp_path / f"in/{i}.png", images(1, 6, 6)[0])
    cut = (tmp_path / "in/1.png").read_bytes()
    (tmp_path / "in/1.png").write_bytes(cut[:-30])
    (tmp_path / "in/notes.txt").write_text("text")
    source, dest = str(tmp_path / "in"), str(tmp_path / "store")
    done = CliRunner().invoke(app, ["import", source, dest])
    assert isinstance(done.exception, BadFilesError)
    assert sorted(line.split(": ")[0] for line in done.stderr.splitlines()) == [
        str(tmp_path / "in" / name) for name in ("1.png", "notes.txt")
    ]
    done = CliRunner().invoke(app, ["import", source, dest, "--skip-bad", "--test-fraction", "0"])
    assert done.exit_code == 0, done.output
    *named, count = done.stderr.splitlines()[3:]
    assert sorted(line.split(": ")[0] for line in named) == [
        f"skipped {tmp_path / 'in' / name}" for name in ("1.png", "notes.txt")
    ]
    assert count == "skipped 2 files"
    assert "2 train and 0 test images" in done.stdout


def test_info_draws_vectors_too(tmp_path):
    np.savez(tmp_path / "in.npz", x=RNG.normal(size=(100, 2)))
    import_data(tmp_path / "in.npz", tmp_path / "store")
    png = tmp_path / "dots.png"
    done = CliRunner().invoke(app, ["info", str(tmp_path / "store"), "--png", str(png)])
    assert "90 train and 10 test vectors of shape 2, no labels" in done.stdout
    assert done.stdout.splitlines()[-1] == str(png)
    assert png.stat().st_size > 0
    blocked = ["info", str(tmp_path / "store"), "--png", str(png / "x.png")]
    done = CliRunner().invoke(app, blocked)
    assert isinstance(done.exception, RunError)
    assert "cannot be written" in str(done.exception)


def test_errors_reach_the_caller(tmp_path):
    done = CliRunner().invoke(app, ["info", str(tmp_path / "nothing")])
    assert isinstance(done.exception, DataError)
    assert "no such folder" in str(done.exception)


def test_help_is_fast_and_complete():
    code = "import sys, scmkit_cli.data; print([m for m in ('jax', 'numpy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
    shown = CliRunner().invoke(app, ["import", "--help"], env={"COLUMNS": "200"}).stdout
    for option in ("--size", "--test-fraction", "--seed", "--grayscale", "--skip-non-images"):
        assert option in shown
