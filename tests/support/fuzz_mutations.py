"""Files made slightly wrong: bytes changed, and values replaced within JSON and zip archives."""

import io
import json
import random
import warnings
import zipfile
from collections.abc import Callable
from typing import Any

ODD = (None, True, -1, 0, 1 << 31, 1 << 63, 10**40, 1e308, float("nan"), "", "..", "/etc/passwd")
ODD += (
    "../" * 9 + "x",
    "\0",
    "os:system",
    "a" * 5000,
    "\ud800",
    "\n",
    [],
    {},
    [[]],
    "1e999",
    "gzip",
)
DEEP = "deep"
"""Stands for what is nested so deeply that `json.dumps` would not write it."""
TOKENS = (
    b"\0",
    b"\xff" * 8,
    b"\x7f\xff\xff\xff",
    b"../",
    b"/",
    b"NaN",
    b"-",
    b"9" * 5000,
    b"\n",
    b"=",
)
TOKENS += (
    b"[" * 2000,
    b'{"a":' * 2000,
    b"a." * 10_000,
    b"cos\nsystem\n",
    b"\x93NUMPY",
    b"PK\3\4",
    b"R",
    b".",
)
METHODS = (zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA)


def changed(data: bytes, random: random.Random) -> bytes:
    """The data with some bytes changed."""
    at, length = random.randrange(len(data) + 1), random.choice((1, 1, 2, 4, 8, 64))
    kind = random.randrange(6)
    if kind == 0:
        return data[:at]
    if kind == 1:
        return data[:at] + data[at + length :]
    if kind == 2:
        return data[:at] + random.choice(TOKENS) + data[at:]
    if kind == 3:
        return data[:at] + data[at : at + length] * 3 + data[at + length :]
    if kind == 4:
        return data[:at] + random.randbytes(length) + data[at + length :]
    flipped = bytes(b ^ 1 << random.randrange(8) for b in data[at : at + 1])
    return data[:at] + flipped + data[at + 1 :]


Change = Callable[[bytes, random.Random], bytes]


def mutated(data: bytes, random: random.Random, change: Change = changed) -> bytes:
    """The data with one to four changes; `change` makes those of bytes."""
    for _ in range(random.choice((1, 1, 2, 4))):
        inner = None
        if random.random() < 0.5:
            if data[:1] in (b"{", b"["):
                inner = _json(data, random)
            elif data[8:9] == b"{":
                inner = _framed(data, random, change)
            elif data.startswith(b"PK"):
                inner = _zip(data, random, change)
        data = change(data, random) if inner is None else inner
    return data


def _framed(data: bytes, random: random.Random, change: Change) -> bytes:
    """Safetensors: the length of JSON, that, and the rest; the length fits what has become of it."""
    end = 8 + int.from_bytes(data[:8], "little")
    header = data[8:end]
    inner = _json(header, random) or change(header, random)
    return len(inner).to_bytes(8, "little") + inner + data[end:]


def _json(data: bytes, random: random.Random) -> bytes | None:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return None
    places: list[tuple[Any, Any]] = []
    left = [value]
    while left:
        node = left.pop()
        keys = range(len(node)) if isinstance(node, list) else list(node)
        places += [(node, key) for key in keys]
        left += [node[key] for key in keys if isinstance(node[key], dict | list)]
    if not places:
        return None
    node, key = random.choice(places)
    kind = random.randrange(5)
    if kind == 0:
        del node[key]
    elif kind == 1 and isinstance(node, dict):
        node[str(random.choice(ODD))] = node.pop(key)
    elif kind == 2:
        other, where = random.choice(places)
        # A copy: a value within itself is no JSON.
        node[key] = json.loads(json.dumps(other[where])) if where in _keys(other) else None
    else:
        node[key] = random.choice(ODD) if kind == 3 else DEEP
    levels, (start, end) = random.choice((200, 100_000)), random.choice(("[]", ('{"":', "0}")))
    nested = start * levels + end[:-1] + end[-1] * levels
    return json.dumps(value).replace(f'"{DEEP}"', nested).encode()


def _keys(node: Any) -> Any:
    return range(len(node)) if isinstance(node, list) else node


def _zip(data: bytes, random: random.Random, change: Change) -> bytes | None:
    buffer = io.BytesIO()
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(buffer, "w") as new:
            names = old.namelist()
            chosen = random.choice(names)
            for name in names:
                content = old.read(name)
                if name == chosen:
                    content = change(content, random)
                    if random.random() < 0.1:
                        name = random.choice(("../x.npy", "/x.npy", "", *names))
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    method = random.choice((zipfile.ZIP_STORED,) * 18 + METHODS)
                    new.writestr(name, content, method)
    # Whatever zipfile raises for an archive that changes before have broken.
    except Exception:
        return None
    return buffer.getvalue()
