"""Whole trainings whose processes are lost, told to stop, or go wrong."""

import os
import resource
import signal
import subprocess
import time

import numpy as np
import pytest
from training_runs import DIFFUSION, SCMKIT, SMALL, Job, launched, lines_of, resumed, said

from scmkit import Run
from scmkit.data import StoreWriter
from scmkit.runs import checkpoint

LONG = (*DIFFUSION, "--steps", "100000", "--set", "train.checkpoint_every=20")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
@pytest.mark.parametrize("who", [0, 1])
def test_a_lost_process_ends_the_other_within_a_minute(who, number, tmp_path):
    job = Job(("train", *SMALL, *LONG, "--out", tmp_path, "--name", "r")).at(tmp_path / "r", 25)
    pid = job.processes[who].pid
    os.kill(pid, number)
    [(code, error)] = job.end(60, [1 - who])
    assert code == 75
    assert f"error: process {who} (host " in error
    assert f", pid {pid}) has not been heard of for " in error
    assert error.endswith(f"continue with `scmkit resume {tmp_path / 'r'}`\n")
    assert error.count("\n") == 1
    run = Run.load(tmp_path / "r")
    assert checkpoint.problem(checkpoint.latest(run.checkpoints)) is None
    if who == 0:
        run = resumed(run, "--steps", str(run.step + 30), by=launched(2))
        assert [line["step"] for line in run.metrics] == list(range(1, run.step + 1))


@pytest.mark.slow
@pytest.mark.parametrize("who", [0, 1])
def test_sigterm_to_one_stops_all_at_one_step(who, tmp_path):
    job = Job(("train", *SMALL, *LONG, "--out", tmp_path, "--name", "r")).at(tmp_path / "r", 25)
    job.processes[who].terminate()
    (code, error), other = job.end(60)
    step = Run.load(tmp_path / "r").step
    assert code == 75
    assert error.startswith(f"error: stopped at step {step}, saved to ")
    assert other == (75, "")
    assert lines_of(tmp_path / "r") == step


@pytest.mark.slow
def test_ctrl_c_stops_all(tmp_path):
    command = (*launched(2), "train", *SMALL, *LONG, "--out", tmp_path, "--name", "r")
    launching = subprocess.Popen(
        [*SCMKIT, *map(str, command)], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )
    while lines_of(tmp_path / "r") < 25:
        assert launching.poll() is None
        time.sleep(0.1)
    launching.send_signal(signal.SIGINT)
    _, errors = launching.communicate(timeout=60)
    assert launching.returncode == 130
    assert errors.count("error: ") == 1


def test_what_is_wrong_of_all_is_told_once(tmp_path):
    options = (*SMALL, *DIFFUSION, "--batch-size", "60", "--out", tmp_path, "--name", "r")
    code, output, errors = said(*launched(2, 4), "train", *options)
    assert (code, output) == (2, "")
    [line] = [line for line in errors.splitlines() if "error: " in line]
    assert line == (
        "error: train.batch_size=60 does not divide among 8 devices; the nearest sizes that do: 56 and 64"
    )
    assert not (tmp_path / "r").exists()


@pytest.fixture
def command(tmp_path):
    """A short training."""
    given = ("--steps", "6", "--set", "train.sample_every=100", "--out", tmp_path, "--name", "r")
    return ("train", *SMALL, *DIFFUSION, *given)


@pytest.mark.slow
def test_a_usage_error_of_one_ends_all(command):
    job, began = Job(command, (*command, "--stepz", "5")), time.monotonic()
    job.processes[1].wait(60)
    known = time.monotonic()
    (first, silent), (second, error) = job.end(10)
    assert (first, second, silent) == (2, 2, "")
    assert "no such option: --stepz" in error
    assert error.count("\n") == 1
    assert known - began < 50


@pytest.mark.slow
def test_another_recipe_in_one_process_is_refused(command, tmp_path):
    told = Job(command, (*command, "--lr", "0.1")).end()
    assert [code for code, _ in told] == [2, 2]
    assert told[0][1].startswith("error: process 1 has another recipe than process 0; start all")
    assert told[1][1] == ""
    assert not (tmp_path / "r").exists()


@pytest.mark.slow
@pytest.mark.parametrize("who", [0, 1])
def test_a_full_disk_of_one_ends_all(who, command, tmp_path):
    def little() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, resource.RLIM_INFINITY))

    limits = [little if i == who else None for i in range(2)]
    ended = Job((*command, "--mesh", "fsdp=2"), preexec_fn=limits).end()
    assert [code for code, _ in ended] == [1, 1]
    assert "00000002 cannot be written (" in ended[who][1], ended
    assert [error.count("\n") for _, error in ended] == [1 - who, who], ended
    assert Run.load(tmp_path / "r").step == 0


@pytest.mark.slow
def test_data_that_one_process_lacks_ends_all(command, tmp_path):
    folders = [tmp_path / str(i) for i in range(2)]
    for folder in folders:
        folder.mkdir()
    with StoreWriter(folders[0] / "numbers", shape=(1, 8, 8), dtype="float32") as writer:
        for split in ("train", "test"):
            samples = np.random.default_rng(0).normal(size=(50, 1, 8, 8))
            writer.append(split, samples.astype(np.float32), None)
    ended = Job((*command, "--data", "numbers"), cwd=folders).end()
    assert [code for code, _ in ended] == [2, 2]
    assert ended[0][1] == ""
    assert ended[1][1].startswith("error: process 1 (host ")
    assert ended[1][1].count("\n") == 1


@pytest.mark.slow
def test_a_name_is_made_up_once(tmp_path):
    for number in (1, 2):
        code, _, errors = said(
            *(*launched(2), "train", *SMALL, *DIFFUSION),
            *("--steps", "2", "--out", tmp_path, "--set", "train.sample_every=100"),
        )
        assert code == 0, errors
        runs = [f"digits-trigflow-diffusion-{i:03d}" for i in range(1, number + 1)]
        assert sorted(os.listdir(tmp_path)) == runs
