"""The command for a GPU: its plan, its processes and what it keeps, and a rehearsal of everything."""

import json
import os
import subprocess
import sys
import zipfile
from dataclasses import asdict, replace
from pathlib import Path

import counting
import gpu_samples
import gpu_table
import jax
import jax.numpy as jnp
import method_steps
import numpy as np
import pytest
from gpu_stages import costs, images, plan, results, site
from gpu_stages.processes import PartFailed, Worker
from gpu_stages.run import Runner, table
from hypothesis import given
from hypothesis import strategies as st

from scmkit import attention
from scmkit.data import Store, StoreWriter
from scmkit.data.store import from_uint8
from scmkit.evaluation import DATA, Row
from scmkit.reporting.trials import PRESETS, Cell, Result

ROOT = Path(__file__).parents[2]

PARTS = """
import os, time

def good(context, n):
    for i in range(n):
        yield {"i": i, "line": f"row {i}"}

def bad(context):
    yield {"i": 0}
    raise ValueError("ptxas: 68 bytes spilled\\nand more")

def hangs(context):
    print("on stdout")
    yield {"i": 0}
    time.sleep(60)

def dies(context):
    yield {"i": 0}
    os._exit(3)
"""


@pytest.fixture
def env(tmp_path):
    (tmp_path / "fake_parts.py").write_text(PARTS)
    return os.environ | {"PYTHONPATH": str(tmp_path)}


@pytest.fixture
def runner(tmp_path, env, monkeypatch):
    """Runs fake parts as a visit to a card called `here`."""
    card = plan.Part("card", 1, "fake_parts:card")
    (tmp_path / "fake_parts.py").write_text(
        PARTS + "\ndef card(context):\n    yield {'card': 'here', 'environment': {}}\n"
    )
    monkeypatch.setattr("gpu_stages.run.CARD", card)

    def make(*parts, name="out", skip=(), budget=1e3):
        (tmp_path / name).mkdir()
        kept = results.Results(tmp_path / name / "results.json", {})
        recorded = results.Recorded(skip)
        made = Runner(kept, recorded, env, tmp_path / name, budget, False, None)
        assert made.run([plan.Stage("b", "fake", 1.0, parts)])
        return json.loads(kept.path.read_text())

    monkeypatch.setattr("gpu_stages.run.asdict", lambda c: vars(c) | {"rehearse": True})
    return make


def fake(name, seconds=5.0, after=None, **more):
    return plan.Part(name, seconds, f"fake_parts:{name}", more, after=after)


@given(st.floats(1, 5000), st.sets(st.sampled_from("abcdefg"), min_size=1))
def test_nothing_is_begun_that_does_not_fit(budget, letters):
    stages = plan.chosen(",".join(letters))
    now = 0.0
    for i, (stage, begun, end) in enumerate(plan.schedule(stages, budget)):
        assert now <= end <= budget or not begun
        least = sum(part.needs for part in begun)
        assert not begun or now + plan.STARTUP + least <= end + 1e-6
        # A stage leaves the later ones their share.
        assert i == len(stages) - 1 or end - now <= stage.share * budget + 1e-6
        now = end


def test_every_part_is_there_and_some_of_each_kind_are_rehearsed():
    for stage in plan.STAGES:
        assert len({part.name for part in stage.parts}) == len(stage.parts)
        kinds = {part.rows for part in stage.parts}
        assert kinds == {part.rows for part in stage.parts if part.rehearsed}
    with pytest.raises(ValueError, match="no stage 'h'"):
        plan.chosen("a,h")


def test_table_one_has_every_method_that_needs_no_stored_pairs():
    assert sorted(costs.METHODS) == sorted(["diffusion", *method_steps.methods()])
    first, *others = plan.STAGES[-1].parts
    assert first.given == {"method": "diffusion"}
    assert {part.after for part in others} == {first.name}


def test_rows_are_kept_whatever_becomes_of_a_part(runner, monkeypatch):
    monkeypatch.setattr(plan.Part, "limit", lambda self, left: 0.5 if self.name == "hangs" else 20)
    monkeypatch.setattr("gpu_stages.run.STARTUP", 1.0)
    found = runner(fake("bad"), fake("hangs"), fake("dies"), fake("good", n=2), fake("late", 2e3))
    by_name = {entry["part"]: entry for entry in found["parts"]}
    assert [entry["status"] for entry in found["parts"][1:]] == [
        *["failed"] * 3,
        "done",
        "not started",
    ]
    assert "ptxas: 68 bytes spilled\nand more" in by_name["bad"]["reason"]
    assert "killed" in by_name["hangs"]["reason"]
    assert by_name["dies"]["reason"] == "its process ended with exit code 3"
    assert all(by_name[name]["rows"][0]["i"] == 0 for name in ("bad", "hangs", "dies", "good"))
    assert "needs 2000 s" in by_name["late"]["reason"]
    shown = table(found["parts"])
    assert "row 1" in shown
    assert "and more" not in shown


