"""Runs that survive: killed processes, damaged files, full disks, and two processes at once."""

import contextlib
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import fuzz_targets
import killing
import numpy as np
import pytest
from fake_distributions import Installer
from scmkit_cli.main import main

from scmkit import Run, resume
from scmkit.composing.recipe import TeacherRecord
from scmkit.errors import RunError, UsageError
from scmkit.runs import checkpoint
from scmkit.storage.locks import LOCK, DirectoryLock


@pytest.fixture(scope="module")
def cache():
    return os.environ["JAX_COMPILATION_CACHE_DIR"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, cache):
    return killing.train(tmp_path_factory.mktemp("runs"), "r", steps=30, cache=cache)


@pytest.fixture
def copy(undisturbed, tmp_path):
    return shutil.copytree(undisturbed, tmp_path / "copy")


@pytest.fixture
def scmkit(monkeypatch, capsys):
    def run(*argv):
        monkeypatch.setattr(sys, "argv", ["scmkit", *map(str, argv)])
        try:
            main()
            code = 0
        except SystemExit as stop:
            code = stop.code or 0
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return code, captured.out, captured.err

    return run


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def an_array(run, step):
    arrays = run / "checkpoints" / f"{step:08d}" / "arrays"
    return max((p for p in arrays.rglob("0*") if p.is_file()), key=lambda p: p.stat().st_size)


def test_killed_runs_end_where_the_undisturbed_one_ends(undisturbed, tmp_path, cache):
    struck = killing.train_through(tmp_path, "r", steps=30, cache=cache, kills=1, seed=3)
    assert struck.total() >= 1
    assert killing.differences(undisturbed, tmp_path / "r") == []


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_many_kills(tmp_path, cache, seed):
    one = killing.train(tmp_path, "one", steps=60, cache=cache)
    counted = len(killing.operations(one))
    killing.train_through(
        tmp_path, "two", steps=60, cache=cache, kills=10, counted=counted, seed=seed
    )
    assert killing.differences(one, tmp_path / "two") == []


@pytest.mark.slow
def test_killed_before_chosen_operations(undisturbed, tmp_path, cache):
    """A checkpoint not renamed into place, one half removed, and a picture not renamed."""
    places = (
        "os.rename /checkpoints/.tmp-00000010",
        "os.rmdir /checkpoints/.tmp-00000010/arrays",
        "os.rename /samples/00000030.png.",
    )
    run = killing.killed_at(tmp_path, "r", *places, steps=30, cache=cache)
    assert killing.differences(undisturbed, run) == []


@pytest.mark.slow
@pytest.mark.parametrize("part", range(16))
def test_killed_before_every_kind_of_operation(tmp_path, cache, part):
    one = killing.train(tmp_path, "one", cache=cache, **killing.SHORT)
    numbers = killing.distinct(killing.operations(one))
    assert len(numbers) > 100
    for number in numbers[part::16]:
        two = killing.killed_at(tmp_path, "two", number, cache=cache, **killing.SHORT)
        assert killing.differences(one, two) == [], killing.operations(one)[number - 1]
        shutil.rmtree(two)


@pytest.fixture
def ensemble(tmp_path, monkeypatch):
    """The method of that name is installed for the processes that are killed."""
    Installer(tmp_path / "site", monkeypatch)("ensemble-pack", {"ensemble": "ensemble:plugin"})
    places = (tmp_path / "site", Path(killing.__file__).parent)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, places)))


@pytest.mark.slow
def test_killed_amid_players_and_stages(ensemble, tmp_path, cache):
    """Before the checkpoint at the end of a stage is whole: from within the stage the run goes on."""
    one = killing.train(tmp_path, "one", cache=cache, **killing.STAGES)
    place = "open /checkpoints/.tmp-00000004/COMMIT.json"
    two = killing.killed_at(tmp_path, "two", place, cache=cache, **killing.STAGES)
    assert killing.differences(one, two) == []
    saved = {path.name for path in checkpoint.latest(two / "checkpoints").rglob("*")}
    assert {"critic", "generator", "last", "slow"} <= saved


@pytest.mark.slow
@pytest.mark.parametrize("part", range(16))
def test_killed_amid_players_before_every_kind_of_operation(ensemble, tmp_path, cache, part):
    one = killing.train(tmp_path, "one", cache=cache, **killing.STAGES)
    numbers = killing.distinct(killing.operations(one))
    assert len(numbers) > 100
    for number in numbers[part::16]:
        two = killing.killed_at(tmp_path, "two", number, cache=cache, **killing.STAGES)
        assert killing.differences(one, two) == [], killing.operations(one)[number - 1]
        shutil.rmtree(two)


