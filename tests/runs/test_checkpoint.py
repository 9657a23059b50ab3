"""Checkpoints: exact, whole or not at all, and never silently wrong."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
import tensorstore as ts

from scmkit.errors import CheckpointError
from scmkit.runs import checkpoint
from scmkit.runs.arrays import named_leaves
from scmkit.runs.recovery import recover


def bits(tree):
    """Every array leaf as `(dtype, shape, bytes)`."""

    def one(leaf):
        kind = str(leaf.dtype)
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jr.key_data(leaf)
        return kind, leaf.shape, np.asarray(leaf).tobytes()

    return [one(x) for x in jax.tree.leaves(tree) if eqx.is_array(x) or isinstance(x, np.generic)]


class Small(eqx.Module):
    weight: jax.Array
    blocks: list[jax.Array]
    activation: object
    slope: float


def small(seed=0):
    keys = jr.split(jr.key(seed), 3)
    blocks = [jr.normal(keys[0], (3, 4)), jnp.zeros((5,))]
    return Small(jr.normal(keys[1], (64,)), blocks, jax.nn.silu, 0.5)


def state(seed=0):
    return {"step": jnp.asarray(seed), "key": jr.key(seed), "players": {"g": small(seed)}}


def files(path):
    return sorted(p for p in path.rglob("*") if p.is_file())


DTYPES = [
    *("bool", "int4", "int8", "uint8", "int16", "uint16", "int32", "uint32"),
    *("float8_e4m3fn", "float8_e5m2", "float16", "bfloat16", "float32", "complex64"),
]


@pytest.mark.parametrize("dtype", DTYPES)
def test_round_trip_is_bitwise(tmp_path, dtype):
    # Random bits: every NaN payload, infinity, subnormal and negative zero.
    size = jnp.dtype(dtype).itemsize
    raw = np.random.default_rng(0).integers(0, 256, (17, 5, size), np.uint8)
    if dtype in ("bool", "int4"):
        raw %= 2  # int4 keeps a nibble in a byte
    values = raw.view(jnp.dtype(dtype))[..., 0]
    arrays = (values, values[3, 2], values[0].copy(), values[:0])
    tree = {"numpy": list(arrays), "jax": [jnp.asarray(a) for a in arrays]}
    path = checkpoint.save(tmp_path, 1, tree)
    restored = checkpoint.restore(path, tree)
    assert bits(restored) == bits(tree)
    assert [type(x) for x in restored["numpy"]] == [type(x) for x in arrays]
    again = checkpoint.restore(path, jax.tree.map(lambda a: jax.ShapeDtypeStruct(*shape(a)), tree))
    assert bits(again) == bits(tree)
    assert all(isinstance(x, jax.Array) for x in jax.tree.leaves(again))


def shape(array):
    return array.shape, array.dtype


def test_numpy_leaves_of_64_bits_and_foreign_byte_order(tmp_path):
    tree = {
        "wide": np.array([np.pi, -0.0]),
        "count": np.int64(2**53 + 1),
        "big": np.arange(4, dtype=">i4"),
    }
    path = checkpoint.save(tmp_path, 1, tree)
    restored = checkpoint.restore(path, tree)
    assert bits([restored["wide"], restored["count"]]) == bits([tree["wide"], tree["count"]])
    np.testing.assert_array_equal(restored["big"], tree["big"])
    with pytest.raises(CheckpointError, match="leaf 'wide' is float64; set JAX_ENABLE_X64"):
        checkpoint.restore(path, tree | {"wide": jax.ShapeDtypeStruct((2,), np.float64)})


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
def test_keys(tmp_path, impl):
    tree = {"one": jr.key(3, impl=impl), "many": jr.split(jr.key(4, impl=impl), 6)}
    path = checkpoint.save(tmp_path, 1, tree)
    restored = checkpoint.restore(path, eqx.filter_eval_shape(lambda: tree))
    assert bits(restored) == bits(tree)
    assert jr.key_impl(restored["one"]) == impl
    other = {"one": jr.key(0, impl="unsafe_rbg"), "many": tree["many"]}
    with pytest.raises(CheckpointError, match="leaf 'one'"):
        checkpoint.restore(path, other)


def test_module_keeps_what_is_no_array_and_reads_a_part(tmp_path):
    tree = state(3)
    path = checkpoint.save(tmp_path, 1000, tree, metadata={"loader": (1, {"epoch": 2, 5: None})})
    assert path == tmp_path / "00001000"
    like = eqx.filter_eval_shape(state, 0)
    restored = checkpoint.restore(path, like)
    assert bits(restored) == bits(tree)
    assert restored["players"]["g"].activation is jax.nn.silu
    part = checkpoint.restore(path, like["players"]["g"], prefix="players/g")
    assert bits(part) == bits(tree["players"]["g"])
    assert checkpoint.restore(path, like["step"], prefix="step") == 3
    assert checkpoint.metadata(path) == {"loader": [1, {"epoch": 2, "5": None}]}
    assert re.fullmatch("[0-9a-f]{64}", checkpoint.digest(path))
    # Damage elsewhere does not stop the part from being read.
    (path / "arrays/step/0").write_bytes(b"")
    assert bits(checkpoint.restore(path, part, prefix="players/g")) == bits(part)


def test_empty_tree_and_lone_leaf(tmp_path):
    assert checkpoint.restore(checkpoint.save(tmp_path, 0, {}), {}) == {}
    path = checkpoint.save(tmp_path, 1, jnp.arange(3))
    assert bits(checkpoint.restore(path, jnp.zeros(3, int))) == bits(jnp.arange(3))


def test_any_zarr_reader_can_open_the_arrays(tmp_path):
    path = checkpoint.save(tmp_path, 1, state())
    spec = {"driver": "zarr3", "kvstore": f"file://{path}/arrays/players/g/blocks/0/"}
    np.testing.assert_array_equal(ts.open(spec).result().read().result(), small().blocks[0])


@jax.tree_util.register_pytree_with_keys_class
class Twins:
    """A node whose children differ only in what a name does not show."""

    def __init__(self, *children):
        self.children = children

    def tree_flatten_with_keys(self):
        entries = (jax.tree_util.DictKey(1), jax.tree_util.DictKey("1"))
        return tuple(zip(entries, self.children, strict=True)), None

    @classmethod
    def tree_unflatten(cls, _, children):
        return cls(*children)


def test_names_are_readable_safe_and_unique(tmp_path):
    keys = [
        *(
            "plain",
            "A",
            "a",
            "a~1",
            "a/b",
            "..",
            ".",
            "",
            "%",
            "zarr.json",
            "x.__lock",
            "COMMIT.json",
        ),
        *("0", "c", "é ü", "\ud800", "nul\0", "a" * 400, "a" * 401, "\\", "CON", "new\nline"),
    ]
    tree: dict[str, Any] = {k: {"w": jnp.asarray(float(i))} for i, k in enumerate(keys)}
    tree["twins"] = Twins(jnp.asarray(1), {"x": jnp.asarray(2)})
    names = [name for name, _ in named_leaves(tree)]
    assert len({name.casefold() for name in names}) == len(names)
    assert "plain/w" in names
    assert all(0 < len(part) < 255 for name in names for part in name.split("/"))
    path = checkpoint.save(tmp_path / "ck", 1, tree)
    restored = checkpoint.restore(path, tree)
    assert bits(restored) == bits(tree)
    assert os.listdir(tmp_path) == ["ck"]
    # A part's names are the same as in the whole, whatever stands beside it.
    for case in ("A", "a"):
        prefix = next(n for n, leaf in named_leaves(tree) if leaf is tree[case]["w"])[:-2]
        assert bits(checkpoint.restore(path, tree[case], prefix=prefix)) == bits(tree[case])


def test_keeps_the_newest_and_cleans_up(tmp_path):
    for step in range(5):
        checkpoint.save(tmp_path, step, state(step), keep=3)
    assert checkpoint.steps(tmp_path) == [2, 3, 4]
    checkpoint.save(tmp_path, 5, state(5), keep=0)
    assert checkpoint.steps(tmp_path) == [2, 3, 4, 5]
    # What was saved after going back is kept, and so is what lies ahead of it.
    checkpoint.save(tmp_path, 3, state(30), keep=1)
    assert checkpoint.steps(tmp_path) == [3, 4, 5]
    assert bits(checkpoint.restore(tmp_path / "00000003", state())) == bits(state(30))
    checkpoint.save(tmp_path, 123456789, state(), keep=1)
    assert checkpoint.latest(tmp_path) == tmp_path / "123456789"
    (tmp_path / ".tmp-00000077/arrays").mkdir(parents=True)
    (tmp_path / "00000099").mkdir()
    (tmp_path / "notes").mkdir()
    assert checkpoint.steps(tmp_path) == [123456789]
    checkpoint.save(tmp_path, 123456790, state(), keep=1)
    assert sorted(os.listdir(tmp_path)) == ["00000099", "123456790", "notes"]


def test_replacement_cut_short_is_finished(tmp_path):
    path = checkpoint.save(tmp_path, 7, state(1))
    path.rename(tmp_path / "00000007.old")
    assert checkpoint.steps(tmp_path) == [7]
    assert bits(checkpoint.restore(checkpoint.latest(tmp_path), state())) == bits(state(1))
    checkpoint.save(tmp_path, 8, state(2))
    assert checkpoint.latest(tmp_path) == tmp_path / "00000008"
    assert sorted(os.listdir(tmp_path)) == ["00000007", "00000008"]
    shutil.copytree(path, tmp_path / "00000007.old")
    checkpoint.save(tmp_path, 9, state(3))
    assert sorted(os.listdir(tmp_path)) == ["00000008", "00000009"]


def test_reading_goes_on_where_training_removes_what_is_read(tmp_path):
    checkpoint.save(tmp_path, 1, state(1))

    def read(path):
        if path.name == "00000001":
            checkpoint.save(tmp_path, 2, state(2), keep=1)
        return checkpoint.restore(path, state())

    assert bits(checkpoint.of_latest(tmp_path, read)) == bits(state(2))
    (tmp_path / "00000002/arrays/step/0").write_bytes(b"")
    with pytest.raises(CheckpointError, match="instead of"):
        checkpoint.of_latest(tmp_path, read)


def test_notes_are_beside_the_digest(tmp_path):
    one, other = (
        checkpoint.save(tmp_path / str(n), 1, state(), notes={"seconds": n}) for n in (1, 2)
    )
    assert checkpoint.digest(one) == checkpoint.digest(other)
    assert [checkpoint.notes(path) for path in (one, other)] == [{"seconds": 1}, {"seconds": 2}]
    (one / "notes.json").write_text("[")
    assert checkpoint.notes(one) == {}
    assert checkpoint.problem(one) is None


def test_digest_changes_with_any_leaf_or_metadata(tmp_path):
    digest = checkpoint.digest(checkpoint.save(tmp_path / "a", 1, state()))
    assert digest == checkpoint.digest(checkpoint.save(tmp_path / "b", 1, state()))
    assert digest != checkpoint.digest(checkpoint.save(tmp_path / "c", 1, state(1)))
    assert digest != checkpoint.digest(
        checkpoint.save(tmp_path / "d", 1, state(), metadata={"a": 1})
    )


def one_line(error):
    message = str(error.value)
    assert "\n" not in message
    return message


def test_every_flipped_bit_is_detected(tmp_path):
    checkpoint.save(tmp_path, 1, state(1))
    path = checkpoint.save(tmp_path, 2, state(2), metadata={"note": "text"})
    rng = random.Random(0)
    chosen = [rng.choice(files(path)) for _ in range(30)] + [path / "COMMIT.json"] * 10
    for file in chosen:
        good = file.read_bytes()
        bad = bytearray(good)
        bad[rng.randrange(len(bad))] ^= 1 << rng.randrange(8)
        file.write_bytes(bad)
        with pytest.raises(CheckpointError) as error:
            checkpoint.restore(path, state())
        message = one_line(error)
        assert str(file.relative_to(path)) in message or "has format" in message
        assert f"the newest other good one is {tmp_path / '00000001'}" in message
        file.write_bytes(good)
    assert bits(checkpoint.restore(path, state())) == bits(state(2))


def test_truncated_missing_and_foreign_files(tmp_path):
    path = checkpoint.save(tmp_path, 1, state())
    for file in files(path):
        good = file.read_bytes()
        for damage in (lambda f: f.write_bytes(good[:-1]), lambda f: f.unlink()):  # noqa: B023
            damage(file)
            with pytest.raises(CheckpointError) as error:
                checkpoint.restore(path, state())
            message = one_line(error)
            assert str(file.relative_to(path)) in message
            assert "restore a backup or train again" in message
            file.write_bytes(good)
    manifest = path / "COMMIT.json"
    good = manifest.read_bytes()
    manifest.write_text(json.dumps(json.loads(good) | {"format": 2}))
    with pytest.raises(CheckpointError, match="has format 2, and this scmkit reads format 1"):
        checkpoint.restore(path, state())
    for text in ("[]", "{}", "null", "\xff", ""):
        manifest.write_text(text, encoding="latin-1")
        for use in (checkpoint.metadata, checkpoint.digest):
            with pytest.raises(CheckpointError, match=r"COMMIT\.json is damaged"):
                use(path)


def test_what_is_asked_for_must_be_what_was_saved(tmp_path):
    path = checkpoint.save(tmp_path, 1, state())
    model = small()

    def asking(g, **more):
        return {**state(), "players": {"g": g}, **more}

    wide = eqx.tree_at(lambda m: m.blocks[0], model, jnp.zeros((3, 5)))
    half = eqx.tree_at(lambda m: m.weight, model, model.weight.astype(jnp.float16))
    fewer = eqx.tree_at(lambda m: m.blocks, model, model.blocks[:1])
    for like, words in [
        (asking(wide), r"'players/g/blocks/0' as float32\[3,4\], and float32\[3,5\] is asked for"),
        (asking(half), r"'players/g/weight' as float32\[64\], and float16\[64\] is asked for"),
        (asking(fewer), r"holds leaf 'players/g/blocks/1', which is not asked for"),
        (asking(model, extra=jnp.ones(2)), r"has no leaf 'extra'"),
    ]:
        with pytest.raises(CheckpointError, match=words) as error:
            checkpoint.restore(path, like)
        one_line(error)
    with pytest.raises(CheckpointError, match=r"has no leaf 'players/x/weight'"):
        checkpoint.restore(path, model, prefix="players/x")


def test_wrong_places(tmp_path):
    with pytest.raises(CheckpointError, match="holds no complete checkpoint"):
        checkpoint.latest(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="does not exist"):
        checkpoint.metadata(tmp_path / "00000001")
    path = checkpoint.save(tmp_path, 1, state())
    with pytest.raises(CheckpointError, match=rf"has no COMMIT\.json.* good one is {path}"):
        checkpoint.restore(tmp_path, state())
    for metadata in ({"loss": float("nan")}, {"x": object()}):
        with pytest.raises(CheckpointError, match="cannot be written"):
            checkpoint.save(tmp_path, 2, state(), metadata=metadata)
    with pytest.raises(CheckpointError, match="leaf 'names' has dtype <U1"):
        checkpoint.save(tmp_path, 2, {"names": np.array(["a"])})
    with pytest.raises(CheckpointError, match="cannot be written"):
        checkpoint.save(path / "COMMIT.json", 2, state())
    assert sorted(os.listdir(tmp_path)) == ["00000001"]


PREAMBLE = """
import sys
from pathlib import Path
import jax, jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec as P
from scmkit.errors import CheckpointError
from scmkit.runs import checkpoint
directory = Path(sys.argv[1])
"""


def python(code, directory, *, devices=1):
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}"
    env = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", PREAMBLE + code, str(directory)]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True)


def output(process):
    text, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    return text


def test_a_full_disk_leaves_earlier_checkpoints(tmp_path):
    code = """