def test_a_second_visit_does_the_next_thing(runner, tmp_path, monkeypatch):
    first = tmp_path / "first" / "results.json"
    runner(fake("bad"), fake("good", n=1), fake("late", 2e3), name="first")
    parts = [fake("bad"), fake("good", n=1), plan.Part("late", 5, "fake_parts:good", {"n": 3})]
    found = runner(*parts, name="second", skip=[first])
    # What was done is left out, and what failed is tried again after the rest.
    assert [entry["part"] for entry in found["parts"]] == ["card", "late", "bad"]
    assert [e["part"] for e in found["earlier"]] == ["card", "good"]
    monkeypatch.setattr(results, "kernels_digest", lambda: "other")
    assert results.Recorded([first]).parts("here") == {}
    assert ("b", "good") in results.Recorded([first]).parts("here", lasting=["b"])
    monkeypatch.undo()
    assert list(results.KERNELS.rglob("*.py"))
    assert results.Recorded([first]).parts("another card") == {}
    assert results.Recorded([first], rehearsal=True).parts("here") == {}
    assert results.Recorded([first.parent]).folders("here") == [str(first.parent)]
    assert results.Recorded([first.parent]).folders("another card") == []
    (tmp_path / "no.json").write_text("{}")
    with pytest.raises(ValueError, match=r"no.json is no results.json"):
        results.Recorded([tmp_path / "no.json"])


def test_a_part_waits_for_the_one_it_builds_on(runner, tmp_path):
    parts = [fake("bad"), fake("good", after="bad", n=1), fake("dies")]
    found = runner(*parts, name="first")
    by_name = {entry["part"]: entry for entry in found["parts"]}
    assert by_name["good"]["status"] == "not started"
    assert by_name["good"]["reason"] == "waits for bad"
    # It comes first the next time, too, though it failed.
    parts[0] = plan.Part("bad", 5, "fake_parts:good", {"n": 2})
    skip = [tmp_path / "first"]
    found = runner(*parts, name="second", skip=skip)
    assert [entry["part"] for entry in found["parts"]] == ["card", "bad", "good", "dies"]
    assert [e["status"] for e in found["parts"]] == [*["done"] * 3, "failed"]
    (stage,) = plan.schedule([plan.Stage("b", "fake", 1.0, (fake("bad", 99), *parts[1:]))], 40)
    assert [part.name for part in stage[1]] == ["dies"]


def test_without_a_gpu_nothing_is_measured(tmp_path):
    with open(tmp_path / "log", "wb") as log:
        env = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'benchmarks'}"}
        worker = Worker(env, log)
        told = {
            "rehearse": False,
            "out": "/",
            "limit": 1,
            "data": None,
            "earlier": [],
            "ceilings": {},
        }
        request = {"rows": "gpu_stages.card:card", "given": {}, "context": told}
        with pytest.raises(PartFailed, match="no GPU"):
            list(worker.rows(request, 60))
        worker.close()


def wheel(folder, name, version, tags="py3-none-any"):
    path = folder / f"{name}-{version}-{tags}.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}.py", f"version = {version!r}")
        archive.writestr(
            f"{name}-{version}.dist-info/METADATA", f"Name: {name}\nVersion: {version}\n"
        )
    return path


