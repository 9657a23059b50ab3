"""Weight files of strangers: read exactly, or refused in one line, and never executed."""

import ast
import builtins
import contextlib
import io
import json
import os
import pickle
import random
import struct
import subprocess
import sys
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from effort import at_most

import scmkit.weights
from scmkit.errors import DataError, RunError
from scmkit.weights import read_weights, write_safetensors
from scmkit.weights.pickles import Pickle

DATA = Path(__file__).parents[1] / "support" / "files" / "weights"
NAMES = json.loads((DATA / "names.json").read_text())
NAMES["tensors.old.pt"], NAMES["edm-state.pt"] = NAMES["tensors.pt"], NAMES["edm.pkl"]
"""Per file: name -> (dtype, shape), by PyTorch's own `state_dict`."""

SLOW, LARGE = 4, 64 << 20
"""Seconds of this thread's computing and bytes that no file here may take. The tests' type checks take nine
tenths of the time: without them the slowest takes 0.2 s."""


def formula(name: str, dtype: str, shape: list[int]) -> np.ndarray:
    """What `tests/support/files/weights/make.py` fills a tensor with."""
    numbers = (7 * np.arange(np.prod(shape, dtype=int)) + zlib.crc32(name.encode())) % 251 - 125
    exact = numbers / 64 if "float" in dtype else numbers
    kind = ml_dtypes.bfloat16 if dtype == "bfloat16" else np.dtype(dtype)
    return exact.reshape(shape).astype(kind)


def expected(file: str) -> dict[str, np.ndarray]:
    arrays = {name: formula(name, *kind) for name, kind in NAMES[file].items()}
    if file.startswith("tensors"):
        arrays["shared.part"] = arrays["shared"][4:16].reshape(3, 4)[:, 1:3]
        arrays["shared.tied"] = arrays["shared"]
    return arrays


def same(arrays, wanted):
    assert list(arrays) == list(wanted)
    for name, array in wanted.items():
        assert (arrays[name].dtype, arrays[name].shape) == (array.dtype, array.shape), name
        np.testing.assert_array_equal(arrays[name], array, err_msg=name)


# What is sound.


@pytest.mark.parametrize("file", ["tensors.pt", "tensors.old.pt"])
def test_tensors_of_pytorchs_formats(file):
    """Every type and layout; weights that are tied are one array, which nobody can change."""
    arrays = read_weights(DATA / file, key="state_dict").arrays
    same(arrays, expected(file))
    assert arrays["shared"] is arrays["shared.tied"]
    assert all(a.flags.c_contiguous and not a.flags.writeable for a in arrays.values())


def test_a_checkpoint_is_read_under_the_key_that_is_asked_for():
    assert list(read_weights(DATA / "tensors.pt").arrays) == [
        "ema.float32",
        "ema.float64",
        "ema.float16",
    ]
    # What is no network is passed over for the next that is one.
    assert "scalar" in read_weights(DATA / "tensors.pt", key="loss").arrays


@pytest.mark.parametrize(
    ("file", "kind", "kwargs"),
    [
        ("edm2.pkl", "Precond", {"channel_mult": [1], "use_fp16": True, "sigma_data": 0.5}),
        ("edm.pkl", "EDMPrecond", {"model_type": "SongUNet", "img_resolution": 4}),
        ("edm-state.pt", "EDMPrecond", {"model_type": "SongUNet", "img_resolution": 4}),
    ],
)
def test_nvidias_modules_without_their_code(file, kind, kwargs):
    """Of the source that they are pickled with there is only a line that would end this process."""
    content = (DATA / file).read_bytes()
    assert b"raise SystemExit" in content
    assert b"import torch" not in content
    weights = read_weights(DATA / file)
    same(weights.arrays, expected(file))
    assert weights.metadata["class"] == kind
    assert kwargs.items() <= weights.metadata["kwargs"].items()
    # What modules hold is there too: it is what they compute with.
    modules = weights.metadata["modules"]
    assert modules[""] == {"class": kind} | modules[""]
    assert modules[""]["sigma_data"] == 0.5
    if kind == "Precond":
        assert modules["unet.dec.4x4_in0"]["res_balance"] == 0.3
        assert modules["unet"]["label_balance"] == 0.5
        encoder = weights.metadata["encoder"]
        assert encoder["class"] == "StabilityVAEEncoder"
        np.testing.assert_allclose(encoder["scale"], 0.5 / np.asarray([4.17, 4.62, 3.71, 3.28]))
    assert "torch" not in sys.modules