def test_killed_imports(tmp_path, cache):
    """Before it is locked, while it is written, and before it is renamed into place."""
    np.savez(tmp_path / "in.npz", x=np.zeros((20, 1, 8, 8), np.uint8))
    command = ("data", "import", tmp_path / "in.npz")

    def go(name, at=0):
        process = killing.start(
            *command, tmp_path / name, cache=cache, within=tmp_path / f".{name}", at=at
        )
        said = process.communicate(timeout=60)[0].decode()
        assert process.returncode == (-signal.SIGKILL if at else 0), said

    go("one")
    for at in ("open .*.partial/scmkit.json", "open .*.partial/test", "os.rename .*.partial"):
        go("two", at)
        assert len(list(tmp_path.glob(".two.*.partial"))) == 1
    go("two")
    assert killing.same_store(tmp_path / "one", tmp_path / "two")


class Quiet:
    def __init__(self):
        self.messages = []

    def message(self, text):
        self.messages.append(text)

    def start(self, name, step, steps):
        pass

    def advance(self, step, line):
        pass

    def stop(self):
        pass


def truncate(path):
    os.truncate(path, path.stat().st_size - 1)


def lose(path):
    shutil.rmtree(path.parent)


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    "damage", [flip, pytest.param(truncate, marks=SLOW), pytest.param(lose, marks=SLOW)]
)
def test_resume_passes_over_damage(undisturbed, copy, damage):
    damage(an_array(copy, 30))
    quiet = Quiet()
    resume(copy, reporter=quiet)
    [line] = [text for text in quiet.messages if "set aside" in text]
    assert "00000030" in line
    assert "continues from step 25" in line
    assert killing.differences(undisturbed, copy) == []


def test_what_a_crash_left_is_removed(undisturbed, copy, scmkit):
    for place in (copy, copy / "teacher"):
        for name in (
            "recipe.json",
            "metrics.jsonl",
            "samples/00000030.png",
            "nonfinite/00000007.json",
        ):
            file = place / f"{name}.0123abcd.tmp"
            file.parent.mkdir(exist_ok=True)
            file.write_text("{")
        (place / "checkpoints" / ".tmp-00000030" / "arrays").mkdir(parents=True)
        shutil.copytree(place / "checkpoints" / "00000025", place / "checkpoints" / "00000020")
    # Where the run is finished, too; its teacher is looked after when it is trained or resumed itself.
    for place in (copy, copy / "teacher"):
        assert scmkit("resume", place)[0] == 2
        (place / "nonfinite").rmdir()
    assert killing.differences(undisturbed, copy) == []


def test_nothing_good_is_left_alone(copy, scmkit):
    for step in (25, 30):
        flip(an_array(copy, step))
    code, _, err = scmkit("resume", copy)
    assert code == 1
    assert "restore a backup" in err
    assert checkpoint.steps(copy / "checkpoints") == [25, 30]


