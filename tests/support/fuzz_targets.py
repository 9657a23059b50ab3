"""What reads files of strangers, one small function each: bytes in, a `ScmkitError` or nothing out."""

import contextlib
import gzip
import hashlib
import io
import json
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from mnist_format import idx
from PIL import Image
from scmkit_cli.options import by_plugin, counts, parse_settings
from scmkit_plugins.datasets._npm import read_package

from scmkit import compose
from scmkit.composing.recipe import Recipe
from scmkit.composing.recipe_file import read_recipe, read_run_recipe
from scmkit.data import Store, StoreWriter, import_data
from scmkit.data.readers.idx import is_idx, open_idx
from scmkit.data.readers.npz import open_npz
from scmkit.reporting.trials import Cell, Plan
from scmkit.runs import checkpoint
from scmkit.runs.manifest import MANIFEST
from scmkit.runs.metrics import read_metrics
from scmkit.settings import TrainingSettings, configure
from scmkit.weights import read_weights, write_safetensors

WEIGHTS = Path(__file__).parent / "files" / "weights"
TREE = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.arange(4)}


@dataclass(frozen=True)
class Target:
    """`run(data, folder)` reads `data` in a folder of its own; `seeds` are inputs that are right."""

    run: Callable[[bytes, Path], None]
    seeds: Callable[[], list[bytes]]


def _written(data: bytes, folder: Path, name: str) -> Path:
    (folder / name).write_bytes(data)
    return folder / name


@cache
def _recipes() -> list[bytes]:
    some = compose(["trigflow", "scd"], {}, data="two-moons")
    return [json.dumps(some.to_json()).encode()]


def recipe_json(data: bytes, folder: Path) -> None:
    """A run's recipe or a recipe file in JSON, down to the options of its plugins."""
    read_recipe(_written(data, folder, "recipe.json"))
    recipe = read_run_recipe(folder)
    for name in recipe.plugins:
        recipe.plugin(name)
    assert Recipe.from_json(recipe.to_json()) == recipe


def recipe_toml(data: bytes, folder: Path) -> None:
    """A recipe file in TOML."""
    read_recipe(_written(data, folder, "recipe.toml"))


def set_values(data: bytes, folder: Path) -> None:
    """`--set`, `--eval-steps`, one to a line."""
    lines = data.decode("utf-8", "replace").splitlines()
    counts(lines[0] if lines else None)
    for name, options in by_plugin(parse_settings(lines[1:])).items():
        configure(TrainingSettings, options, name)


def idx_file(data: bytes, folder: Path) -> None:
    """An IDX file of images."""
    path = _written(data, folder, "some-images-idx3-ubyte")
    is_idx(path)
    for _ in open_idx(path).read("train"):
        pass


def npz_data(data: bytes, folder: Path) -> None:
    """An `.npz` of samples."""
    source = open_npz(_written(data, folder, "data.npz"))
    for split in source.sizes:
        for _ in source.read(split):
            pass


def weight_file(data: bytes, folder: Path) -> None:
    """A weight file of any format."""
    read_weights(_written(data, folder, "weights"))


def image_folder(data: bytes, folder: Path) -> None:
    """A folder of one image."""
    (folder / "in").mkdir(exist_ok=True)
    shutil.rmtree(folder / "out", ignore_errors=True)
    _written(data, folder / "in", "1.png")
    import_data(folder / "in", folder / "out", test_fraction=0.0, max_pixels=1 << 16)


def npm_package(data: bytes, folder: Path) -> None:
    """A package of npm: the archive that is gzipped, or one in gzip already."""
    packed = data if data[:2] == b"\x1f\x8b" else gzip.compress(data, 1)
    package = read_package(_written(packed, folder, "p.tgz"), "some", lambda name: "." in name)
    package.json("some.json")


@cache
def _packages() -> list[bytes]:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, text in (
            ("package.json", '{"name": "some"}'),
            ("some.json", "[1]"),
            ("é" * 120, ""),
        ):
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
    return [buffer.getvalue(), gzip.compress(buffer.getvalue())]


def metrics(data: bytes, folder: Path) -> None:
    """A run's metrics."""
    for line in read_metrics(_written(data, folder, "metrics.jsonl")):
        assert line["step"] == int(line["step"])


def bench_plan(data: bytes, folder: Path) -> None:
    """A bench's methods, data sets and settings, one to a line; its runs stay in its folder."""
    lines = [*data.decode("utf-8", "replace").splitlines(), "", ""]
    cell = Cell(lines[1], lines[0], 0)
    assert (folder / cell.path).resolve().is_relative_to(folder.resolve())
    Plan([lines[0]], [lines[1]], 1, settings=parse_settings([t for t in lines[2:] if t])).checked()


def _store(folder: Path) -> Path:
    if not (folder / "store").exists():
        with StoreWriter(folder / "store", shape=(1, 2, 2), dtype="uint8", num_classes=2) as out:
            out.append("train", np.arange(12, dtype=np.uint8).reshape(3, 1, 2, 2), np.arange(3) % 2)
    return folder / "store"


def _read_store(path: Path) -> None:
    store = Store(path)
    for split in ("train", "test"):
        store.read(split, np.arange(min(store.size(split), 100)))