def test_safetensors_and_npz_whatever_their_names(tmp_path):
    arrays = expected("tensors.pt") | {"swapped": np.arange(3, dtype=">f4")}
    native = arrays | {"swapped": np.arange(3, dtype=np.float32)}
    arrays["scalar"] = arrays["scalar"][()]  # No longer an `ndarray`.
    write_safetensors(tmp_path / "w.pkl", arrays, {"some": "text"})
    weights = read_weights(tmp_path / "w.pkl")
    same({n: weights.arrays[n] for n in native}, native)
    assert weights.metadata == {"some": "text"}
    del arrays["bfloat16"], native["bfloat16"]
    for save in (np.savez, np.savez_compressed):
        with (tmp_path / "w.pt").open("wb") as file:
            save(file, fortran=np.asfortranarray(arrays["float32"]), **arrays)
        same(read_weights(tmp_path / "w.pt").arrays, {"fortran": arrays["float32"], **native})


def test_numpy_arrays_in_a_pickle(tmp_path):
    arrays = {n: a for n, a in expected("tensors.pt").items() if n != "bfloat16"}
    arrays["fortran"] = np.asfortranarray(arrays["float32"])
    for protocol in (2, 3, 4, 5):
        (tmp_path / "w").write_bytes(pickle.dumps({"net": arrays}, protocol))
        same(read_weights(tmp_path / "w").arrays, arrays)


def test_writing_leaves_no_half_file(tmp_path):
    (tmp_path / "taken").mkdir()
    with pytest.raises(RunError, match="cannot be written"):
        write_safetensors(tmp_path / "taken", {"a": np.zeros(2)}, {})
    with pytest.raises(DataError, match="'a' is complex128, which safetensors has not"):
        write_safetensors(tmp_path / "w", {"a": np.zeros(2, complex)}, {})
    assert list(tmp_path.rglob("*")) == [tmp_path / "taken"]


# What is hostile.


def test_the_reader_has_nothing_that_could_call_by_name():
    """Of the pickle module it uses the opcodes' names only."""
    for file in Path(scmkit.weights.__path__[0]).glob("*.py"):
        tree = ast.parse(file.read_text())
        names = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)}
        assert not names & {"eval", "exec", "getattr", "setattr", "globals", "vars", "__import__"}
        for node in ast.walk(tree):
            if isinstance(node, ast.Import | ast.ImportFrom):
                module = node.module if isinstance(node, ast.ImportFrom) else node.names[0].name
                assert module not in ("importlib", "torch", "jax", "marshal", "subprocess")
                assert module != "pickle" or node.names[0].asname == "op"
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "op":
                assert isinstance(vars(pickle)[node.attr], bytes)


def refused(tmp_path, content: bytes, match: str = "."):
    """Read in vain: one printable line, soon, and without an attack's mark."""
    path = tmp_path / "file"
    path.write_bytes(content)
    with at_most(SLOW), pytest.raises(DataError, match=match) as caught:
        read_weights(path)
    message = str(caught.value).replace(str(path), "")
    assert message.isprintable()
    assert len(message) < 1000
    assert not (tmp_path / "mark").exists()


def bounded(tmp_path):
    """The file refused last takes little memory; apart from its time, which tracing would add to."""
    tracemalloc.start()
    with pytest.raises(DataError):
        read_weights(tmp_path / "file")
    assert tracemalloc.get_traced_memory()[1] < LARGE
    tracemalloc.stop()


class Reduced:
    """Pickled as a call."""

    def __init__(self, function, *args):
        self.call = (function, args)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", range(6))