def test_verify_names_what_is_wrong(copy, scmkit):
    assert scmkit("run", "verify", copy)[0] == 0
    assert all(check.problem is None for check in Run.load(copy).verify())
    flip(an_array(copy, 25))
    flip(an_array(copy / "teacher", 30))
    replace(copy / "teacher" / "metrics.jsonl", '"mse": 0.', '"mse": 1.')
    replace(copy / "teacher" / "recipe.json", '"lr": 0.001', '"lr": 0.002')
    with (copy / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3')
    code, out, _ = scmkit("run", "verify", copy, "--json")
    assert code == 1
    wrong = [c for c in json.loads(out) if c["problem"]]
    bad = {str(Path(c["path"]).relative_to(copy)): c["problem"] for c in wrong}
    assert bad == {
        "checkpoints/00000025": bad["checkpoints/00000025"],
        "metrics.jsonl": "line 11 is torn or no line of metrics",
        "teacher/checkpoints/00000030": bad["teacher/checkpoints/00000030"],
        "teacher/metrics.jsonl": "was changed since the newest checkpoint was saved",
        "teacher/recipe.json": "was edited since scmkit wrote it: train.lr is 0.002, was 0.001",
    }
    assert "SHA-256" in bad["checkpoints/00000025"]


def replace(file, old, new):
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def test_an_edited_recipe_is_used_only_if_that_is_meant(copy, scmkit, tmp_path):
    file = copy / "recipe.json"
    replace(file, '"lr": 0.001', '"lr": 0.1')
    how = "was edited since scmkit wrote it: train.lr is 0.1, was 0.001"
    code, _, err = scmkit("resume", copy, "--steps", 60)
    assert (code, err) == (
        2,
        f"error: '{file}' {how}; if that is meant, `scmkit resume {copy} --edited`, else restore it\n",
    )
    code, _, err = scmkit("sample", copy, "--n", 4, "--out", tmp_path / "x.png")
    assert code == 0
    assert f"'{file}' is used as it is, but {how}" in err.splitlines()
    code, _, err = scmkit("resume", copy, "--edited")
    assert f"'{file}' is used as it is, but {how}" in err.splitlines()
    assert "is finished" in err
    code, out, _ = scmkit("run", "verify", copy)
    assert code == 0
    assert "good (differs from the newest checkpoint's: train.lr is 0.1, was 0.001)" in out
    assert "differs from the newest checkpoint's recipe: train.lr is" in scmkit("resume", copy)[2]


def test_what_resume_is_told_to_change_is_no_edit(copy):
    run = Run.load(copy)
    settings = dataclasses.replace(run.recipe.train, steps=60, on_nonfinite="skip")
    run.write_recipe(run.recipe.replace(train=settings))
    assert all(check.problem is None and check.note is None for check in run.verify())
    replace(copy / "recipe.json", '"steps": 60', '"steps": 61')
    assert run.verify()[0].problem == (
        "was edited since scmkit wrote it: "
        'train.on_nonfinite is "skip", was "stop", train.steps is 61, was 30'
    )


def test_runs_of_before_there_were_digests_are_good(copy, scmkit):
    for place in (copy, copy / "teacher"):
        document = json.loads((place / "recipe.json").read_text())
        del document["sha256"]
        (place / "recipe.json").write_text(json.dumps(document, indent=2) + "\n")
        for path in (place / "checkpoints").iterdir():
            (path / "notes.json").unlink()
            manifest = json.loads((path / "COMMIT.json").read_text())
            del manifest["metadata"]["recipe"]
            (path / "COMMIT.json").write_bytes(fuzz_targets._sealed(manifest))
    recipe = Run.load(copy).recipe
    teacher = TeacherRecord("teacher", Run.load(copy / "teacher").digest())
    document = recipe.replace(teacher=teacher).to_json()
    (copy / "recipe.json").write_text(json.dumps(document))
    code, out, _ = scmkit("run", "verify", copy)
    assert code == 0
    assert out.count("good (has no digest, which earlier versions did not write)") == 2
    assert out.count("good (no checkpoint has a digest of it") == 2
    assert scmkit("resume", copy)[0] == 2
    assert "sha256" in json.loads((copy / "recipe.json").read_text())


def test_what_training_removes_is_no_damage(copy, monkeypatch):
    """A checkpoint that goes while it is checked, and another that is put in the place of one."""
    problem, gone = checkpoint.problem, copy / "checkpoints" / "00000025"

    def meanwhile(path):
        if path == gone:
            shutil.rmtree(gone)
        elif (path / ".replaced").exists():
            shutil.rmtree(path)
            shutil.copytree(copy / "other", path)
        return problem(path)

    newest = copy / "checkpoints" / "00000030"
    shutil.copytree(newest, copy / "other")
    flip(an_array(copy, 30))
    (newest / ".replaced").touch()
    monkeypatch.setattr(checkpoint, "problem", meanwhile)
    checks = Run.load(copy).verify()
    assert [check.problem for check in checks] == [None] * len(checks)
    assert [check.step for check in checks if check.what == "checkpoint"][:1] == [30]


@pytest.mark.parametrize(
    ("edit", "code"),
    [
        (lambda text: text[:-20], 1),
        (lambda text: "[]", 1),
        (lambda text: text.replace('"batch_size"', '"batch_sise"'), 2),
        (lambda text: text.replace('"mlp"', '"mlpp"'), 2),
    ],
)
def test_recipes_edited_by_hand(copy, scmkit, edit, code):
    recipe = copy / "recipe.json"
    recipe.write_text(edit(recipe.read_text()))
    got, _, err = scmkit("resume", copy, "--steps", "60")
    assert got == code, err
    assert "recipe.json" in err or "mlpp" in err
    assert err.count("\n") == 1
    assert "bug in scmkit" not in err


def test_a_start_cut_short_is_answered(tmp_path, scmkit):
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "recipe.json.0123abcd.tmp").write_text("{")
    code, _, err = scmkit("resume", tmp_path / "r")
    assert code == 2
    assert "--name again" in err
    assert not (tmp_path / "r" / LOCK).exists()


