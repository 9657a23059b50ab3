"""Weight files of strangers: read exactly, or refused in one line, and never executed."""

import builtins
import io
import os
import pickle
import random
import struct
import time
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from scmkit.errors import DataError, RunError
from scmkit.weights import read_weights, write_safetensors

DATA = Path(__file__).parent / "data"

SHARED = np.arange(24, dtype=np.float32)
ODD = {
    "half": np.arange(6, dtype=np.float16).reshape(2, 3),
    "bfloat16": (np.arange(6) / 4).astype(ml_dtypes.bfloat16),
    "double": np.arange(3) / 3,
    "int64": np.arange(4),
    "bool": np.array([True, False]),
    "transposed": np.arange(6, dtype=np.float32).reshape(2, 3).T,
    "shared.whole": SHARED,
    "shared.part": SHARED[4:16].reshape(3, 4)[:, 1:3],
    "scalar": np.float32(2.5).reshape(()),
    "empty": np.zeros((0, 3), np.float32),
    "parameter": np.arange(4, dtype=np.float32),
}
"""What `tests/data/make.py` saves, by PyTorch."""


def same(arrays, expected):
    assert set(arrays) == set(expected)
    for name, array in expected.items():
        assert (arrays[name].dtype, arrays[name].shape) == (array.dtype, array.shape), name
        np.testing.assert_array_equal(arrays[name], array)


@pytest.mark.parametrize("name", ["odd.pt", "odd.old.pt"])
def test_pytorchs_checkpoints_of_both_formats(name):
    same(read_weights(DATA / name).arrays, ODD)


def test_nvidias_pickle_without_running_what_is_in_it():
    """Its source is replaced by a line that ends the process (`tests/data/make.py`)."""
    assert b"raise SystemExit" in (DATA / "edm2.pkl").read_bytes()
    weights = read_weights(DATA / "edm2.pkl")
    assert weights.metadata["class"] == "Precond"
    assert weights.metadata["kwargs"]["channels_per_head"] == 4
    assert weights.arrays["unet.enc.8x8_conv.weight"].shape == (4, 4, 3, 3)
    assert weights.arrays["unet.dec.4x4_in0.attn_qkv.weight"].dtype == np.float16
    assert weights.arrays["logvar_fourier.freqs"].shape == (128,)
    first = weights.arrays["unet.enc.8x8_conv.weight"].astype(np.float32)
    assert 0.7 < first.std() < 1.3  # Normal draws; a wrong offset or dtype would not be.


def test_safetensors_and_npz(tmp_path):
    plain = {k: np.ascontiguousarray(a).reshape(a.shape) for k, a in ODD.items()}
    write_safetensors(tmp_path / "w.safetensors", ODD, {"some": "text"})
    weights = read_weights(tmp_path / "w.safetensors")
    same(weights.arrays, plain)
    assert weights.metadata == {"some": "text"}
    del plain["bfloat16"]
    np.savez(tmp_path / "w.npz", **plain)
    same(read_weights(tmp_path / "w.npz").arrays, plain)
    np.savez_compressed(tmp_path / "c.npz", **plain)
    same(read_weights(tmp_path / "c.npz").arrays, plain)
    # The format is told by content, whatever the name.
    (tmp_path / "w.bin").write_bytes((tmp_path / "w.npz").read_bytes())
    same(read_weights(tmp_path / "w.bin").arrays, plain)


def test_writing_leaves_no_half_file(tmp_path):
    (tmp_path / "taken").write_text("a file, not a folder")
    with pytest.raises(RunError, match="cannot be written"):
        write_safetensors(tmp_path / "taken" / "w.safetensors", {"a": np.zeros(2)}, {})
    assert [p.name for p in tmp_path.iterdir()] == ["taken"]


# What is hostile.


class Reduced:
    """Pickled as a call."""

    def __init__(self, function, *args):
        self.call = (function, args)

    def __reduce__(self):
        return self.call


class Marker:
    """Where an attack leaves its mark."""

    def __init__(self, path):
        self.path = path
        self.command = f"touch {path}"


@pytest.fixture
def marker(tmp_path):
    return Marker(tmp_path / "owned")


