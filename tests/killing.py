"""Processes killed at random moments, and whether what they leave ends where an undisturbed one ends."""

import contextlib
import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from scmkit.training.metrics_file import read_metrics

TINY = [
    *("--data", "gmm", "-p", "trigflow", "-p", "scd", "--batch-size", "16", "--lr", "1e-3"),
    *("--set", "mlp.width=8", "--set", "mlp.depth=1", "--set", "mlp.embedding_dim=8"),
    *("--set", "positional.channels=8"),
]
"""A teacher and its student, of which a step takes about a millisecond."""


def every(steps):
    """The options of a run whose checkpoints, pictures and lines come often, out of step."""
    given = {"log_every": 3, "checkpoint_every": 5, "sample_every": 14}
    mine = [f"train.{key}={value}" for key, value in given.items()]
    settings = [*mine, *(f"teacher.{text}" for text in mine)]
    return [*TINY, "--steps", str(steps), *(a for text in settings for a in ("--set", text))]


def start(*argv, cache):
    """`scmkit ARGV` as a process of its own."""
    command = [sys.executable, "-c", "from scmkit_cli.main import main; main()", *map(str, argv)]
    env = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def train(out, name, *, steps, cache):
    """An undisturbed run."""
    process = start("train", *every(steps), "--out", out, "--name", name, cache=cache)
    said = process.communicate(timeout=600)[0].decode()
    assert process.returncode == 0, said
    return out / name


def train_through(out, name, *, steps, cache, kills, seed=0):
    """The same run, killed `kills` times or until it ends; returns where the kills struck."""
    random_ = random.Random(seed)
    run, struck, startup = out / name, Counter(), 3.0
    while True:
        verb = ["resume", run] if (run / "recipe.json").exists() else None
        verb = verb or ["train", *every(steps), "--out", out, "--name", name]
        before, began = _standing(run), time.monotonic()
        process = start(*verb, cache=cache)
        if sum(struck.values()) < kills:
            if random_.random() < 0.2:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(random_.uniform(0, startup))
            else:
                while process.poll() is None and not _advanced(run, before):
                    time.sleep(0.002)
                startup = time.monotonic() - began
                # Long ones get past a picture, whose sampler is compiled first.
                time.sleep(random_.uniform(0, random_.choice((0.5, 5.0))))
            if process.poll() is None:
                process.kill()
                process.communicate()
                struck[where(run, moved=_advanced(run, before))] += 1
                continue
        said = process.communicate(timeout=600)[0].decode()
        # The last kill may have struck when all was on disk.
        assert process.returncode == 0 or f"run '{run}' is finished" in said, said
        return struck


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


def where(run, *, moved):
    """What a killed process was doing, from what is on disk."""
    if not (run / "recipe.json").exists():
        return "start-up, before the recipe"
    teacher = run / "teacher"
    who = "student" if (run / "metrics.jsonl").exists() else "teacher"
    place = run if who == "student" else teacher
    if any((place / "checkpoints").glob(".tmp-*")):
        return f"{who}, writing a checkpoint"
    if any(place.rglob("*.tmp")):
        return f"{who}, writing another file"
    if not moved:
        return "start-up"
    if who == "teacher" and (teacher / "samples").exists():
        final = json.loads((teacher / "recipe.json").read_text())["train"]["steps"]
        if (teacher / "checkpoints" / f"{final:08d}").exists():
            return "hand-over to the student"
    return f"{who}, step"


def differences(one, other):
    """What two runs differ in, timing apart, and what a crash has left in the second."""
    found = []
    for mine, its in ((one, other), (one / "teacher", other / "teacher")):
        if not mine.exists():
            continue
        names = [
            {
                path.relative_to(root).as_posix(): path
                for path in root.rglob("*")
                if path.is_file() and path.name != ".lock"
            }
            for root in (mine, its)
        ]
        found += [
            f"{its / name}: there is no such file in both" for name in set(names[0]) ^ set(names[1])
        ]
        for name in sorted(set(names[0]) & set(names[1])):
            if _content(names[0][name]) != _content(names[1][name]):
                found.append(f"{its / name}: other content")
    return found


def _content(path):
    if path.name == "metrics.jsonl":
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        return [{k: v for k, v in line.items() if k != "steps_per_second"} for line in lines]
    return path.read_bytes()


def import_through(source, dest, *, cache, kills, seconds, seed=0):
    """`scmkit data import` killed `kills` times within `seconds`, then left to end; returns the count."""
    random_, struck = random.Random(seed), Counter()
    for _ in range(kills):
        if dest.exists():
            break
        process = start("data", "import", source, dest, cache=cache)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(random_.uniform(0, seconds))
        if process.poll() is None:
            process.kill()
            partial = any(dest.parent.glob(f".{dest.name}.*.partial"))
            struck["import, writing the store" if partial else "import, start-up"] += 1
        process.communicate()
    if not dest.exists():
        process = start("data", "import", source, dest, cache=cache)
        said = process.communicate(timeout=600)[0].decode()
        assert process.returncode == 0, said
    return struck


def same_store(one, other):
    """Whether two stores are the same files with nothing left beside the second."""
    left = [p for p in Path(other).parent.iterdir() if p.name.startswith(f".{Path(other).name}.")]
    files = [
        {p.relative_to(r): p.read_bytes() for p in r.rglob("*") if p.is_file()}
        for r in (one, other)
    ]
    return not left and files[0] == files[1]
