"""Processes killed at random moments and before chosen operations, and whether what they leave ends where an
undisturbed one ends."""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from scmkit.runs.metrics import read_metrics

DYING = Path(__file__).with_name("dying.py")

TINY = [
    *("--data", "gmm", "-p", "trigflow", "--batch-size", "16", "--lr", "1e-3"),
    *("--set", "mlp.width=8", "--set", "mlp.depth=1", "--set", "mlp.embedding_dim=8"),
    *("--set", "positional.channels=8"),
]
"""Networks of which a step takes about a millisecond."""

SHORT = {"steps": 3, "log": 1, "checkpoint": 1, "sample": 2}
"""A run that does all there is to do in few operations, the removal of a checkpoint included."""


STAGES = {"method": "ensemble", "steps": 6, "log": 2, "checkpoint": 1, "sample": 6}
"""A run with players, followers and stages that end at steps 2 and 4."""

PLAYED = {
    "dmd2": ("dmd2.gan=hinge",),
    "sida": (),
    "ladd": (),
    "f-distill": ("f-distill.updates=1",),
    "moment-matching": (),
    "vsd-scd": (),
    "rcm": ("rcm.discrete=0.3", "rcm.alone=0.3"),
    "imm": (),
    "drifting": (),
}
"""Settings of methods with players, groups, class sets, and stages that in ten steps end at steps 3 and 6."""

TAUGHT = ("scd", *(name for name in PLAYED if name not in ("imm", "drifting")))
"""Methods whose teacher is trained first."""

SIGNALS = {2: signal.SIGKILL, 3: signal.SIGKILL, 5: signal.SIGTERM, 8: signal.SIGINT}
"""Before which checkpoints of a run of ten steps are whole a signal strikes. Killed at 3, `rcm` goes on from
before the end of its first stage; terminated at 5, it is saved at 6, where its second stage ends."""


def every(steps, *, method="scd", log=3, checkpoint=5, sample=14):
    """The options of a run whose checkpoints, pictures and lines come often, out of step.

    By default it is a student's, whose teacher is trained first.
    """
    given = {"log_every": log, "checkpoint_every": checkpoint, "sample_every": sample}
    settings = [f"train.{key}={value}" for key, value in given.items()]
    if method in TAUGHT:
        settings += [f"teacher.{text}" for text in settings]
    settings += PLAYED.get(method, ())
    chosen = [*TINY, "-p", method, "--steps", str(steps)]
    return [*chosen, *(a for text in settings for a in ("--set", text))]