import resource
tree = {"small": jnp.ones(4), "large": jnp.ones(1 << 16)}
checkpoint.save(directory, 1, tree)
for limit in (100, 1 << 17):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        checkpoint.save(directory, 2, tree)
    except CheckpointError as error:
        print(error)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
checkpoint.restore(checkpoint.latest(directory), tree)
checkpoint.save(directory, 3, tree)
print(checkpoint.steps(directory))
"""
    lines = output(python(code, tmp_path)).splitlines()
    assert len(lines) == 3
    for line in lines[:2]:
        assert line.startswith(f"checkpoint {tmp_path / '00000002'} cannot be written (")
        assert "free some space" in line
    assert lines[2] == "[1, 3]"
    assert sorted(os.listdir(tmp_path)) == ["00000001", "00000003"]


def test_a_killed_writer_leaves_a_good_checkpoint(tmp_path):
    code = """
known = checkpoint.steps(directory)
step = known[-1] if known else 0
print("ready", flush=True)
while True:
    # Every other save replaces a checkpoint of the same step.
    for _ in range(2):
        checkpoint.save(directory, step, [jnp.full((64, 64), step) for _ in range(12)])
    step += 1
"""
    rng = random.Random(0)
    like = [jax.ShapeDtypeStruct((64, 64), jnp.int32)] * 12
    seen = [0]
    for round in range(6):
        process = python(code, tmp_path)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        while round == 0 and len(checkpoint.steps(tmp_path)) < 2:
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.25))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        for step in checkpoint.steps(tmp_path):
            path = next(p for p in tmp_path.glob(f"{step:08d}*") if (p / "COMMIT.json").exists())
            for leaf in checkpoint.restore(path, like):
                np.testing.assert_array_equal(leaf, step)
        known = checkpoint.steps(tmp_path)
        assert round == 0 or known, "a checkpoint was lost"
        assert known[-1] >= seen[-1]
        seen.append(known[-1])
    checkpoint.save(tmp_path, seen[-1] + 1, [jnp.zeros(1)])
    assert sorted(os.listdir(tmp_path)) == [f"{s:08d}" for s in checkpoint.steps(tmp_path)]


def test_saved_on_four_devices_restored_on_one_and_two(tmp_path):
    setup = """