def refused(tmp_path, content: bytes, match: str = ".", suffix: str = ".pkl"):
    path = tmp_path / f"attack{suffix}"
    path.write_bytes(content)
    start = time.perf_counter()
    with pytest.raises(DataError, match=match) as caught:
        read_weights(path)
    assert time.perf_counter() - start < 5
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_code_in_a_pickle_is_not_run(tmp_path, marker, protocol):
    calls = {
        "os.system": (os.system, marker.command),
        "builtins.eval": (eval, f"open({str(marker.path)!r}, 'w')"),
        "builtins.exec": (exec, f"open({str(marker.path)!r}, 'w')"),
        "builtins.getattr": (getattr, "a", "upper"),
        "builtins.__import__": (builtins.__import__, "os"),
        "posix.remove|nt.remove": (os.remove, str(tmp_path)),
    }
    for name, (function, *args) in calls.items():
        inner = pickle.dumps({"ema": Reduced(function, *args)}, protocol)
        asked = name.split(".")[-1].split("|")[0]
        refused(tmp_path, inner, rf"asks for '\w+\.{asked}', which no weights")


def test_a_malicious_module_source_is_not_run(tmp_path, marker):
    good = (DATA / "edm2.pkl").read_bytes()
    trap = b"raise SystemExit('code in a weight file was executed')"
    evil = f"import os; os.system({marker.command!r})".encode().ljust(len(trap))[: len(trap)]
    assert good.count(trap) == 1
    (tmp_path / "evil.pkl").write_bytes(good.replace(trap, evil))
    assert read_weights(tmp_path / "evil.pkl").metadata["class"] == "Precond"
    assert not marker.path.exists()


def test_dotted_names_and_state_cannot_reach_real_objects(tmp_path, marker):
    # Protocol 4's STACK_GLOBAL takes dotted names; BUILD sets attributes, also of classes.
    dotted = b"\x80\x04\x8c\x0ctorch._utils\x8c\x09os.system\x93."
    refused(tmp_path, dotted, "asks for 'torch._utils.os.system'")
    on_class = b"\x80\x04ccollections\nOrderedDict\nN}(\x8c\x04name\x8c\x05pwned\x8c\x05items\x8c\x01xu\x86b."
    refused(tmp_path, on_class)
    assert read_weights(DATA / "edm2.pkl").metadata["class"] == "Precond"
    unknown = (DATA / "edm2.pkl").read_bytes().replace(b"\x8c\x06MPConv", b"\x8c\x06MPEvil")
    refused(tmp_path, unknown, "'MPEvil', which is no module of EDM")