def test_wheels_fill_in_what_is_missing_or_too_old(tmp_path):
    wheels, folder = tmp_path / "wheels", tmp_path / "site"
    wheels.mkdir(), folder.mkdir()
    wheel(wheels, "not_anywhere", "1.0")
    wheel(wheels, "pydantic", "0.1")
    wheel(wheels, "annotated_types", "999.0")
    env = site.environment(wheels, folder)
    assert {p.name for p in folder.glob("*.py")} == {"not_anywhere.py", "annotated_types.py"}
    code = (
        "from importlib.metadata import entry_points, version; import annotated_types as a\n"
        "print(a.version, version('scmkit'), sum(e.name == 'dit' for e in "
        "entry_points(group='scmkit.plugins')))"
    )
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.stdout.split() == ["999.0", "0.1.0", "1"], done.stderr
    wheel(wheels, "compiled", "1.0", "cp27-cp27m-linux_x86_64")
    with pytest.raises(ValueError, match="is for cp27"):
        site.environment(wheels, folder)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--stages", "z", "--list"], "no stage 'z'"),
        (["--budget", "0", "--list"], "above 0"),
        (["--skip", "/nowhere.json", "--list"], "/nowhere.json"),
        ([], "--out"),
        (["--out", "x", "--data", "/nowhere"], "--data /nowhere"),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(arguments, said, tmp_path):
    command = [sys.executable, ROOT / "benchmarks" / "gpu.py", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_operations_counted_by_hand():
    a, b = jnp.ones((3, 4)), jnp.ones((4, 5))
    assert counting.flops(jnp.dot, a, b) == 2 * 3 * 4 * 5
    assert counting.flops(lambda a, b: (a @ b, 0 * a)[1], a, b) == 0
    square = jnp.ones((4, 4))
    scanned = lambda a: jax.lax.scan(lambda c, _: (c @ square, None), a, None, length=7)[0]  # noqa: E731
    assert counting.flops(scanned, a) == 7 * 2 * 3 * 4 * 4
    turned = lambda a: jax.lax.while_loop(lambda c: c[0, 0] < 9, lambda c: c @ square, a)  # noqa: E731
    with pytest.raises(ValueError, match="while loop"):
        counting.flops(turned, a)


def test_convolutions_and_their_gradients_take_as_many_operations():
    x, w = jnp.ones((2, 4, 8, 8)), jnp.ones((6, 2, 3, 3))

    def conv(x, w):
        return jax.lax.conv_general_dilated(x, w, (2, 2), "SAME", feature_group_count=2)

    expected = 2 * (2 * 6 * 4 * 4) * (2 * 3 * 3)
    assert counting.flops(conv, x, w) == expected
    for argument in (0, 1):
        gradient = jax.grad(lambda x, w: conv(x, w).sum(), argument)
        assert counting.flops(gradient, x, w) == expected


@pytest.mark.parametrize("causal", [False, True])
def test_attention_is_counted_by_the_products_it_needs(causal):
    q = jnp.ones((2, 8, 3, 16))
    attend = lambda q, k, v: attention(q, k, v, causal=causal)  # noqa: E731
    unit = 2 * 8 * 8 * 3 * 16 * (0.5 if causal else 1)
    assert counting.flops(attend, q, q, q) == 4 * unit
    dual = lambda *x: jax.jvp(attend, x, x)  # noqa: E731
    assert counting.flops(dual, q, q, q) == 12 * unit
    gradient = jax.grad(lambda *x: attend(*x).sum(), (0, 1, 2))
    assert counting.flops(gradient, q, q, q) == (4 + 10) * unit


def test_samples_come_back_as_they_were_and_are_told_apart(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "LARGEST", 4000)
    rng = np.random.default_rng(0)
    x = np.clip(rng.normal(0.3, 0.3, (80, 1, 8, 8)), -1, 1).astype(np.float32)
    store = tmp_path / "store"
    with StoreWriter(store, shape=(1, 8, 8), dtype="float32") as writer:
        writer.append("train", x[:40])
        writer.append("test", x[40:60])
    near, far = x[60:], rng.uniform(-1, 1, (80, 1, 8, 8)).astype(np.float32)
    assert len(images.save(tmp_path, "teacher", near, None)) == 1
    assert len(images.save(tmp_path, "student", far, None)) > 1
    assert max(path.stat().st_size for path in tmp_path.glob("*.npz")) <= 4000
    found = {name: from_uint8(images.load(tmp_path, name)) for name in gpu_samples.MODELS}
    np.testing.assert_allclose(found["student"], far, atol=1 / 254)
    rows = gpu_samples.compare(found, Store(store), DATA, "test", 10_000)["rows"]
    distances = {name: row["energy-distance"]["value"] for name, row in rows.items()}
    assert max(distances["real"], distances["teacher"]) < distances["student"]
    with pytest.raises(FileNotFoundError, match=r"no nobody-samples-0\.npz"):
        images.load(tmp_path, "nobody")


def visit(folder, *methods, teacher="t", **failed):
    """What a visit leaves of stage g, of methods that are done and those that failed, with the reason."""
    common = replace(PRESETS["one"], methods=(), data=(), seeds=1, curve=(1, 2))
    parts = []
    for method in methods:
        first = method == "diffusion"
        rows = [Row("real data", None, {"frechet-distance": 1.0})] if first else []
        rows += [Row(f"{k}", k, {"frechet-distance": 5.0 / k}, steps=k) for k in (1, 2)]
        own = {"parameters": 10, "teacher": "diffusion" if method == "scd" else None}
        told = Result(Cell("/somewhere", f"trigflow,{method}", 0), tuple(rows), seconds=60.0, **own)
        row = {"method": method, "plan": asdict(common), "teacher": teacher, "steps": 3000}
        row |= {
            "result": asdict(told),
            "data": {"name": "x.npz", "shape": [3, 8, 8], "digest": "d"},
        }
        parts.append({"stage": "g", "part": method, "status": "done", "rows": [row], "seconds": 1})
    for method, reason in failed.items():
        parts.append({"stage": "g", "part": method, "status": "failed", "rows": [], "seconds": 1})
        parts[-1]["reason"] = reason
    content = {"kernels": "k", "card": "H200", "parts": parts}
    folder.mkdir()
    (folder / "results.json").write_text(json.dumps(content, default=sorted))
    return str(folder)


def test_visits_make_one_table(tmp_path, monkeypatch, capsys):
    visits = [visit(tmp_path / "1", "diffusion", "sct", scd="killed", emd="NaN\nand more")]
    visits.append(visit(tmp_path / "2", "scd"))
    out = tmp_path / "table.json"
    monkeypatch.setattr(sys, "argv", ["gpu_table.py", *visits, "--out", str(out)])
    assert gpu_table.main() == 0
    shown = capsys.readouterr().out
    assert "x.npz, 3x8x8: 1000 steps" in shown
    assert "3 of 46 methods, on H200" in shown
    assert "| scd | 1 | 5 | 10 | 60 s + 60 s | 3.66 | 2.44 |" in shown
    assert "| sct | 1 | 5 | 10 | 60 s | 2.85 | 2.04 |" in shown
    assert "not in the table: emd: NaN\n" in shown
    kept = json.loads(out.read_text())["results"]
    assert [row["method"] for row in kept["methods"]] == ["diffusion", "scd", "sct"]
    assert kept["left_out"]["emd"] == "NaN"
    assert kept["left_out"]["ect"] == "not trained yet"


def test_what_does_not_compare_makes_no_table(tmp_path, monkeypatch, capsys):
    first, other = visit(tmp_path / "1", "diffusion"), visit(tmp_path / "2", "sct", teacher="u")
    for visits, said in (
        ([first, other], "'sct' has had another teacher than 'diffusion'"),
        ([other], "no results of stage g's 'diffusion'"),
        ([str(tmp_path / "3")], "3"),
    ):
        monkeypatch.setattr(sys, "argv", ["gpu_table.py", *visits])
        assert gpu_table.main() == 1
        assert said in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_rehearsal_runs_every_stage(tmp_path):
    """Eight minutes on two quiet cores."""
    command = [
        sys.executable,
        ROOT / "benchmarks" / "gpu.py",
        "--rehearse",
        "--out",
        tmp_path / "out",
    ]
    env = {k: v for k, v in os.environ.items() if not k.startswith("JAX_")}
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    assert {entry["stage"] for entry in found["parts"]} == set("abcdefg")
    assert {entry["status"] for entry in found["parts"]} == {"done"}
    assert "on a GPU, in 480 s:" in done.stdout
    files = {path.name for path in (tmp_path / "out").iterdir()}
    models = {
        f"{name}{end}"
        for name in ("teacher", "student")
        for end in (".safetensors", "-samples-0.npz")
    }
    (classifier,) = {name for name in files if name.startswith("classifier-")}
    assert files == {"results.json", "log.txt", *models, "table-teacher.safetensors", classifier}
    # A second visit trains another method on the first one's teacher, in the same features, to the same end.
    scd = found["parts"][-1]
    measured = scd["rows"][0]["result"]["rows"]
    scd |= {"status": "not started", "reason": "needs 121 s of 50 s left", "rows": []}
    (tmp_path / "out" / "results.json").write_text(json.dumps(found))
    command[-1:] = [tmp_path / "more", "--stages", "g", "--skip", tmp_path / "out"]
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    again = json.loads((tmp_path / "more" / "results.json").read_text())
    assert [entry["part"] for entry in again["parts"]] == ["card", "scd"]
    values = [row["metrics"] for row in again["parts"][-1]["rows"][0]["result"]["rows"]]
    assert values == [row["metrics"] for row in measured]
    assert {path.name for path in (tmp_path / "more").iterdir()} == {"results.json", "log.txt"}
    command = [
        sys.executable,
        ROOT / "benchmarks" / "gpu_table.py",
        tmp_path / "out",
        tmp_path / "more",
    ]
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    assert "2 of 46 methods" in done.stdout
