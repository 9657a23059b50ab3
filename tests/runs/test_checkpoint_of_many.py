"""Checkpoints of states that are divided over devices and processes: one state, whatever holds it."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
import tensorstore as ts

from scmkit.errors import CheckpointError
from scmkit.runs import checkpoint, saver, saving
from scmkit.runs.saver import Saver

PREAMBLE = """
import hashlib, os, resource, signal, sys
from pathlib import Path
import jax, jax.numpy as jnp, jax.random as jr, numpy as np
# Gloo writes to standard output too.
sys.stdout = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
directory, port, count, index = Path(sys.argv[1]), *map(int, sys.argv[2:])
if count > 1:
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"127.0.0.1:{port}", count, index)
from scmkit.distribution import processes
from scmkit.distribution.layout import Layout
from scmkit.distribution.mesh import mesh_of
from scmkit.errors import CheckpointError
from scmkit.runs import checkpoint, saver
from scmkit.runs.array_writer import plans

def layout(text, devices=None):
    return Layout(mesh_of(text, devices), least=64)

def state(seed=0):
    keys = jr.split(jr.key(seed), 3)
    return {
        "weight": jr.normal(keys[0], (16, 24)),
        "moment": jr.normal(keys[1], (8, 16, 2)).astype(jnp.bfloat16),
        "float8": jnp.arange(64.0).astype(jnp.float8_e4m3fn),
        "bias": jnp.arange(3.0),
        "step": jnp.asarray(seed),
        "none": jnp.zeros((0, 8)),
        "key": keys[2],
        "numpy": np.arange(5),
    }

def sha(tree, at):
    whole = at.local({n: a for n, a in tree.items() if n != "numpy"}) | {"numpy": tree["numpy"]}
    found = hashlib.sha256()
    for name, leaf in sorted(whole.items()):
        leaf = jr.key_data(leaf) if name == "key" else leaf
        found.update(f"{name} {leaf.dtype} {leaf.shape}".encode() + np.asarray(leaf).tobytes())
    return found.hexdigest()

def told_error(step, tree):
    try:
        checkpoint.save(directory, step, tree)
    except CheckpointError as error:
        print(error, flush=True)