def checkpoint(pickled: bytes, **files: bytes) -> bytes:
    """A zip archive as `torch.save` writes one."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a/data.pkl", pickled)
        for name, content in files.items():
            archive.writestr(f"a/data/{name.removeprefix('_')}", content)
    return buffer.getvalue()


def tensor(numel=4, offset=0, size=(4,), stride=(1,), kind=b"FloatStorage", key="0"):
    """The pickle of a state dict with one tensor."""
    pid = (
        b"(X\x07\x00\x00\x00storagectorch\n"
        + kind
        + b"\nX"
        + struct.pack("<I", len(key))
        + key.encode()
    )
    pid += b"X\x03\x00\x00\x00cpu" + _int(numel) + b"tQ"
    numbers = [b"(" + b"".join(_int(n) for n in ns) + b"t" for ns in (size, stride)]
    args = b"(" + pid + _int(offset) + numbers[0] + numbers[1] + b"I00\n}t"
    return b"\x80\x02}X\x01\x00\x00\x00wctorch._utils\n_rebuild_tensor_v2\n" + args + b"Rs."


def _int(n: int) -> bytes:
    return b"I%d\n" % n


def test_the_handmade_checkpoint_is_one(tmp_path):
    data = np.arange(4, dtype=np.float32)
    (tmp_path / "w.pt").write_bytes(checkpoint(tensor(), _0=data.tobytes()))
    same(read_weights(tmp_path / "w.pt").arrays, {"w": data})


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"numel": 2**40, "size": (2**40,)}, "storage '0' is truncated"),
        ({"size": (2**20, 2**20), "stride": (0, 0)}, "larger than its data"),
        ({"size": (3,), "stride": (-1,), "offset": 3}, "impossible shape"),
        ({"offset": -8}, "larger than its data"),
        ({"offset": 1}, "reaches beyond its data"),
        ({"size": (2,), "stride": (4,)}, "reaches beyond its data"),
        ({"size": (2,), "stride": (1, 1)}, "larger than its data"),
        ({"kind": b"QInt8Storage"}, "asks for 'torch.QInt8Storage'"),
        ({"kind": b"Size"}, "storage of unknown kind"),
        ({"key": "../../../etc/passwd"}, "no data for its storage"),
        ({"numel": 3}, "storage '0' is truncated"),
    ],
)
def test_impossible_tensors_take_no_memory(tmp_path, change, match):
    content = checkpoint(tensor(**change), _0=np.arange(4, dtype=np.float32).tobytes())
    refused(tmp_path, content, match, ".pt")


def test_pickles_that_would_take_memory_or_the_stack(tmp_path):
    refused(tmp_path, b"\x80\x04\x8e" + struct.pack("<Q", 2**40) + b"x.", "damaged")
    refused(tmp_path, b"\x80\x02Nr\xff\xff\xff\x7f.", "table of objects is absurd")
    refused(tmp_path, b"\x80\x02" + b"]" * 200_000 + b"a" * 199_999 + b".")
    refused(tmp_path, b"\x80\x02" + b"(" * 300_000 + b".")
    # A list that holds itself, and 2**60 paths through shared dicts.
    refused(tmp_path, b"\x80\x02]q\x00h\x00a.")
    laughs = b"\x80\x02}q\x00"
    for i in range(60):
        laughs += b"}q%c(X\x03\x00\x00\x00emah%cX\x05\x00\x00\x00modelh%cu" % (i + 1, i, i)
    refused(tmp_path, laughs + b".")


def test_a_zip_bomb_and_objects_in_an_npz(tmp_path):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(
            header, {"descr": "<f4", "fortran_order": False, "shape": (1 << 40,)}
        )
        archive.writestr("w.npy", header.getvalue() + bytes(1000))
    refused(tmp_path, buffer.getvalue(), "not as large as it says", ".npz")
    np.savez(tmp_path / "o.npz", w=np.array([{}, []], dtype=object))
    with pytest.raises(DataError, match="holds Python objects"):
        read_weights(tmp_path / "o.npz")
    compressed = io.BytesIO()
    with zipfile.ZipFile(compressed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", tensor())
        archive.writestr("a/data/0", bytes(16))
    refused(tmp_path, compressed.getvalue(), "it is compressed", ".pt")


def test_what_is_no_weight_file(tmp_path):
    refused(tmp_path, b"", "format is not known")
    refused(tmp_path, b"\x89PNG\r\n\x1a\n" + bytes(50), "format is not known")
    refused(tmp_path, pickle.dumps({"a": 1, "b": 2}), r"no network under .* \(its keys: a, b\)")
    refused(tmp_path, pickle.dumps([1, 2]), "neither a state dict nor a module")
    refused(tmp_path, struct.pack("<Q", 2**50) + b'{"a"', "no whole safetensors", ".safetensors")
    with pytest.raises(DataError, match="cannot be read: No such file"):
        read_weights(tmp_path / "nowhere.pkl")
    with pytest.raises(DataError, match="cannot be read: Is a directory"):
        read_weights(tmp_path)


@pytest.mark.parametrize("name", ["odd.pt", "odd.old.pt", "edm2.pkl"])
def test_damage_is_found_or_changes_only_values(tmp_path, name):
    """Truncated anywhere, or with a byte changed: a `DataError`, or arrays of sound shapes."""
    good, rng = (DATA / name).read_bytes(), random.Random(0)
    path = tmp_path / name
    cuts = range(0, len(good), max(1, len(good) // 40))
    for cut in cuts:
        path.write_bytes(good[:cut])
        with pytest.raises(DataError):
            read_weights(path)
    for _ in range(150):
        changed = bytearray(good)
        changed[rng.randrange(min(len(good), 20_000))] ^= 1 << rng.randrange(8)
        path.write_bytes(changed)
        try:
            arrays = read_weights(path).arrays
        except DataError:
            continue
        assert sum(a.nbytes for a in arrays.values()) <= 4 * len(good)
