"""How several processes end: all at once with one exit code, and told once."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from job import Job
from scmkit_cli.streams import stoppable

from scmkit.distribution.joining import join
from scmkit.distribution.launch import free_port
from scmkit.distribution.surroundings import Place
from scmkit.errors import RunError, Stopped

HERE = "error: process 1 (host "


def ends(thing: str, directory: Path) -> tuple[list[int], list[str]]:
    ended = Job(thing, directory).end()
    assert all(told.count("\n") <= 1 for _, _, told in ended)
    return [code for code, _, _ in ended], [told for _, _, told in ended]


@pytest.mark.slow
def test_only_the_first_prints(tmp_path: Path) -> None:
    first, second = Job("end_well", tmp_path).end()
    assert first == (0, "result of 0 of 2\n", "progress\n")
    assert second == (0, "", "")


def test_a_usage_error_of_one_ends_all(tmp_path: Path) -> None:
    began = time.monotonic()
    codes, told = ends("fail_alone", tmp_path)
    assert codes == [2, 2]
    assert told[0] == ""
    assert told[1].startswith(HERE)
    assert told[1].endswith("no such option: --plugn\n")
    assert time.monotonic() - began < 30


@pytest.mark.slow
def test_an_error_of_all_is_told_by_the_first(tmp_path: Path) -> None:
    assert ends("fail_together", tmp_path) == ([2, 2], ["error: no such option: --plugn\n", ""])


@pytest.mark.slow
def test_different_usage_errors_are_all_told(tmp_path: Path) -> None:
    codes, told = ends("fail_differently", tmp_path)
    assert codes == [2, 2]
    assert told[0] == "error: this host lacks the file 0\n"
    assert told[1].endswith("this host lacks the file 1\n")


@pytest.mark.slow
def test_a_bug_of_one_ends_all(tmp_path: Path) -> None:
    codes, told = ends("have_a_bug", tmp_path)
    assert codes == [1, 1]
    assert told[0].startswith("error: ZeroDivisionError: division by zero (a bug in ")
    assert told[1] == ""


@pytest.mark.slow
def test_an_error_at_a_meeting_is_told_by_who_had_it(tmp_path: Path) -> None:
    codes, told = ends("fail_at_a_meeting", tmp_path)
    assert codes == [1, 1]
    assert told[0] == ""
    assert told[1].endswith("the disk is full\n")


@pytest.mark.slow
def test_an_agreed_stop_is_told_by_the_first(tmp_path: Path) -> None:
    assert ends("stop_together", tmp_path) == ([75, 75], ["error: preempted at step 7\n", ""])


def test_sigterm_to_one_ends_all(tmp_path: Path) -> None:
    job = Job("be_told", tmp_path)
    job.pids()
    job.processes[1].terminate()
    ended = job.end(20)
    assert [code for code, _, _ in ended] == [75, 75]
    assert ended[0][2] == ""
    assert ended[1][2].endswith("terminated\n")


def test_a_signal_that_something_swallows_is_not_lost() -> None:
    """Such as a callback of the garbage collector, which JAX has."""
    with pytest.raises(Stopped), stoppable(), contextlib.suppress(BaseException):
        os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.slow
@pytest.mark.parametrize("who", [0, 1])
def test_who_waits_in_vain_for_others_to_start_says_so(who: int, tmp_path: Path) -> None:
    program = (
        "from scmkit.distribution.joining import join\n"
        "from scmkit.distribution.surroundings import Place\n"
        f"join(Place({who}, 2, '127.0.0.1:{free_port()}'), wait=2)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("error: not all of the 2 processes have started within 2 s: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.slow
def test_a_port_in_use_is_an_error(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(RunError, match=r"cannot start at .*: Address already in use"):
            join(Place(0, 2, address), wait=2)
