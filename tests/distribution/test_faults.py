"""A process that is killed, frozen, cut off or stuck: every other one names it once, and leaves with 75."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from job import Job

from scmkit.distribution.peers import Patience, Peer, silent, stuck
from scmkit.errors import UsageError

SILENCE = 4
"""Seconds, in place of 30."""


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCMKIT_SILENCE", str(SILENCE))
    monkeypatch.setenv("SCMKIT_STUCK", "3")


def struck(job: Job, who: int, number: int, within: float) -> list[tuple[int, str]]:
    """The exit codes and errors of the others after a signal to one."""
    pids = job.pids()
    os.kill(pids[who], number)
    since = time.monotonic()
    for i, process in enumerate(job.processes):
        if i != who:
            process.wait(within)
    assert time.monotonic() - since < within
    if number == signal.SIGSTOP:
        os.kill(pids[who], signal.SIGKILL)
    ended = [(code, told) for code, _, told in job.end()]
    return [end for i, end in enumerate(ended) if i != who]


@pytest.mark.parametrize(
    ("number", "who"),
    [
        (signal.SIGKILL, 0),
        (signal.SIGSTOP, 1),
        pytest.param(signal.SIGKILL, 1, marks=pytest.mark.slow),
        pytest.param(signal.SIGSTOP, 0, marks=pytest.mark.slow),
    ],
)
def test_a_lost_process_is_named_by_the_other(
    who: int, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCMKIT_STUCK", "600")
    job = Job("reduce_for_ever", tmp_path)
    pid = job.processes[who].pid
    [(code, told)] = struck(job, who, number, within=20)
    assert code == 75
    assert told.startswith(f"error: process {who} (host ")
    assert f"pid {pid}) has not been heard of for " in told
    assert told.endswith("every process stops: start the same command again\n")
    assert told.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
@pytest.mark.parametrize("who", [0, 1])
def test_within_a_minute_by_default(
    who: int, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SCMKIT_SILENCE")
    monkeypatch.delenv("SCMKIT_STUCK")
    [(code, told)] = struck(Job("reduce_for_ever", tmp_path), who, number, within=60)
    assert code == 75
    assert told.startswith(f"error: process {who} (host ")


@pytest.mark.slow
@pytest.mark.parametrize("who", [0, 2])
def test_one_of_those_left_says_so(who: int, tmp_path: Path) -> None:
    left = struck(Job("wait_for_ever", tmp_path, count=3), who, signal.SIGKILL, within=20)
    assert [code for code, _ in left] == [75, 75]
    assert left[0][1].startswith(f"error: process {who} (host ")
    assert left[1][1] == ""


@pytest.mark.slow
def test_who_holds_all_others_up_is_stuck(tmp_path: Path) -> None:
    ended = Job("be_stuck", tmp_path).end(40)
    assert [code for code, _, _ in ended] == [75, 75]
    assert "process 1 (host " in ended[0][2]
    assert "is stuck: others have waited 3 s at step 2" in ended[0][2]
    assert "continue with `scmkit resume runs/x`" in ended[0][2]
    assert ended[1][2] == ""


@pytest.mark.slow
def test_who_has_a_reason_to_be_behind_is_not_stuck(tmp_path: Path) -> None:
    assert [code for code, _, _ in Job("be_apart", tmp_path).end()] == [0, 0]


@pytest.fixture
def hosts():
    """Two network namespaces with a link between them, and how to cut it."""
    names = [f"scmkit-{os.getpid()}-{i}" for i in range(2)]
    links = [f"sk{os.getpid() % 10**6}{c}" for c in "ab"]

    def ip(*words: str) -> None:
        subprocess.run(["ip", *words], check=True, capture_output=True)

    try:
        for name in names:
            ip("netns", "add", name)
        ip("link", "add", links[0], "type", "veth", "peer", "name", links[1])
        for i, (name, link) in enumerate(zip(names, links, strict=True)):
            ip("link", "set", link, "netns", name)
            ip("-n", name, "addr", "add", f"10.213.77.{i + 1}/24", "dev", link)
            ip("-n", name, "link", "set", link, "up")
            ip("-n", name, "link", "set", "lo", "up")
    except (OSError, subprocess.CalledProcessError) as error:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)
        pytest.skip(f"no network namespaces here: {error}")
    yield names, lambda: ip("-n", names[1], "link", "set", links[1], "down")
    for name in names:
        ip("netns", "del", name)


def test_hosts_that_are_cut_off_name_each_other(hosts, tmp_path: Path) -> None:
    names, cut = hosts
    shared = {"SCMKIT_PROCESSES": "2", "JAX_COORDINATOR_ADDRESS": "10.213.77.1:34711"}
    job = Job(
        "wait_for_ever",
        tmp_path,
        environments=[{**shared, "SCMKIT_PROCESS": str(i)} for i in range(2)],
        prefixes=[["ip", "netns", "exec", name] for name in names],
    )
    job.pids()
    cut()
    ended = job.end(30)
    assert [code for code, _, _ in ended] == [75, 75]
    for i in range(2):
        assert ended[i][2].startswith(f"error: process {1 - i} (host ")
        assert ended[i][2].count("\n") == 1


def peer(changed: float = 0, step: int | None = None, moved: float = 0) -> Peer:
    return Peer("host", 1, 1, changed, step, moved)


def test_processes_of_one_host_are_silent_together() -> None:
    patience = Patience(silence=30)
    peers = {1: peer(changed=70), 2: peer(changed=69), 3: peer(changed=98)}
    assert silent(peers, 100, patience) == [1, 2]
    assert silent({1: peer(changed=71)}, 100, patience) == []


def test_nobody_is_stuck_where_all_wait_or_one_says_why() -> None:
    patience = Patience(stuck=600)
    all_wait = {0: peer(step=4), 1: peer(step=4)}
    assert stuck(all_wait, 1000, patience) == []
    one_apart = {0: peer(), 1: peer(step=4), 2: peer(step=5)}
    assert stuck(one_apart, 1000, patience) == []
    behind = {0: peer(step=5), 1: peer(step=4), 2: peer(step=5)}
    assert stuck(behind, 1000, patience) == [1]
    assert stuck(behind, 599, patience) == []


@pytest.mark.parametrize("text", ["soon", "0", "-1", "nan", "inf"])
def test_limits_are_seconds(text: str) -> None:
    with pytest.raises(UsageError, match=f"SCMKIT_SILENCE=.*{text}.*: give seconds above 0"):
        Patience.of_environment({"SCMKIT_SILENCE": text})