def tree(devices, spec):
    mesh = jax.make_mesh((devices,), ("d",), devices=jax.devices()[:devices])
    values = {"x": jnp.arange(64.0).reshape(8, 8), "key": jax.random.split(jax.random.key(0), 8)}
    return jax.device_put(values, NamedSharding(mesh, spec))
def check(tree, count):
    for leaf in jax.tree.leaves(tree):
        assert len(leaf.sharding.device_set) == count, leaf.sharding
    assert (tree["x"] == jnp.arange(64.0).reshape(8, 8)).all()
    assert (jax.random.key_data(tree["key"]) == jax.random.key_data(values["key"])).all()
values = {"key": jax.random.split(jax.random.key(0), 8)}
"""
    save = """
checkpoint.save(directory, 1, tree(4, P("d")))
check(checkpoint.restore(checkpoint.latest(directory), tree(2, P("d"))), 2)
shapes = jax.eval_shape(lambda: tree(4, P()))
check(checkpoint.restore(checkpoint.latest(directory), shapes), 1)
"""
    output(python(setup + save, tmp_path, devices=4))
    load = """
like = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=a.sharding), tree(N, P("d")))
check(checkpoint.restore(checkpoint.latest(directory), like), N)
"""
    for count in (1, 2):
        output(python(setup + load.replace("N", str(count)), tmp_path, devices=count))


def test_restored_leaves_are_placed_only_where_like_is(tmp_path):
    free, placed = jnp.ones(3), jax.device_put(jnp.ones(3), jax.devices()[0])
    path = checkpoint.save(tmp_path, 1, [free, placed])
    assert [x.committed for x in checkpoint.restore(path, [free, placed])] == [False, True]


def test_one_out_of_turn_stays_until_the_next(tmp_path):
    """And takes the place of none that was planned, also where a crash came before the removal."""
    tree = {"a": jnp.arange(3.0)}
    for step, planned in ((5, True), (7, False), (8, False)):
        checkpoint.save(tmp_path, step, tree, keep=1, planned=planned)
    assert checkpoint.steps(tmp_path) == [5, 8]
    assert checkpoint.newest_planned(tmp_path) == tmp_path / "00000005"
    assert checkpoint.metadata(tmp_path / "00000008") == {"planned": False}
    assert recover(tmp_path, keep=1) == []
    assert checkpoint.steps(tmp_path) == [5, 8]
    checkpoint.save(tmp_path, 10, tree, keep=1)
    assert checkpoint.steps(tmp_path) == [10]
