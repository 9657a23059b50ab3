"""Pairs of noise and sample: drawn into a store whole or not at all, and trained on as they are."""

import dataclasses
import json
import os
import signal
import sys

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from killing import start
from scmkit_cli.main import main
from small_runs import Reporter, go, recipe, state_bytes

from scmkit import Run, build_model, compose, dataset_of, resume
from scmkit.composing.build import build_free
from scmkit.data import Loader, Store, StoreWriter, digest_of, spec_of
from scmkit.data.layout import PairsRecord
from scmkit.errors import DataError, Interrupted, NonFiniteError, UsageError
from scmkit.interfaces import Conditioning
from scmkit.plugin import Slot
from scmkit.sampling import draw, write_pairs
from scmkit.training.faults import replay
from scmkit.training.rehearsal import rehearse

SMALL = {"gmm.size": 400}
N = 600


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A flow, and a store of its pairs."""
    path = tmp_path_factory.mktemp("pairs") / "flow"
    go(recipe("flow-matching", "diffusion", **SMALL), path)
    drawn(path, path.with_name("pairs.store"))
    return Run.load(path)


@pytest.fixture(scope="module")
def store(run):
    return Store(run.path.with_name("pairs.store"))


def record_of(run):
    values = {"run": "r", "step": 1, "digest": "d", "process": "flow-matching", "seed": 0}
    values |= {"process_options": {}, "sampler": "pf-ode", "sampler_options": {}, "steps": 6}
    process = run.model.process
    values["noise_std"] = float(process.sigma(process.t_max))
    return PairsRecord(**values)


def drawn(path, dest, n=N, **given):
    run = Run.load(path)
    sampler = given.pop("sampler", None) or build_free(Slot.sampler, "pf-ode", {})
    data, dataset = run.recipe.data, dataset_of(run.recipe)
    return write_pairs(dest, run.model, data, dataset, n, sampler, record_of(run), **given)


@pytest.fixture
def scmkit(monkeypatch, capsys):
    """Runs a command in process: `(exit code, stdout, stderr)`."""

    def command(*argv):
        monkeypatch.setattr(sys, "argv", ["scmkit", *map(str, argv)])
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code or 0
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return command


def test_each_sample_is_what_its_noise_leads_to(run, store):
    chosen = np.array([0, 3, 511, 512, N - 1])
    eps, (x, labels) = store.noise(chosen), store.read("train", chosen)
    assert (store.paired, labels) == (True, None)
    model, data = run.model, run.recipe.data
    noise = jnp.asarray(eps) * model.process.sigma(model.process.t_max)
    sampler = build_free(Slot.sampler, "pf-ode", {})
    out = draw(model, sampler, noise, Conditioning(), steps=6, key=jr.key(0))
    np.testing.assert_allclose(x, data.denormalize(np.asarray(out.x)), atol=1e-4)
    every = store.noise(np.arange(N))
    assert abs(every.mean()) < 0.25
    assert abs(every.std() - 1) < 0.15
    assert len(np.unique(every)) == N


def test_the_test_split_is_the_real_one(run, store):
    dataset = dataset_of(run.recipe)
    indices = np.arange(dataset.size("test"))
    assert store.size("test") == len(indices)
    np.testing.assert_array_equal(store.read("test", indices)[0], dataset.read("test", indices)[0])


def test_fewer_pairs_are_the_first_of_more(run, store, tmp_path):
    few = drawn(run.path, tmp_path / "few", 5)
    np.testing.assert_array_equal(few.noise(np.arange(5)), store.noise(np.arange(5)))


def test_noise_is_part_of_what_a_store_is_known_by(run, store, tmp_path):
    digest = digest_of(store)
    assert digest.train == store.metadata.digests["train"]
    assert digest.test == store.metadata.digests["test"]
    lying = Store(store.path)
    lying.noise = lambda indices: np.zeros((len(indices), 1), np.float32)
    assert digest_of(lying).train != digest.train


def test_stores_without_pairs_say_nothing_of_them(tmp_path):
    with StoreWriter(tmp_path / "s", shape=(2,), dtype="float32") as writer:
        writer.append("train", np.eye(2, dtype=np.float32))
        with pytest.raises(ValueError, match="no others"):
            writer.append("train", np.eye(2, dtype=np.float32), noise=np.eye(2, dtype=np.float32))
    assert "pairs" not in json.loads((tmp_path / "s" / "scmkit.json").read_text())
    plain = Store(tmp_path / "s")
    assert not plain.paired
    with pytest.raises(NotImplementedError):
        plain.noise(np.arange(1))


def test_labels_are_drawn_as_the_data_has_them(run, tmp_path):
    given = {"mlp.width": 8, "mlp.depth": 1}
    made = compose(["flow-matching", "diffusion"], given, data="digits")
    model, sampler = build_model(made, key=jr.key(0)), build_free(Slot.sampler, "ddim", {})
    record = dataclasses.replace(record_of(run), steps=1)
    pairs = write_pairs(tmp_path / "s", model, made.data, dataset_of(made), 20, sampler, record)
    assert pairs.num_classes == 10
    assert len(np.unique(pairs.labels("train"))) > 4
    assert np.abs(pairs.read("train", np.arange(20))[0]).max() <= 1


def test_the_loader_reads_noise_with_its_samples(store):
    spec = spec_of(store, "pairs")
    assert spec.paired
    with Loader(store, spec, 50, 3, noise=True) as loader, Loader(store, spec, 50, 3) as plain:
        for _ in range(15):
            np.testing.assert_array_equal(next(loader)[0], next(plain)[0])
            np.testing.assert_array_equal(loader.last_noise, store.noise(loader.last_indices()))
    assert plain.last_noise is None


def test_a_reflow_resumes_bit_for_bit_and_learns_of_the_noise(run, store, tmp_path):
    def reflow(*plugins):
        plugins = plugins or ("reflow",)
        return recipe(*plugins, data=str(store.path), teacher=str(run.path))

    whole = go(reflow(), tmp_path / "whole")

    stop = Reporter(("parts", 10), lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(Interrupted):
        go(reflow(), tmp_path / "parts", stop)
    resumed = resume(tmp_path / "parts", reporter=Reporter())
    assert state_bytes(whole) == state_bytes(resumed)
    reporter = Reporter()
    go(reflow("flow-matching", "diffusion"), tmp_path / "independent", reporter)
    assert sum("has a noise stored with each sample" in m for m in reporter.messages) == 1
    assert state_bytes(whole) != state_bytes(Run.load(tmp_path / "independent"))


@pytest.mark.slow
def test_a_faulty_step_is_replayed_with_its_noise(run, store, tmp_path):
    given = {"train.lr": 1e25, "train.clip": 0.0}
    wild = recipe("reflow", data=str(store.path), teacher=str(run.path), **given)
    with pytest.raises(NonFiniteError):
        go(wild, tmp_path / "wild")
    fault = replay(tmp_path / "wild")
    report = next((tmp_path / "wild" / "nonfinite").glob("*.json"))
    saved = json.loads(report.read_text())
    assert [repr(s["parts"]["loss"]) for s in fault.samples] == [
        s["parts"]["loss"] for s in saved["samples"]
    ]


def test_a_teacher_keeps_its_process(store, tmp_path):
    teacher = Run.create(tmp_path / "t", recipe("trigflow", "diffusion", **SMALL)).path
    again = recipe("reflow", data=str(store.path), teacher=str(teacher))
    assert again.slots[Slot.noise] == again.slots[Slot.parameterization] == "trigflow"
    assert recipe("reflow", data=str(store.path)).slots[Slot.noise] == "flow-matching"
    assert again.sampler == "ddim"
    rehearse(again)


def test_data_without_pairs_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"'gmm' has no noise stored with its samples; draw pairs"):
        go(recipe("reflow"), tmp_path / "r")
    assert not (tmp_path / "r").exists()


def test_a_sampler_that_adds_noise_is_refused(run, tmp_path):
    with pytest.raises(UsageError, match="adds fresh noise on its way"):
        drawn(run.path, tmp_path / "s", sampler=build_free(Slot.sampler, "ancestral", {}))
    assert not list(tmp_path.iterdir())


def test_what_stops_drawing_leaves_nothing(run, tmp_path):
    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        drawn(run.path, tmp_path / "s", progress=stop)
    assert not list(tmp_path.iterdir())


def test_a_kill_leaves_no_half_store(run, tmp_path):
    dest, hidden = tmp_path / "pairs", tmp_path / ".pairs"
    command = ["data", "pairs", run.path, dest, "--n", 8, "--steps", "2"]
    cache = os.environ["JAX_COMPILATION_CACHE_DIR"]
    process = start(*command, cache=cache, within=hidden, at=12)
    process.communicate(timeout=300)
    assert process.returncode == -signal.SIGKILL
    assert not dest.exists()
    assert list(tmp_path.glob(".pairs.*.partial"))
    drawn(run.path, dest, 8)
    assert Store(dest).size("train") == 8
    assert not list(tmp_path.glob(".pairs.*.partial"))


def test_the_command_line_goes_all_the_way(scmkit, run, tmp_path):
    dest, out = tmp_path / "pairs.store", tmp_path / "runs"
    code, said, _ = scmkit("data", "pairs", run.path, dest, "--n", 40, "--seed", 3)
    assert (code, said.split(": ")[1][:8]) == (0, "40 train")
    code, said, _ = scmkit("data", "info", dest, "--json")
    pairs = json.loads(said)["pairs"]
    assert (pairs["run"], pairs["digest"]) == (str(run.path.resolve()), run.digest())
    assert (pairs["sampler"], pairs["steps"], pairs["seed"]) == ("pf-ode", 18, 3)
    assert pairs["noise_std"] == pytest.approx(80 / 81)
    code, said, _ = scmkit("data", "info", dest)
    assert "flow-matching with noise of deviation 0.9877, pf-ode in 18 steps, seed 3" in said
    code, _, said = scmkit("data", "pairs", run.path, dest)
    assert (code, "exists already" in said) == (2, True)
    train = ("train", "--data", dest, "--out", out, "--steps", 4, "--batch-size", 8)
    assert scmkit(*train, "-p", "reflow", "--teacher", run.path, "--name", "again")[0] == 0
    assert Run.load(out / "again").recipe.slots[Slot.coupling] == "stored"
    distil = ("-p", "reflow-distillation", "--teacher", out / "again", "--name", "one")
    assert scmkit(*train, *distil)[0] == 0
    for name, sampler in (("again", "ddim, 1 step"), ("one", "consistency, 1 step")):
        file = tmp_path / f"{name}.npy"
        code, _, said = scmkit("sample", out / name, "--n", 4, "--out", file)
        assert (code, sampler in said, np.load(file).shape) == (0, True, (4, 1))
    # The pairs of the flow after that are drawn as precisely as the first.
    assert scmkit("data", "pairs", out / "again", tmp_path / "more.store", "--n", 8)[0] == 0
    assert Store(tmp_path / "more.store").metadata.pairs.steps == 18