"""


def start(code, directory, *, count=1, devices=1):
    """The processes of a program, each with so many devices."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}"
    env = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", PREAMBLE + code, str(directory), str(port), str(count)]
    return [
        subprocess.Popen(
            [*command, str(i)], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for i in range(count)
    ]


def lines(code, directory, *, count=1, devices=1):
    """What each process of a program prints."""
    printed = []
    for process in start(code, directory, count=count, devices=devices):
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        printed.append(out.splitlines())
    return printed


RESTORED = """
at = layout(TEXT, jax.devices()[:DEVICES])
like = at.like(state()) | {"numpy": np.arange(5)}
tree = checkpoint.restore(checkpoint.latest(directory), like)
for name in ("weight", "moment", "bias", "key"):
    assert tree[name].sharding.is_equivalent_to(like[name].sharding, tree[name].ndim), name
print(sha(tree, at))
"""


def restored(text, devices):
    return RESTORED.replace("TEXT", repr(text)).replace("DEVICES", str(devices))


def test_a_divided_state_is_on_disk_once_and_read_on_any_mesh(tmp_path):
    code = """
two = layout("data=2,fsdp=4")
tree = two.placed(state(3)) | {"numpy": np.arange(5)}
assert len({s.data.shape for s in tree["weight"].addressable_shards} | {(16, 6)}) == 1
checkpoint.save(directory, 1, tree)
print(sha(tree, two))
one = checkpoint.restore(checkpoint.latest(directory), state() | {"numpy": np.arange(5)})
print(sha(one, layout(None, jax.devices()[:1])))
"""
    for text, devices in (("fsdp=1", 1), ("data=8", 8), ("fsdp=8", 8), ("data=2,fsdp=2", 4)):
        code += restored(text, devices)
    assert len(set(lines(code, tmp_path, devices=8)[0])) == 1
    arrays = checkpoint.latest(tmp_path) / "arrays"
    parts = {p.name: sorted(f.name for f in p.iterdir()) for p in arrays.iterdir()}
    assert parts["weight"] == ["0.0", "0.1", "0.2", "0.3", "zarr.json"]
    assert parts["bias"] == ["0", "zarr.json"]
    assert parts["none"] == ["zarr.json"]
    # Each part ends with a checksum of 4 bytes.
    assert sum(f.stat().st_size - 4 for f in (arrays / "weight").glob("0.*")) == 4 * 16 * 24
    assert checkpoint.problem(arrays.parent) is None
    spec = {"driver": "zarr3", "kvstore": f"file://{arrays}/weight/"}
    found = ts.open(spec).result().read().result()
    np.testing.assert_array_equal(found, jr.normal(jr.split(jr.key(3), 3)[0], (16, 24)))
    # A part that is lost does not read as zeros.
    (arrays / "weight/0.2").unlink()
    assert "weight/0.2" in (checkpoint.problem(arrays.parent) or "")


SAVED = """
saver.WORTHWHILE = 0
at = layout("data=2,fsdp=2")
tree = at.placed(state(3)) | {"numpy": np.arange(5)}
# Both processes hold both halves, and each writes one.
assert len(plans(tree)["weight"].parts) == 1
path = checkpoint.save(directory, 1, tree)
assert checkpoint.digest(path) == checkpoint.digest(checkpoint.save(directory, 1, tree))
beside = saver.Saver()
assert beside.save(directory, 2, tree, metadata={"by": count}, keep=1).name == "00000002"
beside.wait()
assert checkpoint.metadata(checkpoint.latest(directory)) == {"by": count}
print(sha(tree, at))
"""


@pytest.mark.slow
def test_saved_by_two_processes_and_read_by_one_and_by_four(tmp_path):
    (first,), (second,) = lines(SAVED, tmp_path, count=2, devices=2)
    assert first == second
    assert sorted(os.listdir(tmp_path)) == ["00000002"]
    assert sorted(os.listdir(tmp_path / "00000002")) == ["COMMIT.json", "arrays"]
    assert lines(restored("fsdp=1", 1), tmp_path) == [[first]]
    assert lines(restored("fsdp=4", 4), tmp_path, count=4) == [[first]] * 4
    damage = tmp_path / "00000002/arrays/weight/0.1"
    damage.write_bytes(damage.read_bytes()[::-1])
    code = f"try:{restored('fsdp=2', 2)}except CheckpointError as error: print(error)".replace(
        "\n", "\n    "
    ).replace("    except", "except")
    found = lines(code, tmp_path, count=2)
    assert sum("file 'arrays/weight/0.1' is damaged" in "".join(told) for told in found) == 2


def test_an_error_of_one_process_is_an_error_of_all(tmp_path):
    code = """
tree = layout("fsdp=4").placed(state(1))
checkpoint.save(directory, 1, tree)
if index == 1:
    resource.setrlimit(resource.RLIMIT_FSIZE, (50, resource.RLIM_INFINITY))
told_error(2, tree)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
if index == 0:
    checkpoint.Saving._commit = None
told_error(3, tree)
"""
    for told in lines(code, tmp_path, count=2, devices=2):
        assert len(told) == 2
        for step, line in zip((2, 3), told, strict=True):
            assert line.startswith(f"checkpoint {tmp_path}/{step:08d} cannot be written (")
            assert line.endswith("earlier checkpoints are untouched")
    assert checkpoint.steps(tmp_path) == [1]
    assert checkpoint.problem(tmp_path / "00000001") is None
    assert sorted(os.listdir(tmp_path)) == ["00000001"]


KILLED = """
tree = layout("fsdp=4").placed(state(1))
checkpoint.save(directory, 1, tree)
meet = processes.meet
def dying(name, *rest):
    if index == VICTIM and name.endswith("/MEETING"):
        os.kill(os.getpid(), signal.SIGKILL)
    return meet(name, *rest)
processes.meet = dying
SAVE
"""

SAVES = {
    "at once": "checkpoint.save(directory, 2, tree)",
    "beside": """
saver.WORTHWHILE = 0
beside = saver.Saver()
beside.save(directory, 2, tree)
beside.wait()
""",
}


@pytest.mark.parametrize("victim", [0, 1])
@pytest.mark.parametrize(
    "meeting",
    [
        pytest.param("created", marks=pytest.mark.slow),
        "written",
        pytest.param("committed", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("save", ["at once", pytest.param("beside", marks=pytest.mark.slow)])
def test_a_kill_at_a_meeting_leaves_the_previous_checkpoint(tmp_path, save, meeting, victim):
    code = KILLED.replace("VICTIM", str(victim)).replace("MEETING", meeting)
    code = code.replace("SAVE", SAVES[save])
    running = start(code, tmp_path, count=2, devices=2)
    assert running[victim].wait(timeout=120) == -signal.SIGKILL
    for process in running:
        process.kill()
        process.communicate()
    # Killed after the new checkpoint was in place, all that is lost is the news of it.
    found = checkpoint.steps(tmp_path)
    assert found in (([1], [1, 2]) if meeting == "committed" else ([1],))
    for step in found:
        assert checkpoint.problem(tmp_path / f"{step:08d}") is None
    checkpoint.save(tmp_path, 3, {"a": jnp.ones(2)}, keep=1)
    assert sorted(os.listdir(tmp_path)) == ["00000003"]


@pytest.fixture
def held(monkeypatch):
    """Nothing is committed before this event."""
    event, commit = threading.Event(), saving.commit
    monkeypatch.setattr(saver, "WORTHWHILE", 0)
    monkeypatch.setattr(saving, "commit", lambda *a: event.wait(60) and commit(*a))
    yield event
    event.set()


def test_training_goes_on_while_a_checkpoint_is_written(tmp_path, held):
    tree = {"a": jnp.arange(1000.0), "b": np.arange(7)}
    record = {"faults": [1]}
    beside = Saver()
    path = beside.save(tmp_path, 1, tree, metadata=record)
    jax.jit(lambda t: t + 1, donate_argnums=0)(tree["a"])
    assert tree["a"].is_deleted()
    tree["b"] += 1
    record["faults"].append(2)
    assert checkpoint.steps(tmp_path) == []
    held.set()
    # The second save waits for the first.
    beside.save(tmp_path, 2, {"a": jnp.ones(3)})
    assert checkpoint.metadata(path) == {"faults": [1]}
    found = checkpoint.restore(path, {"a": jnp.zeros(1000), "b": np.zeros(7, int)})
    np.testing.assert_array_equal(found["a"], np.arange(1000.0))
    np.testing.assert_array_equal(found["b"], np.arange(7))
    beside.wait()
    beside.wait()
    assert checkpoint.steps(tmp_path) == [1, 2]


def test_an_error_beside_training_is_raised_once_at_the_next_call(tmp_path, held):
    held.set()
    beside = Saver()
    beside.save(tmp_path, 1, {"a": jnp.ones(3)}, metadata={"loss": float("nan")})
    with pytest.raises(CheckpointError, match="00000001 cannot be written"):
        beside.save(tmp_path, 2, {"a": jnp.ones(3)})
    beside.wait()
    with pytest.raises(CheckpointError, match="leaf 'names'"):
        beside.save(tmp_path, 2, {"names": np.array(["a"])})
    with contextlib.suppress(FileNotFoundError):
        assert os.listdir(tmp_path) == []


def test_a_small_state_is_saved_at_once(tmp_path):
    beside = Saver()
    beside.save(tmp_path, 1, {"a": jnp.ones(3)})
    assert checkpoint.steps(tmp_path) == [1]