def test_calls_in_a_pickle_are_not_made(tmp_path, protocol):
    mark = str(tmp_path / "mark")
    calls = {
        "system": (os.system, f"touch {mark}"),
        "eval": (eval, f"open({mark!r}, 'w')"),
        "exec": (exec, f"open({mark!r}, 'w')"),
        "getattr": (getattr, "a", "upper"),
        "__import__": (builtins.__import__, "os"),
        "open": (open, mark, "w"),
        "Popen": (subprocess.Popen, ["touch", mark]),
    }
    for name, (function, *args) in calls.items():
        for content in (Reduced(function, *args), {"ema": {"a": Reduced(function, *args)}}):
            match = (
                rf"asks for '\w+\.{name}', which no weight file needs"
                if protocol > 1
                else "format is none of those"
            )
            refused(tmp_path, pickle.dumps(content, protocol), match)


def test_the_source_in_a_module_is_not_run(tmp_path):
    good = (DATA / "edm2.pkl").read_bytes()
    trap = b"raise SystemExit('code in a weight file was executed')"
    code = f"open({str(tmp_path / 'mark')!r}, 'w')".encode()
    short, long = (b"\x8c" + bytes([len(trap)]) + trap), b"X" + struct.pack("<I", len(code)) + code
    assert good.count(short) == 1
    # Frames, which only speed up reading, would no longer fit; they may be left out.
    (tmp_path / "evil").write_bytes(good.replace(short, long))
    same(read_weights(tmp_path / "evil").arrays, expected("edm2.pkl"))
    assert not (tmp_path / "mark").exists()
    unknown = good.replace(b"\x8c\x06MPConv", b"\x8c\x06MPEvil")
    refused(tmp_path, unknown, "class 'MPEvil', which is none of EDM's or EDM2's")


# Pickles by hand.


def number(n) -> bytes:
    return pickle.dumps(n, 2)[2:-1]


def text(s: str) -> bytes:
    return b"X" + struct.pack("<I", len(s.encode())) + s.encode()