def test_one_process_at_a_time(copy):
    with DirectoryLock(copy), pytest.raises(RunError, match=f"in use by process {os.getpid()} on"):
        resume(copy, steps=40, reporter=Quiet())
    with pytest.raises(UsageError, match="finished"):
        resume(copy, reporter=Quiet())


@contextlib.contextmanager
def stopped(*argv, within, at, cache):
    """A process that has stopped just before an operation."""
    process = killing.start(*argv, cache=cache, within=within, at=at, number=signal.SIGSTOP)
    try:
        found = os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        assert found is not None
        assert found.si_code == os.CLD_STOPPED, process.communicate()[0]
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.slow
def test_two_start_one_run(undisturbed, tmp_path, cache):
    """The second comes when the first has no recipe yet, in the place of one that was killed there."""
    run = tmp_path / "r"
    run.mkdir()
    (run / "recipe.json.0123abcd.tmp").write_text("{")
    command = ("train", *killing.every(30), "--out", tmp_path, "--name", "r")
    with stopped(*command, within=run, at="os.rename /recipe.json", cache=cache) as first:
        second = killing.start(*command, cache=cache)
        said = second.communicate(timeout=300)[0].decode()
        assert second.returncode == 1, said
        *_, line = said.splitlines()
        assert line.startswith(f"error: '{run}' is in use by process {first.pid} on "), line
        assert "Traceback" not in said
        first.send_signal(signal.SIGCONT)
        said = first.communicate(timeout=300)[0].decode()
        assert first.returncode == 0, said
    assert killing.differences(undisturbed, run) == []


@pytest.mark.slow
def test_two_start_runs_without_a_name(tmp_path, cache):
    """The second takes the name that the first was about to take."""
    out = tmp_path / "runs"
    command = ("train", *killing.every(2), "--out", out)
    with stopped(*command, within=out, at="os.mkdir /gmm-trigflow-scd-001", cache=cache) as first:
        second = killing.start(*command, cache=cache)
        ends = [second.communicate(timeout=300)[0].decode()]
        first.send_signal(signal.SIGCONT)
        ends.append(first.communicate(timeout=300)[0].decode())
        assert (first.returncode, second.returncode) == (0, 0), ends
    one, two = out / "gmm-trigflow-scd-001", out / "gmm-trigflow-scd-002"
    assert set(out.iterdir()) == {one, two}
    assert killing.differences(one, two) == []


def test_a_dead_owner_holds_nothing(tmp_path):
    code = "import sys, time; from pathlib import Path; from scmkit.storage.locks import DirectoryLock\n"
    code += (
        "DirectoryLock(Path(sys.argv[1])).__enter__(); print('held', flush=True); time.sleep(60)"
    )
    owner = subprocess.Popen([sys.executable, "-c", code, tmp_path], stdout=subprocess.PIPE)
    assert owner.stdout is not None
    owner.stdout.readline()
    with pytest.raises(RunError, match=f"process {owner.pid} on"), DirectoryLock(tmp_path):
        pass
    owner.kill()
    owner.communicate()
    with DirectoryLock(tmp_path) as lock:
        assert lock.held


NAMESPACE = """
import contextlib, io, json, os, subprocess, sys
from scmkit_cli.main import main

def mount(*argv):
    if subprocess.run(["mount", *argv], stderr=subprocess.DEVNULL).returncode:
        sys.exit("no mount here")

def scmkit(*argv):
    sys.argv, code, said = ["scmkit", *argv], 0, io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
        try:
            main()
        except SystemExit as stop:
            code = stop.code or 0
    assert "Traceback" not in said.getvalue()
    [*_, line] = said.getvalue().splitlines() or [""]
    done.append([code, line])

done = []
"""


def in_namespace(code, *argv):
    """What `scmkit` answered, in a process whose mounts nobody else sees and that end with it."""
    unshare = ["unshare", "-m"] if os.getuid() == 0 else ["unshare", "-rm"]
    code = f"{NAMESPACE}{code}\nprint(json.dumps(done))"
    command = [*unshare, sys.executable, "-c", code, *map(str, argv)]
    if shutil.which("unshare") is None:
        pytest.skip("mounting needs unshare, of util-linux")
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    if "no mount here" in ran.stderr or ran.stderr.startswith("unshare: "):
        pytest.skip(f"nothing may be mounted here: {ran.stderr.strip()}")
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