@cache
def _part_of_store(name: str) -> bytes:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        return (_store(Path(folder)) / name).read_bytes()


def store_json(data: bytes, folder: Path) -> None:
    """A store's `scmkit.json`."""
    _written(data, _store(folder), "scmkit.json")
    _read_store(folder / "store")


ZARR = "train/samples/zarr.json"


def store_zarr(data: bytes, folder: Path) -> None:
    """The metadata of a store's array, of the size that `scmkit.json` says."""
    store = _store(folder)
    _written(data, store, ZARR)
    about = json.loads(_part_of_store("scmkit.json"))
    about["files"] = {n: s if n != ZARR else len(data) for n, s in about["files"].items()}
    _written(json.dumps(about).encode(), store, "scmkit.json")
    _read_store(store)


def _checkpoint(folder: Path) -> Path:
    if not (folder / "c").exists():
        checkpoint.save(folder / "c", 1, TREE)
    return folder / "c" / "00000001"


@cache
def _part_of_checkpoint(name: str) -> bytes:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        return (_checkpoint(Path(folder)) / name).read_bytes()


def _sealed(document: object) -> bytes:
    """A manifest whose own digest is right, as whoever forges one would make it."""
    if not isinstance(document, dict):
        return json.dumps(document).encode()
    document.pop("sha256", None)

    def encoded(value: object) -> bytes:
        return json.dumps(value, indent=1, sort_keys=True).encode() + b"\n"

    return encoded(document | {"sha256": hashlib.sha256(encoded(document)).hexdigest()})


def manifest(data: bytes, folder: Path) -> None:
    """A checkpoint's manifest, with a digest that is right where it is JSON."""
    with contextlib.suppress(ValueError, RecursionError):
        data = _sealed(json.loads(data))
    path = _checkpoint(folder)
    _written(data, path, MANIFEST)
    checkpoint.digest(path)
    checkpoint.restore(path, TREE)


def checkpoint_zarr(data: bytes, folder: Path) -> None:
    """The metadata of a checkpoint's array, with a manifest that vouches for it."""
    path = _checkpoint(folder)
    _written(data, path, "arrays/a/zarr.json")
    document = json.loads(_part_of_checkpoint(MANIFEST))
    record = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    document["files"]["arrays/a/zarr.json"] = record
    _written(_sealed(document), path, MANIFEST)
    checkpoint.restore(path, TREE)


def _npz(**arrays: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # pyright: ignore[reportArgumentType]
    return buffer.getvalue()


@cache
def _safetensors() -> bytes:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        write_safetensors(Path(folder) / "w", TREE, {"some": "text"})
        return (Path(folder) / "w").read_bytes()


@cache
def _images() -> list[bytes]:
    picture = Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3))
    found = []
    for kind in ("PNG", "JPEG", "GIF", "TIFF", "BMP", "PPM"):
        buffer = io.BytesIO()
        picture.save(buffer, kind)
        found.append(buffer.getvalue())
    return found


TOML = b'plugins = ["trigflow", "scd"]\ndata = "digits"\n[settings.train]\nsteps = 10\nlr = 1e-3\n'
SETTINGS = b"1,2\ntrain.steps=10\ntrain.lr=1e-3\ntrain.ema=power:0.05\ntrain.optimizer=radam\n"
LINE = b'{"step": 50, "loss": 0.5, "seconds": 1.25}\n'
PIXELS = np.arange(48, dtype=np.uint8).reshape(3, 4, 4)

TARGETS = {
    "recipe-json": Target(recipe_json, _recipes),
    "recipe-toml": Target(recipe_toml, lambda: [TOML]),
    "set": Target(set_values, lambda: [SETTINGS]),
    "idx": Target(idx_file, lambda: [idx(PIXELS)]),
    "npz": Target(npz_data, lambda: [_npz(images=PIXELS, labels=np.arange(3))]),
    "weights-npz": Target(weight_file, lambda: [_npz(**TREE)]),
    "safetensors": Target(weight_file, lambda: [_safetensors()]),
    "torch-zip": Target(weight_file, lambda: [(WEIGHTS / "tensors.pt").read_bytes()]),
    "torch-legacy": Target(weight_file, lambda: [(WEIGHTS / "tensors.old.pt").read_bytes()]),
    "pickle": Target(
        weight_file, lambda: [(WEIGHTS / n).read_bytes() for n in ("edm.pkl", "edm2.pkl")]
    ),
    "image": Target(image_folder, _images),
    "npm-package": Target(npm_package, _packages),
    "store-json": Target(store_json, lambda: [_part_of_store("scmkit.json")]),
    "store-zarr": Target(store_zarr, lambda: [_part_of_store(ZARR)]),
    "manifest": Target(manifest, lambda: [_part_of_checkpoint(MANIFEST)]),
    "checkpoint-zarr": Target(checkpoint_zarr, lambda: [_part_of_checkpoint("arrays/a/zarr.json")]),
    "metrics": Target(metrics, lambda: [LINE * 3]),
    "bench-plan": Target(bench_plan, lambda: [b"trigflow,scd\ntwo-moons\ntrain.lr=1e-3\n"]),
}