def start(*argv, cache, within=None, at: int | str = 0, number=signal.SIGKILL):
    """`scmkit ARGV` as a process of its own.

    With `within` it notes its file operations there, and gets the signal `number` just before the one that
    `at` says: its number, or how its line begins.
    """
    command = [sys.executable, "-c", "from scmkit_cli.main import main; main()"]
    if within is not None:
        command = [sys.executable, "-P", DYING, within, at, int(number), _log(within)]
    env = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    return subprocess.Popen(
        list(map(str, (*command, *argv))), env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def operations(within):
    """What the last process started `within` did to files there, a line for each operation."""
    return _log(within).read_text().splitlines()


def _log(within):
    return within.with_name(f"{within.name}.operations")


def distinct(lines):
    """The numbers of all operations, but of those in a row on arrays of the first, middle and last."""
    kinds = ["" if "/arrays" in line else line for line in lines]
    firsts = [i for i, kind in enumerate(kinds) if i == 0 or kind != kinds[i - 1]]
    ends = [*firsts[1:], len(kinds)]
    rows = zip(firsts, ends, strict=True)
    return sorted({n + 1 for i, end in rows for n in (i, (i + end) // 2, end - 1)})


def train(out, name, *, steps, cache, **often):
    """An undisturbed run."""
    command = ["train", *every(steps, **often), "--out", out, "--name", name]
    process = start(*command, cache=cache, within=out / name)
    said = process.communicate(timeout=600)[0].decode()
    assert process.returncode == 0, said
    return out / name


def train_through(out, name, *, steps, cache, kills, counted=0, seed=0):
    """The same run, killed `kills` times or until it ends; returns where the kills struck.

    Half of them strike at random moments, half before one of an undisturbed run's `counted` operations.
    """
    random_ = random.Random(seed)
    run, struck, startup = out / name, Counter(), 3.0
    while True:
        before, began = _standing(run), time.monotonic()
        more = struck.total() < kills
        at = random_.randint(1, counted) if more and counted and random_.random() < 0.5 else 0
        process = proceed(out, name, steps=steps, cache=cache, at=at)
        if more and not at:
            if random_.random() < 0.2:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(random_.uniform(0, startup))
            else:
                while process.poll() is None and not _advanced(run, before):
                    time.sleep(0.002)
                startup = time.monotonic() - began
                # Long ones get past a picture, whose sampler is compiled first.
                time.sleep(random_.uniform(0, random_.choice((0.5, 5.0))))
            process.kill()
        if not ended(process, run):
            operation = operations(run)[-1] if at else None
            struck[where(run, moved=_advanced(run, before), operation=operation)] += 1
            continue
        return struck


def killed_at(out, name, *places, steps, cache, **often):
    """The same run, killed just before each of these operations in turn, and then left to end."""
    for at in places:
        process = proceed(out, name, steps=steps, cache=cache, at=at, **often)
        assert not ended(process, out / name), f"there is no operation {at}"
    assert ended(proceed(out, name, steps=steps, cache=cache, **often), out / name)
    return out / name


def signalled(out, name, signals, *, cache, **often):
    """The same run, in which a signal strikes before each of these checkpoints is whole."""
    for step, number in signals.items():
        place = f"open /checkpoints/.tmp-{step:08d}/COMMIT.json"
        process = proceed(out, name, cache=cache, at=place, number=number, **often)
        said = process.communicate(timeout=600)[0].decode()
        assert process.returncode == {signal.SIGTERM: 75, signal.SIGINT: 130}.get(
            number, -number
        ), said
    assert ended(proceed(out, name, cache=cache, **often), out / name)


def proceed(out, name, *, steps, cache, at: int | str = 0, number=signal.SIGKILL, **often):
    """A process that begins the run, or goes on with it."""
    run = out / name
    verb = ["train", *every(steps, **often), "--out", out, "--name", name]
    if (run / "recipe.json").exists():
        verb = ["resume", run]
    return start(*verb, cache=cache, within=run, at=at, number=number)


def ended(process, run):
    """Whether a process brought a run to its end; False where it was killed."""
    said = process.communicate(timeout=600)[0].decode()
    # The last kill may have struck when all was on disk.
    finished = process.returncode == 0 or f"run '{run}' is finished" in said
    assert finished or process.returncode == -signal.SIGKILL, said
    return finished


def _standing(run):
    """Of a run and its teacher: the checkpoints, and when the file of metrics was last written."""
    found = {}
    for place in (run, run / "teacher"):
        saved = {path.name for path in (place / "checkpoints").glob("*")}
        with contextlib.suppress(FileNotFoundError):
            found[place] = saved, (place / "metrics.jsonl").stat().st_mtime_ns
    return found


def _advanced(run, before):
    """Whether a step was taken since: there is another checkpoint, or a line beyond those there were."""
    for place, (saved, written) in _standing(run).items():
        checkpoints, file = before.get(place, (set(), 0))
        if saved != checkpoints:
            return True
        if written != file:
            reached = max((int(name) for name in checkpoints if name.isdecimal()), default=0)
            if any(line["step"] > reached for line in read_metrics(place / "metrics.jsonl")):
                return True
    return False


def where(run, *, moved, operation=None):
    """What a killed process was doing: from its last operation, or else from what is on disk."""
    if not (run / "recipe.json").exists():
        return "start-up, before the recipe"
    teacher = run / "teacher"
    who = "student" if (run / "metrics.jsonl").exists() else "teacher"
    place = run if who == "student" else teacher
    left = [*place.glob("checkpoints/.tmp-*"), *place.rglob("*.tmp")]
    if operation is None and left:
        operation = f"left /{left[0].relative_to(run).as_posix()}"
    if operation is not None:
        return part(operation)
    if not moved:
        return "start-up"
    if who == "teacher" and (teacher / "samples").exists():
        final = json.loads((teacher / "recipe.json").read_text())["train"]["steps"]
        if (teacher / "checkpoints" / f"{final:08d}").exists():
            return "hand-over to the student"
    return f"{who}, step"


PARTS = {
    "checkpoints": "writing a checkpoint",
    "metrics.jsonl": "writing metrics",
    "samples": "writing a picture",
    "recipe.json": "writing the recipe",
}


def part(operation):
    """What an operation is part of, as noted."""
    path = operation.partition(" ")[2]
    who = "teacher" if path.startswith("/teacher") else "student"
    what = [what for name, what in PARTS.items() if f"/{name}" in path]
    return f"{who}, {what[0]}" if what else "start-up"


def differences(one, other):
    """What two runs differ in, timing apart, and what a crash has left in the second."""
    mine, its = (
        {p.relative_to(root).as_posix(): p for p in root.rglob("*") if p.name != ".lock"}
        for root in (one, other)
    )
    found = [f"{other / name}: there is no such thing in both" for name in set(mine) ^ set(its)]
    for name in sorted(set(mine) & set(its)):
        if _content(mine[name]) != _content(its[name]):
            found.append(f"{other / name}: other content")
    return found


def _content(path):
    if path.name == "metrics.jsonl":
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        return [{k: v for k, v in line.items() if k != "steps_per_second"} for line in lines]
    # Notes are digests of metrics, whose timing differs.
    return path.read_bytes() if path.is_file() and path.name != "notes.json" else None


def import_through(source, dest, *, cache, kills, seconds, counted=0, seed=0):
    """`scmkit data import` killed `kills` times, then left to end; returns where they struck.

    Half of them strike within `seconds`, half before one of an undisturbed import's `counted` operations.
    """
    random_, struck, hidden = random.Random(seed), Counter(), dest.with_name(f".{dest.name}")
    while not dest.exists():
        more = struck.total() < kills
        at = random_.randint(1, counted) if more and counted and random_.random() < 0.5 else 0
        process = start("data", "import", source, dest, cache=cache, within=hidden, at=at)
        if more and not at:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(random_.uniform(0, seconds))
            process.kill()
        said = process.communicate(timeout=600)[0].decode()
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL, said
        partial = any(dest.parent.glob(f".{dest.name}.*.partial"))
        struck["import, writing the store" if partial else "import, start-up"] += 1
    return struck


def same_store(one, other):
    """Whether two stores are the same files with nothing left beside the second."""
    left = list(Path(other).parent.glob(f".{Path(other).name}.*.partial"))
    files = [
        {p.relative_to(r): p.read_bytes() for p in r.rglob("*") if p.is_file()}
        for r in (one, other)
    ]
    return not left and files[0] == files[1]
