"""Files made slightly wrong: bytes changed, and values replaced within JSON and zip archives."""

import io
import json
import random
import warnings
import zipfile
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
    b"a." * 500,
    b"cos\nsystem\n",
    b"\x93NUMPY",
    b"PK\3\4",
    b"R",
    b".",
)


def mutated(data: bytes, random: random.Random) -> bytes:
    """The data with one to four changes."""
    for _ in range(random.choice((1, 1, 2, 4))):
        kind = random.random()
        changed = None
        if kind < 0.5 and data[:1] in (b"{", b"["):
            changed = _json(data, random)
        elif kind < 0.5 and data.startswith(b"PK"):
            changed = _zip(data, random)
        data = _bytes(data, random) if changed is None else changed
    return data


def _bytes(data: bytes, random: random.Random) -> bytes:
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
    kind = random.randrange(4)
    if kind == 0:
        del node[key]
    elif kind == 1 and isinstance(node, dict):
        node[str(random.choice(ODD))] = node.pop(key)
    elif kind == 2:
        other, where = random.choice(places)
        # A copy: a value within itself is no JSON.
        node[key] = json.loads(json.dumps(other[where])) if where in _keys(other) else None
    else:
        node[key] = random.choice(ODD)
    return json.dumps(value).encode()


def _keys(node: Any) -> Any:
    return range(len(node)) if isinstance(node, list) else node


def _zip(data: bytes, random: random.Random) -> bytes | None:
    buffer = io.BytesIO()
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(buffer, "w") as new:
            names = old.namelist()
            chosen = random.choice(names)
            for name in names:
                content = old.read(name)
                if name == chosen:
                    content = _bytes(content, random)
                    if random.random() < 0.1:
                        name = random.choice(("../x.npy", "/x.npy", "", *names))
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    new.writestr(name, content)
    # Whatever zipfile raises for an archive that changes before have broken.
    except Exception:
        return None
    return buffer.getvalue()