def named(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def several(*parts: bytes) -> bytes:
    return b"(" + b"".join(parts) + b"t"


def mapped(**items: bytes) -> bytes:
    return b"}(" + b"".join(text(k) + v for k, v in items.items()) + b"u"


def whole(value: bytes) -> bytes:
    return b"\x80\x02" + value + b"."


ORDERED, LIST = (
    named("collections", "OrderedDict"),
    named("torch.nn.modules.container", "ModuleList"),
)
REBUILD = named("torch._utils", "_rebuild_tensor_v2")


def storage(
    kind="FloatStorage", key="0", numel=4, what="storage", module="torch", more=b""
) -> bytes:
    parts = (text(what), named(module, kind), text(key), text("cpu"), number(numel), more)
    return several(*parts) + b"Q"


def tensor(stored: bytes = b"", offset=0, size=(4,), stride=(1,), **storage_options) -> bytes:
    sides = [several(*map(number, n)) for n in (size, stride)]
    parts = (stored or storage(**storage_options), number(offset), *sides, b"\x89", b"}")
    return REBUILD + several(*parts) + b"R"


FOUR = np.arange(4, dtype=np.float32)


def checkpoint(
    pickled: bytes, data: bytes = FOUR.tobytes(), method: int = zipfile.ZIP_STORED, **files: bytes
) -> bytes:
    """A zip archive as `torch.save` writes one."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        archive.writestr("a/data.pkl", whole(pickled))
        archive.writestr("a/data/0", data)
        for name, content in files.items():
            archive.writestr(f"a/{name}", content)
    return buffer.getvalue()


def test_the_handmade_checkpoint_is_one(tmp_path):
    for files in ({}, {"byteorder": b"little"}):
        (tmp_path / "w").write_bytes(checkpoint(mapped(w=tensor()), **files))
        same(read_weights(tmp_path / "w").arrays, {"w": FOUR})


OPCODES = {
    "INST": b"(ios\nsystem\n",
    "OBJ": b"(cos\nsystem\no",
    "EXT1": b"\x82\x01",
    "EXT4": b"\x84\x01\0\0\0",
    "PERSID": b"Pstorage\n",
    "NEXT_BUFFER": b"\x97",
    "NEWOBJ_EX": ORDERED + b")}\x92",
    "LONG": b"L" + b"9" * 100_000 + b"L\n",
}


@pytest.mark.parametrize("code", OPCODES.values(), ids=OPCODES)
def test_opcodes_that_no_weight_file_has_are_refused(tmp_path, code):
    refused(tmp_path, whole(code), "asks for|opcode")


def test_texts_and_dicts_as_python_2_wrote_them(tmp_path):
    """A dict filled by pairs when it is made, and texts of bytes; each list of pairs serves one dict."""
    pairs = b"]q\x01(]q\x02(U\x01aK\x07ee"
    held = Pickle(memoryview(whole(ORDERED + pairs + b"\x85R")))
    assert held.value == {"a": 7}
    twice = b"(" + ORDERED + pairs + b"\x85R" + ORDERED + b"h\x01\x85Rt"
    assert Pickle(memoryview(whole(twice))).value == ({"a": 7}, {})
    refused(tmp_path, whole(ORDERED + b"K\x07\x85R"), "fills a dict")
    refused(tmp_path, whole(ORDERED + b"](K\x07e\x85R"), "fills a dict")


TRAVERSALS = {
    "a dotted name": b"\x8c\x0btorch._utils\x8c\x09os.system\x93",
    "a dotted module": b"\x8c\x05torch\x8c\x19_utils._rebuild_tensor_v2\x93",
    "a name beside": named("torch.storage", "_load_from_bytes_"),
    "a name that is none": b"\x8c\x05torchK\x01\x93",
    "lines in a name": b"\x8c\x02os\x8c\x08a\nb\x1b[31m\x93",
    "a long name": text("a" * 1_000_000) + text("b") + b"\x93",
    "the state of a class": ORDERED + several(b"N", mapped(__setstate__=REBUILD)) + b"b",
    "the state of a storage": storage() + mapped(key=text("1")) + b"b",
    "items of a class": LIST + text("a") + b"Ns",
    "elements of a class": LIST + b"Na",
    "the call of a result": LIST + b")R)R",
    "the call of a text": text("a") + b")R",
    "a class made of a text": text("a") + b")\x81",
    "arguments that are none": LIST + b"]R",
    "a class that builds itself": named("copyreg", "_reconstructor") * 2 + b"\x85R",
    "a module without a description": named(
        "torch_utils.persistence", "_reconstruct_persistent_obj"
    )
    + b")R",
}


@pytest.mark.parametrize("value", TRAVERSALS.values(), ids=TRAVERSALS)
def test_names_calls_and_states_reach_no_object(tmp_path, value):
    refused(tmp_path, whole(value), "asks for|is damaged|of class")
    same(read_weights(DATA / "edm2.pkl").arrays, expected("edm2.pkl"))


def test_a_state_with_methods_has_no_effect(tmp_path):
    state = mapped(__setstate__=REBUILD, __class__=ORDERED, _modules=b"}", _parameters=b"}")
    refused(tmp_path, whole(LIST + b")\x81" + state + b"b"), "holds no arrays")


IMPOSSIBLE = {
    "a tebibyte": (dict(numel=2**40, size=(2**40,)), "not the size that it says"),
    "a negative storage": (dict(numel=-4), "impossible size"),
    "a huge storage": (dict(numel=2**200), "impossible size"),
    "a fraction of a storage": (dict(numel=4.0), "impossible size"),
    "one number many times": (dict(size=(2**20, 2**20), stride=(0, 0)), "larger than its storage"),
    "an overlap": (dict(size=(3, 2), stride=(1, 1)), "larger than its storage"),
    "a negative stride": (dict(size=(3,), stride=(-1,), offset=3), "impossible shape or stride"),
    "a negative side": (dict(size=(-1,)), "impossible shape or stride"),
    "a huge side": (dict(size=(2**200,)), "impossible shape or stride"),
    "a side that is true": (dict(size=(True,)), "impossible shape or stride"),
    "many sides": (dict(size=(1,) * 100, stride=(1,) * 100), "impossible shape or stride"),
    "sides without strides": (dict(stride=()), "impossible offset or stride"),
    "a negative offset": (dict(offset=-1), "impossible offset or stride"),
    "an offset": (dict(offset=1), "reaches beyond"),
    "a large stride": (dict(size=(2,), stride=(4,)), "reaches beyond"),
    "a huge stride": (dict(size=(2,), stride=(2**62,)), "impossible shape or stride"),
    "an empty side, and huge ones": (dict(size=(0, 2**47, 2**47), stride=(1,) * 3), "damaged"),
    "another dtype": (dict(kind="DoubleStorage"), "not the size that it says"),
    "an unknown dtype": (dict(kind="QInt8Storage"), "asks for 'torch.QInt8Storage'"),
    "no dtype": (dict(kind="Size"), "unknown kind"),
    "another module's": (dict(kind="OrderedDict", module="collections"), "unknown kind"),
    "no storage": (dict(what="module"), "no storage"),
    "a view of a storage": (dict(more=several(text("1"), number(0), number(4))), "no storage"),
    "another file": (dict(key="../../../etc/passwd"), "no data for storage"),
    "a text for a storage": (dict(stored=text("a")), "'w' has no data"),
    "bytes that are no storage": (
        dict(stored=named("torch.storage", "_load_from_bytes") + b"C\x01a\x85R"),
        "damaged",
    ),
}


@pytest.mark.parametrize(("change", "match"), IMPOSSIBLE.values(), ids=IMPOSSIBLE)
def test_impossible_tensors_take_no_memory(tmp_path, change, match):
    tracemalloc.start()
    refused(tmp_path, checkpoint(mapped(w=tensor(**change))), match)
    assert tracemalloc.get_traced_memory()[1] < LARGE
    tracemalloc.stop()


def test_archives_that_are_none_of_pytorchs(tmp_path):
    good = mapped(w=tensor())
    refused(tmp_path, checkpoint(good, byteorder=b"big"), "big-endian machine")
    refused(tmp_path, checkpoint(good, method=zipfile.ZIP_DEFLATED), "it is compressed")
    refused(tmp_path, checkpoint(good, **{"b/data.pkl": b""}), "2 pickles instead of one")
    with pytest.warns(UserWarning, match="Duplicate name"):
        twice = checkpoint(good, **{"data/0": b""})
    refused(tmp_path, twice, "two files 'a/data/0'")
    swapped = (DATA / "tensors.old.pt").read_bytes().replace(b"endianq\x02\x88", b"endianq\x02\x89")
    refused(tmp_path, swapped, "big-endian machine")


def nested(levels: int, *, leaf: bytes = b"}", kind: bytes = LIST) -> bytes:
    """Modules that hold the next one twice: paths without end on few levels."""
    value = kind + b")\x81q\0" + mapped(_modules=leaf) + b"b0"
    for i in range(1, levels):
        inner = b"h" + bytes([i - 1])
        value += kind + b")\x81q" + bytes([i]) + mapped(_modules=mapped(a=inner, b=inner)) + b"b0"
    return value + b"h" + bytes([levels - 1])


def blob(padding: int) -> bytes:
    """A storage as plain pickles embed it."""
    parts = (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True, "padding": [0] * padding})
    start = b"".join(pickle.dumps(part, 2) for part in parts) + whole(storage(numel=1))
    return start + pickle.dumps(["0"], 2) + struct.pack("<qf", 1, 2.0)


M61 = 2**61 - 1
"""Python's hash of an integer is its remainder by this prime."""

GREEDY = {
    "lists in lists": b"]" * 30_000 + b"a" * 29_999,
    "marks": b"(" * 100_000,
    "a key of many levels": b"})" + b"\x85" * 60_000 + b"Ns",
    "keys of many levels": b"}()" + b"\x85" * 60_000 + b"Nu",
    "an element of many levels": b"\x8f()" + b"\x85" * 60_000 + b"\x90",
    "a key of 2^60 parts": b"})" + b"".join(b"\x94h%c\x86" % i for i in range(60)) + b"Ns",
    "keys of one hash": b"}(" + b"".join(number(k * M61) + b"N" for k in range(1, 20_000)) + b"u",
    "calls within calls": LIST + b"q\x000" + b"h\0" * 30_000 + b")R" + b"\x85R" * 29_999,
    "a text of 2^40": b"\x8d" + struct.pack("<Q", 2**40) + b"x",
    "bytes of 2^62": b"\x8e" + struct.pack("<Q", 2**62) + b"x",
    "bytes of 2^63": b"\x96" + struct.pack("<Q", 2**63 + 1) + b"x",
    "a frame of 2^62": b"\x95" + struct.pack("<Q", 2**62) + b"N",
    "a far place in the memo": b"Nr\xff\xff\xff\xff",
    "a long integer": b"\x8b" + struct.pack("<i", 1_000_000) + b"\x7f" * 1_000_000,
    "a negative length": b"\x8b" + struct.pack("<i", -1) + b"\x7f",
    "a list in itself": b"]q\0h\0a",
    "a dict in itself": b"}q\0" + text("ema") + b"h\0s",
    "a state in itself": LIST + b")\x81q\0h\0b",
    "a module in itself": LIST + b")\x81q\0" + mapped(_modules=mapped(a=b"h\0")) + b"b",
    "many paths": nested(60),
    "many parameters": nested(30, leaf=mapped(a=LIST + b")\x81" + mapped(_modules=b"}") + b"b")),
    "surrogates": b"}X\x03\0\0\0\xed\xa0\x80Ns",
    "a key in lines": mapped(**{"a\nb\x1b[31m": b"N"}),
    "nothing": b"",
    "too little": b"\x86",
    "no memo": b"h\x07",
    "no mark": b"t",
    "an odd dict": b"}(NNNu",
}


@pytest.mark.parametrize("value", GREEDY.values(), ids=GREEDY)
def test_pickles_take_neither_memory_nor_stack_nor_time(tmp_path, value):
    refused(tmp_path, whole(value))
    refused(tmp_path, whole(mapped(ema=value)))
    refused(tmp_path, checkpoint(value))


def test_what_is_named_many_times_is_read_once(tmp_path):
    """A storage that takes 10 ms to read, under 2000 names."""
    stored = (
        named("torch.storage", "_load_from_bytes") + b"B" + struct.pack("<I", len(blob(30_000)))
    )
    first = tensor(stored + blob(30_000) + b"\x85Rq\0", size=(1,))
    rest = {f"w{i}": tensor(b"h\0", size=(1,)) for i in range(2000)}
    (tmp_path / "w").write_bytes(whole(mapped(first=first, **rest)))
    with at_most(SLOW):
        arrays = read_weights(tmp_path / "w").arrays
    assert len({id(array) for array in arrays.values()}) == 1
    assert arrays["first"] == 2


def test_views_of_one_storage_are_bounded(tmp_path):
    """A thousand, each of half of it, would take five hundred times its memory."""
    views = {f"w{i}": tensor(numel=2**18, offset=i, size=(2**17,)) for i in range(1000)}
    refused(
        tmp_path, checkpoint(mapped(**views), bytes(4 * 2**18)), "many times larger than itself"
    )
    bounded(tmp_path)


# Archives and headers.


def npz(header: bytes, data: bytes = b"", **archive_options) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", **archive_options) as archive:
        content = b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header + data
        archive.writestr("w.npy", content)
    return buffer.getvalue()


def header(descr="'<f4'", shape="(4,)") -> bytes:
    return f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()


HEADERS = {
    "a tebibyte": header(shape="(1099511627776,)"),
    "no end": header(shape=f"({'9' * 300},)"),
    "a negative side": header(shape="(-4,)"),
    "objects": header("'|O'"),
    "texts": header("'<U4'"),
    "void, as numpy saves bfloat16": header("'<V2'"),
    "fields": header("[('a', '<f4')]"),
    "code": header("__import__('os').system('touch mark')"),
    "brackets": b"(" * 60_000,
    "nothing": b"",
}


@pytest.mark.parametrize("start", HEADERS.values(), ids=HEADERS)
def test_npz_headers_that_are_wrong(tmp_path, start):
    (tmp_path / "w").write_bytes(npz(header(), FOUR.tobytes()))
    same(read_weights(tmp_path / "w").arrays, {"w": FOUR})
    refused(tmp_path, npz(start, FOUR.tobytes()), "has not the size|no array of numbers")


def test_zip_bombs(tmp_path):
    zeros = bytes(100_000_000)
    flat = header("'|u1'", f"({len(zeros)},)")
    tracemalloc.start()
    bomb = npz(flat, zeros, compression=zipfile.ZIP_DEFLATED, compresslevel=1)
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    refused(tmp_path, bomb, "over 50 times its size")
    assert tracemalloc.get_traced_memory()[1] - before < LARGE
    tracemalloc.stop()
    refused(tmp_path, npz(header(), compression=zipfile.ZIP_LZMA), "compressed in an unknown way")
    # The directory's word on the sizes, changed.
    for field in (20, 24):
        lie = bytearray(npz(header(), FOUR.tobytes()))
        at = lie.index(b"PK\1\2") + field
        lie[at : at + 4] = struct.pack("<I", 2**31)
        refused(tmp_path, bytes(lie), "beyond its end|in an unknown way|over 50 times")


def test_safetensors_headers_that_are_wrong(tmp_path):
    def content(text: str, data: bytes = FOUR.tobytes()) -> bytes:
        return struct.pack("<Q", len(text)) + text.encode() + data

    good = '{"w":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}'
    (tmp_path / "w").write_bytes(content(good))
    same(read_weights(tmp_path / "w").arrays, {"w": FOUR})
    wrong = {
        "[4]": ["[5]", "[-4]", "[1099511627776]", "[4.0]", '["4"]', "[4294967296,4294967296,4]"],
        "[0,16]": ["[0,17]", "[4,16]", "[16,0]", "[0,1099511627776]", "[-1,15]"],
        '"F32"': ['"F64"', '"F31"', '"../F32"', "3"],
        "}}": ["}", "}}" + "[" * 1_000_00],
    }
    for part, others in wrong.items():
        for other in others:
            refused(tmp_path, content(good.replace(part, other)), "no whole safetensors file")
    refused(tmp_path, content(good, b""), "no whole safetensors file")
    refused(tmp_path, struct.pack("<Q", 2**40) + b'{"a"', "format is none of those")


def test_what_is_no_weight_file(tmp_path):
    for content in (b"", b"\x89PNG\r\n\x1a\n" + bytes(50), b"PK", b"\x1f\x8b" + bytes(50)):
        refused(tmp_path, content, "format is none of those that are read")
    refused(tmp_path, pickle.dumps({"a": 1, "b": [2]}), r"no network under 'ema', .*holds 'a', 'b'")
    refused(tmp_path, pickle.dumps([1, 2]), "no network under .*it is no dict")
    refused(tmp_path, pickle.dumps({}), "no network under .*it holds none")
    refused(tmp_path, pickle.dumps({1: FOUR}), "name is no text")
    with pytest.raises(DataError, match="cannot be read: No such file"):
        read_weights(tmp_path / "nowhere.pkl")
    with pytest.raises(DataError, match="cannot be read: it is a folder, and a regular file"):
        read_weights(tmp_path)


# Damage.


@pytest.fixture
def sound(tmp_path):
    """A file of each format, and what is in it."""
    arrays = expected("tensors.pt")
    write_safetensors(tmp_path / "w.safetensors", arrays, {"some": "text"})
    plain = {n: a for n, a in arrays.items() if n != "bfloat16"}
    np.savez_compressed(tmp_path / "w.npz", **plain)
    made = {
        "w.safetensors": ((tmp_path / "w.safetensors").read_bytes(), arrays),
        "w.npz": ((tmp_path / "w.npz").read_bytes(), plain),
    }
    files = ("edm2.pkl", "edm-state.pt", "tensors.pt", "tensors.old.pt")
    return made | {f: ((DATA / f).read_bytes(), expected(f)) for f in files}


FILES = ["w.safetensors", "w.npz", "edm2.pkl", "edm-state.pt", "tensors.pt", "tensors.old.pt"]


@pytest.mark.parametrize("file", FILES)
def test_what_is_cut_is_refused(tmp_path, sound, file):
    content, _ = sound[file]
    for end in range(0, len(content), 97):
        refused(tmp_path, content[:end])


@pytest.mark.parametrize("file", FILES)
def test_flipped_bits_are_found_or_change_numbers_only(tmp_path, sound, file):
    """Archives have checksums; elsewhere a number may be another, or a name, but no size."""
    content, arrays = sound[file]
    path, rng = tmp_path / "flipped", random.Random(0)
    for _ in range(40):
        changed = bytearray(content)
        changed[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        path.write_bytes(changed)
        found = None
        with at_most(SLOW), contextlib.suppress(DataError):
            found = read_weights(path, key="state_dict").arrays
        if found is not None:
            assert sum(a.nbytes for a in found.values()) <= 4 * len(content)
            if zipfile.is_zipfile(path):
                same(found, arrays)
