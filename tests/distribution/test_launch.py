"""`scmkit launch`: processes on one machine, their output, signals and exit codes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from job import PROGRAM


def program(body: str, processes: int = 2, grace: float = 90) -> subprocess.Popen[str]:
    """`launch` of a Python program of that body, in which `me` is the number of the process."""
    start = "import os, sys, time, signal; me = int(os.environ['SCMKIT_PROCESS'])\n"
    command = [sys.executable, "-c", start + body]
    launching = (
        "import sys; from scmkit.distribution.launch import launch\n"
        f"sys.exit(launch({command!r}, {processes}, 2, grace={grace}))"
    )
    return subprocess.Popen(
        [sys.executable, "-c", launching],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_output() -> None:
    running = program("print('result'); print('told', file=sys.stderr)", processes=3)
    output, told = running.communicate(timeout=30)
    assert running.returncode == 0
    assert output == "result\n"
    assert sorted(told.splitlines()) == [
        "[1] result",
        "[1] told",
        "[2] result",
        "[2] told",
        "told",
    ]


@pytest.mark.slow
def test_the_exit_code_is_that_of_the_first_to_fail() -> None:
    running = program("time.sleep(0.5 * (2 - me)); sys.exit(75 if me else 3)")
    running.communicate(timeout=30)
    assert running.returncode == 75
    running = program("time.sleep(me)\nif me: os.kill(os.getpid(), signal.SIGKILL)")
    running.communicate(timeout=30)
    assert running.returncode == 137


@pytest.mark.slow
def test_those_left_are_killed_after_a_grace() -> None:
    began = time.monotonic()
    running = program(
        "if me: sys.exit(4)\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit(9))\ntime.sleep(100)",
        grace=1,
    )
    running.communicate(timeout=40)
    assert running.returncode == 4
    assert time.monotonic() - began < 20


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_reach_every_process_once(number: int) -> None:
    running = program(
        "got = []\n"
        f"signal.signal({int(number)}, lambda n, _: got.append(n))\n"
        "print('ready', flush=True)\n"
        "while not got: time.sleep(0.05)\n"
        "time.sleep(0.5)\n"
        "print(me, 'got', len(got), flush=True)\n"
        "sys.exit(75)"
    )
    assert running.stdout is not None
    assert running.stderr is not None
    assert running.stdout.readline() == "ready\n"
    assert running.stderr.readline() == "[1] ready\n"
    running.send_signal(number)
    output, told = running.communicate(timeout=30)
    assert running.returncode == 75
    assert output == "0 got 1\n"
    assert told == "[1] 1 got 1\n"


@pytest.mark.slow
def test_they_join_with_devices_of_their_own(tmp_path: Path) -> None:
    running = program(
        f"sys.argv = ['', 'end_well', {str(tmp_path)!r}]; sys.path.insert(0, {str(PROGRAM.parent)!r})\n"
        f"exec(open({str(PROGRAM)!r}).read().replace('result of', '{{jax.device_count()}} devices, process'))"
    )
    output, told = running.communicate(timeout=60)
    assert (running.returncode, output, told) == (
        0,
        "4 devices, process 0 of 2\n",
        "progress\n",
    )


def launched(*arguments: str) -> subprocess.CompletedProcess[str]:
    main = "from scmkit_cli.main import main; main()"
    command = [sys.executable, "-c", main, "launch", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ, timeout=60)


@pytest.mark.slow
def test_a_mistyped_option_is_told_once() -> None:
    done = launched("--processes", "2", "--", "train", "--stepz", "5")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: no such option: --stepz")
    assert done.stderr.count("\n") == 1


def test_only_what_runs_together_is_launched() -> None:
    done = launched("--processes", "2", "plugins", "list")
    assert done.returncode == 2
    assert done.stderr == (
        "error: 'plugins' is no command that runs in several processes; these are: train, resume, sample, "
        "eval\n"
    )