@pytest.mark.slow
def test_a_full_file_system(undisturbed, copy, tmp_path):
    """With no room at all, with room for a picture but no checkpoint, and with room again."""
    shutil.rmtree(copy / "checkpoints" / "00000030")
    code = """
from pathlib import Path
from scmkit.runs import checkpoint
copy, disk = map(Path, sys.argv[1:])
mount("-t", "tmpfs", "-o", "size=16m", "tmpfs", str(disk))
run, ballast = disk / "run", disk / "ballast"
subprocess.run(["cp", "-r", copy, run], check=True)
for room in (0, 200_000):
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        while file.write(bytes(4096)) == 4096:
            pass
    os.truncate(ballast, ballast.stat().st_size - room)
    scmkit("resume", str(run))
    assert checkpoint.steps(run / "checkpoints") == [25]
    assert checkpoint.problem(run / "checkpoints" / "00000025") is None
ballast.unlink()
scmkit("resume", str(run))
subprocess.run(["rm", "-r", copy], check=True)
subprocess.run(["cp", "-r", run, copy], check=True)
"""
    (tmp_path / "disk").mkdir()
    none, some, again = in_namespace(code, copy, tmp_path / "disk")
    for number, line in (none, some):
        assert number == 1
        assert line.startswith("error: ")
        assert "cannot be written" in line
        assert "No space left on device" in line
        assert "free some space" in line
    assert str(tmp_path / "disk" / "run" / "checkpoints" / "00000030") in some[1]
    assert again[0] == 0
    assert killing.differences(undisturbed, copy) == []


@pytest.mark.slow
def test_a_read_only_run(copy, tmp_path):
    """What trains says what to do; what reads goes on working."""
    code = """
run, out = sys.argv[1:]
mount("--bind", run, run)
mount("-o", "remount,bind,ro", run)
scmkit("resume", run, "--steps", "40")
scmkit("train", "-p", "trigflow", "-p", "diffusion", "--data", "gmm", "--out", run, "--name", "new")
scmkit("train", "-p", "trigflow", "-p", "diffusion", "--data", "gmm", "--out", run)
scmkit("run", "verify", run)
scmkit("sample", run, "--n", "4", "--out", out)
scmkit("sample", run + "/teacher", "--n", "4", "--out", out)
scmkit("eval", run, "--n", "20", "--steps", "1", "--metric", "energy-distance", "--resamples", "0")
scmkit("sample", run, "--n", "4", "--out", run + "/x.png")
"""
    answers = in_namespace(code, copy, tmp_path / "x.png")
    assert [code for code, _ in answers] == [1, 1, 1, 0, 0, 0, 0, 1]
    for number, line in answers:
        if number:
            assert line.startswith("error: ")
            assert str(copy) in line
            assert "Read-only file system" in line
            assert "make" in line
    assert (tmp_path / "x.png").exists()


def test_samples_of_a_damaged_checkpoint(copy, tmp_path, scmkit):
    arrays = copy / "checkpoints" / "00000030" / "arrays" / "players" / "generator" / "ema"
    flip(next(path for path in arrays.rglob("0*") if path.is_file()))
    code, _, err = scmkit("sample", copy, "--out", tmp_path / "x.png")
    assert code == 1
    assert err.count("\n") == 1
    assert "is damaged" in err
    assert f"`scmkit resume {copy}`" in err


@pytest.mark.slow
def test_full_disks_are_one_line(undisturbed, tmp_path, cache):
    """A limit on the size of a file fails as a full disk does, in checkpoints and metrics alike."""
    copy = shutil.copytree(undisturbed, tmp_path / "copy")
    before = checkpoint.digest(copy / "checkpoints" / "00000030")
    code = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (6000, 6000))\n"
    code += "from scmkit_cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "resume", copy, "--steps", "60"],
        # Programs are read from the cache of all tests; what is cut off there would be read by others.
        env=os.environ | {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "1e9"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    [line] = [text for text in done.stderr.splitlines() if text.startswith("error: ")]
    assert "cannot be written" in line
    assert "bug in scmkit" not in line
    assert "Traceback" not in done.stderr
    assert checkpoint.digest(copy / "checkpoints" / "00000030") == before


def test_a_second_ctrl_c_kills_and_loses_nothing(tmp_path, cache):
    process = killing.start(
        "train", *killing.every(1_000_000), "--out", tmp_path, "--name", "r", cache=cache
    )
    deadline = time.monotonic() + 120
    saved = tmp_path / "r" / "teacher" / "checkpoints"
    while process.poll() is None and not checkpoint.steps(saved) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    # Two signals that arrive as one are the first, which saves.
    assert process.returncode in (-signal.SIGINT, 130)
    newest = checkpoint.latest(saved)
    assert checkpoint.problem(newest) is None
