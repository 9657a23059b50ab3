"""Plugins that fail, or return what they should not, when they are used: named, and no harm to others."""

import contextlib
import html
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp
import pytest
from fake_distributions import Installer, metric_module
from scmkit_cli.main import main
from small_runs import SMALL, Reporter, go, recipe

from scmkit import Run, compose, evaluate, resume, sample, search_angles
from scmkit.composing.blame import blaming
from scmkit.composing.entries import find
from scmkit.composing.loading import load
from scmkit.errors import PluginError
from scmkit.interfaces import AbstractNetwork, AbstractSampler, SamplerOutput
from scmkit.plugin import Slot
from scmkit.storage.containment import parse_json
from scmkit.training.rehearsal import rehearse

STEPS = {"train.steps": 2, "train.log_every": 1}
SETTINGS = [a for k, v in (SMALL | STEPS).items() for a in ("--set", f"{k}={v}")]
TRAIN = ("train", "-p", "trigflow", "-p", "sct", "--teacher", "none", *SETTINGS)

# Values are swapped behind the classes' own checks, which only tests have.
SAMPLER = """
import equinox as eqx
import jax.numpy as jnp
from typing import ClassVar
from scmkit.interfaces import AbstractSampler, SamplerOutput
from scmkit.plugin import Plugin, Slot


class Odd(AbstractSampler):
    usual_steps: ClassVar = (1,)

    def deterministic(self, steps):
        return True

    def __call__(self, model, noise, cond, *, steps, key):
        out = SamplerOutput(noise, jnp.asarray(1))
        BODY


plugin = Plugin("odd", "a sampler", {Slot.sampler: lambda config: Odd()})
"""

FEATURES = """
from scmkit.interfaces import AbstractFeatures, Features
from scmkit.plugin import Plugin, Slot


class Odd(AbstractFeatures):
    digest, facts = "LINE", {}

    def __call__(self, samples):
        BODY


plugin = Plugin("odd", "features", {Slot.features: lambda config, dataset, directory: Odd()})
"""

TRACKER = """
from pathlib import Path
from scmkit.interfaces import AbstractTracker
from scmkit.plugin import Plugin, Slot


class Odd(AbstractTracker):
    def __init__(self, directory):
        self.directory = directory

    def log(self, step, metrics):
        LOG

    def image(self, step, name, pixels):
        pass

    def close(self):
        self.directory.joinpath("NAME-closed").touch()
        CLOSE


plugin = Plugin("NAME", "a tracker", {Slot.tracker: lambda config, directory: Odd(directory)})
"""

DATASET = """
import numpy as np
from scmkit.data import ArrayDataset
from scmkit.plugin import Plugin, Slot


class Odd(ArrayDataset):
    def read(self, split, indices):
        x, labels = super().read(split, indices)
        BODY


def build(config):
    points = np.random.default_rng(0).normal(size=(64, 1)).astype(np.float32)
    return Odd(points[:48], points[48:])


plugin = Plugin("NAME", "points", {Slot.dataset: build})
"""

PART = """
import equinox as eqx
import jax.numpy as jnp
from scmkit.interfaces import (
    AbstractCoupling,
    AbstractDistance,
    AbstractNetwork,
    AbstractTangentEstimator,
)
from scmkit.plugin import Plugin, Slot


class Network(AbstractNetwork):
    weight: object

    def __call__(self, x, c_noise, cond, *, key):
        return self.weight * (x[None] if x.ndim == 1 else x[:, 1:])


class Tangent(AbstractTangentEstimator):
    def __call__(self, point):
        return point.x_t.astype(jnp.bfloat16)

    def advance(self, point, r):
        return point


class Coupling(AbstractCoupling):
    def __call__(self, batch, *, key):
        return eqx.tree_at(lambda b: b.eps, batch, batch.x0[:, :1], is_leaf=lambda x: x is None)


class Distance(AbstractDistance):
    def __call__(self, x, y):
        return (x - y) ** 2


plugin = Plugin("odd", "a part", {Slot.SLOT: lambda config, context, *, key: MADE})
"""
NETWORK = PART.replace("SLOT", "network").replace("MADE", "Network(jnp.ones(()))")
TANGENT = PART.replace("SLOT", "tangent").replace("MADE", "Tangent()")
COUPLING = PART.replace("SLOT", "coupling").replace("MADE", "Coupling()")
DISTANCE = PART.replace("SLOT", "distance").replace("MADE", "Distance()")


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Installer:
    return Installer(tmp_path / "site", monkeypatch)


@pytest.fixture
def scmkit(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Callable[..., tuple[int, str, str]]:
    """Runs a command in process: `(exit code, stdout, stderr)`."""

    def run(*argv: object) -> tuple[int, str, str]:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["scmkit", *map(str, argv)])
        capsys.readouterr()
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        return code, *capsys.readouterr()

    return run


def refused(outcome: tuple[int, str, str]) -> str:
    """The one line of an error that names a plugin."""
    code, _, said = outcome
    lines = said.strip().splitlines()
    assert code == 2, outcome
    assert [line for line in lines if line.startswith("error: ")] == lines[-1:], said
    assert "Traceback" not in said
    assert lines[-1].count("pip install --upgrade odd-pack") == 1
    return lines[-1].removeprefix("error: plugin 'odd' of odd-pack ")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A consistency model of two steps, of plugins that work."""
    made = recipe("trigflow", "sct", teacher="none", **STEPS)
    return go(made, tmp_path_factory.mktemp("runs") / "r")


@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        ("raise KeyError('gone')", "failed: KeyError: 'gone' (try: "),
        ("raise SystemExit(0)", "failed: SystemExit: 0 (try: "),
        ("return noise, 1", "returned a tuple from its sampler, which must be a SamplerOutput ("),
        (
            "return eqx.tree_at(lambda o: o.x, out, noise[None])",
            "returned float32(1, 1) from its sampler, which must be float32(1,) (try: ",
        ),
        (
            "return eqx.tree_at(lambda o: o.x, out, noise.astype(jnp.bfloat16))",
            "returned bfloat16(1,) from its sampler, which must be float32(1,) (try: ",
        ),
        (
            "return eqx.tree_at(lambda o: o.nfe, out, None)",
            "returned None from its sampler as 'nfe', which must be integer() (try: ",
        ),
        (
            "return SamplerOutput(model.denoise(noise[None], 0.3), out.nfe)",
            "failed: InputError: x_t has shape (1, 1), and must have (1,): a model takes one sample",
        ),
    ],
)
def test_a_sampler_is_named(body, wanted, run, install, scmkit):
    install("odd-pack", {"odd": "plugin"}, source=SAMPLER.replace("BODY", body))
    lines = {
        refused(scmkit("sample", run.path, "--n", 4, "--sampler", "odd")),
        refused(scmkit("eval", run.path, "--n", 4, "--sampler", "odd", "--metric", "mmd")),
    }
    with pytest.raises(PluginError) as caught:
        sample(run.model, run.recipe.data, 4, "odd")
    lines.add(str(caught.value).removeprefix("plugin 'odd' of odd-pack "))
    (line,) = lines
    assert line.startswith(f"1.0 {wanted}")


def test_beside_a_sampler_that_fails_all_else_works(run, install, scmkit):
    install("odd-pack", {"odd": "plugin"}, source=SAMPLER.replace("BODY", "raise KeyError"))
    refused(scmkit("sample", run.path, "--n", 4, "--sampler", "odd"))
    assert scmkit("sample", run.path, "--n", 4)[0] == 0
    assert "odd-pack" in scmkit("plugins", "list")[1]


def test_only_a_signal_is_a_signal(run, install, scmkit):
    """What a plugin raises in its place is the plugin's, and a real one is not."""
    body = "raise KeyboardInterrupt"
    install("odd-pack", {"odd": "plugin"}, source=SAMPLER.replace("BODY", body))
    command = ("sample", run.path, "--n", 4, "--sampler", "odd")
    assert refused(scmkit(*command)).startswith("1.0 failed: KeyboardInterrupt (try: ")
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for name, code, said in (("SIGINT", 130, "interrupted"), ("SIGTERM", 75, "terminated")):
        # The second is swallowed, as Python's own code may do it: the code is the same.
        kill = f"import os, signal; os.kill(os.getpid(), signal.{name})"
        body = kill if code == 130 else f"with contextlib.suppress(BaseException): {kill}; raise"
        body = f"import contextlib\n        {body}\n        raise ValueError"
        upgraded(install, SAMPLER.replace("BODY", body))
        outcome = scmkit(*command)
        assert (outcome[0], outcome[2]) == (code, f"error: {said}\n")
        shutil.move(
            install.directory / "odd_pack-2.0.dist-info",
            install.directory / "odd_pack-1.0.dist-info",
        )
    assert handlers == {number: signal.getsignal(number) for number in handlers}


def test_json_is_alone_and_valid(run, install, scmkit):
    """Whatever a metric prints, and where it is no number."""
    source = metric_module("odd").replace(
        "return float(", "print('hello')\n        return 0 * float('nan') * float("
    )
    install("odd-pack", {"odd": "plugin"}, source=source)
    code, out, err = scmkit(
        *("eval", run.path, "--n", 8, "--steps", 1, "--resamples", 0, "--json"),
        *("--metric", "odd", "--metric", "mmd"),
    )
    assert code == 0, err
    assert "hello" in err
    rows = list(map(parse_json, out.splitlines()))
    assert rows
    assert all(row["odd"] is None and row["mmd"] >= 0 for row in rows)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no device that is always full")
@pytest.mark.parametrize("stream", ["stderr", "stdout"])
def test_a_full_disk_behind_a_stream(stream, run, scmkit, monkeypatch, tmp_path):
    """What is only told is left out; what was asked for is missed."""
    command = (
        (*TRAIN, "--data", "gmm", "--name", "r") if stream == "stderr" else ("plugins", "list")
    )
    full = Path("/dev/full").open("w", buffering=1)  # noqa: SIM115
    monkeypatch.setattr(sys, stream, full)
    code, _, err = scmkit(*command)
    with contextlib.suppress(OSError):
        full.close()
    if stream == "stderr":
        assert code == 0
        assert Run.load(tmp_path / "runs" / "r").finished
    else:
        assert code == 1
        assert err.startswith("error: standard output cannot be written: No space left")


@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        ("raise ValueError('first\\nsecond')", "failed: ValueError: first (try: "),
        (
            "return evaluation.samples[:, 0]",
            "returned float32(8,) from its metric, which must be a float (try: ",
        ),
        ("return None", "returned None from its metric, which must be a float (try: "),
    ],
)
def test_a_metric_is_named(body, wanted, run, install, scmkit):
    source = metric_module("odd").replace("return float(", f"{body}\n        return float(")
    install("odd-pack", {"odd": "plugin"}, source=source)
    lines = {
        refused(scmkit("eval", run.path, "--n", 8, "--steps", 1, "--metric", "odd")),
        refused(scmkit("tune", run.path, "--n", 8, "--metric", "odd")),
    }
    for call in (
        lambda: evaluate(run, steps=[1], n=8, metrics=["mmd", "odd"]),
        lambda: search_angles(run, n=8, metric="odd"),
    ):
        with pytest.raises(PluginError) as caught:
            call()
        lines.add(str(caught.value).removeprefix("plugin 'odd' of odd-pack "))
    (line,) = lines
    assert line.startswith(f"1.0 {wanted}")
    assert [row.name for row in evaluate(run, steps=[1], n=8, metrics=["mmd"])]


def test_wrong_resamples_are_named(run, install):
    source = metric_module("odd").replace(
        "def __call__",
        "def resampled(self, evaluation, indices):\n        return 1.0\n\n    def __call__",
    )
    install("odd-pack", {"odd": "plugin"}, source=source)
    with pytest.raises(PluginError, match=r"from its resampled metric, which must be floating\(3,"):
        evaluate(run, steps=[1], n=8, metrics=["odd"], resamples=3)


@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        ("raise OSError('no weights')", "failed: OSError: no weights (try: "),
        ("return samples", "returned float32(4, 1) from its features, which must be a Features ("),
        (
            "return Features(samples.astype('float16'))",
            "returned float16(4, 1) from its features, which must be float32(4, d) (try: ",
        ),
    ],
)
def test_features_are_named(body, wanted, run, install, scmkit):
    source = FEATURES.replace("BODY", body).replace("LINE", wanted[:20])
    install("odd-pack", {"odd": "plugin"}, source=source)
    command = ("eval", run.path, "--n", 4, "--metric", "mmd", "--features")
    assert refused(scmkit(*command, "odd")).startswith(f"1.0 {wanted}")
    assert scmkit(*command, "data")[0] == 0


@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        # In the loader's thread, or wherever else.
        (
            "if len(indices) == 16: raise OSError('no disk')\n        return x, labels",
            "failed: OSError: no disk (try: ",
        ),
        (
            "return x.astype(np.float64), labels",
            "returned float64(1, 1) from its dataset, which must be float32(1, 1) (try: ",
        ),
        (
            "return np.concatenate([x, x], 1), labels",
            "returned float32(1, 2) from its dataset, which must be float32(1, 1) (try: ",
        ),
    ],
)
def test_a_data_set_is_named(body, wanted, install, scmkit):
    install(
        "odd-pack", {"odd": "plugin"}, source=DATASET.replace("BODY", body).replace("NAME", "odd")
    )
    assert refused(scmkit(*TRAIN, "--data", "odd")).startswith(f"1.0 {wanted}")


def test_a_data_set_is_named_in_python(install, tmp_path):
    fails = "if len(indices) == 16 and split == 'train': raise OSError('no disk')\n        return x, labels"
    source = DATASET.replace("BODY", fails).replace("NAME", "odd")
    install("odd-pack", {"odd": "plugin"}, source=source)
    made = recipe("trigflow", "sct", data="odd", teacher="none", **STEPS)
    wanted = r"^plugin 'odd' of odd-pack 1.0 failed: OSError: no disk \(try: "
    with pytest.raises(PluginError, match=wanted):
        go(made, tmp_path / "r")
    with pytest.raises(PluginError, match=wanted):
        resume(tmp_path / "r", reporter=Reporter())


def upgraded(install: Installer, source: str, name: str = "odd") -> None:
    shutil.rmtree(install.directory / f"{name}_pack-1.0.dist-info")
    install(f"{name}-pack", {name: "plugin"}, source=source, version="2.0")


@pytest.mark.parametrize("where", ["LOG", "CLOSE"])
def test_a_tracker_is_named_and_the_others_are_closed(where, install, scmkit, tmp_path):
    """And the run goes on with one that works."""
    good = TRACKER.replace("LOG", "pass").replace("CLOSE", "pass")
    bad = TRACKER.replace(where, "raise ConnectionError('no\\nway')")
    bad = bad.replace("LOG", "pass").replace("CLOSE", "pass")
    install("good-pack", {"good": "plugin"}, source=good.replace("NAME", "good"))
    install("odd-pack", {"odd": "plugin"}, source=bad.replace("NAME", "odd"))
    said = scmkit(*TRAIN, "-p", "odd", "-p", "good", "--data", "gmm", "--name", "r")
    assert refused(said).startswith("1.0 failed: ConnectionError: no (try: ")
    assert (tmp_path / "runs" / "r" / "good-closed").exists()
    upgraded(install, good.replace("NAME", "odd"))
    if where == "LOG":
        assert scmkit("resume", "runs/r")[0] == 0
    assert Run.load(tmp_path / "runs" / "r").step == 2


def test_what_was_upgraded_behind_a_run_is_named_in_its_report(run, install, scmkit, tmp_path):
    points = DATASET.replace("NAME", "points")
    fails = "if split == 'test': raise OSError('no disk')\n        return x, labels"
    install("points-pack", {"points": "plugin"}, source=points.replace("BODY", "return x, labels"))
    install("odd-pack", {"odd": "plugin"}, source=SAMPLER.replace("BODY", "return out"))
    shutil.copytree(run.path, tmp_path / "r")
    made = recipe("trigflow", "sct", "odd", data="points", teacher="none", **STEPS)
    Run.load(tmp_path / "r").write_recipe(made)
    # The run's own sampler is not mistaken for another's of that name.
    install("other-pack", {"odd": "plugin"}, source="raise RuntimeError")
    assert scmkit("sample", "r", "--n", 4)[0] == 0
    assert scmkit("eval", "r", "--n", 4, "--metric", "mmd", "--resamples", 0)[0] == 0
    upgraded(install, points.replace("BODY", fails), "points")
    code, _, said = scmkit("sample", "r", "--n", 4)
    assert code == 2
    assert said.startswith(
        "error: plugin 'points' of points-pack 2.0 failed: OSError: no disk (try: "
    )
    assert scmkit("report", "r", "--no-metrics")[0] == 0
    page = html.unescape((tmp_path / "report.html").read_text())
    assert "Left out: plugin 'points' of points-pack 2.0 failed: OSError: no disk (try: " in page
    upgraded(install, SAMPLER.replace("BODY", "raise KeyError('gone')"))
    assert scmkit("report", "r", "--no-metrics")[0] == 0
    page = html.unescape((tmp_path / "report.html").read_text())
    assert "Left out: plugin 'odd' of odd-pack 2.0 failed: KeyError: 'gone' (try: " in page


def test_a_bench_names_what_failed(install, scmkit):
    """Here at the picture, before anything is saved."""
    source = SAMPLER.replace("BODY", "raise ValueError('no')")
    install("odd-pack", {"odd": "plugin"}, source=source)
    command = ("bench", "-m", "trigflow,diffusion,odd", "--data", "gmm", *SETTINGS, "--steps", 2)
    code, _, said = scmkit(*command, "--seeds", 1)
    assert code == 1
    last = said.strip().splitlines()[-1]
    assert last.startswith("error: 1 of 1 runs failed; ")
    assert "plugin 'odd' of odd-pack 1.0 failed: ValueError: no (try: pip" in last


@pytest.mark.parametrize("guidance", [(), (1.0, 2.0)])
def test_a_wrong_network_is_named_before_training(guidance, install):
    """Also one that is told a guidance strength, and that of a teacher trained along the way."""
    install("odd-pack", {"odd": "plugin"}, source=NETWORK)
    given = {"scd.guidance_range": guidance}
    made = compose(["trigflow", "scd", "odd"], given, data="digits")
    wanted = (
        r"plugin 'odd' of odd-pack 1.0 returned float32\(1, 7, 8\) from its network, which must be "
    )
    with pytest.raises(PluginError, match=wanted):
        rehearse(made.replace(teacher=None))
    good = compose(["trigflow", "scd", "mlp"], given, data="digits")
    rehearse(good)
    with pytest.raises(PluginError, match=wanted):
        rehearse(good.replace(teacher=made.teacher))


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (
            COUPLING,
            r"returned float32\(8, 1\) from its coupling as 'eps', which must be float32\(8, 2\)",
        ),
        (DISTANCE, r"returned float32\(2,\) from its distance, which must be float32\(\)"),
    ],
)
def test_a_wrong_coupling_or_distance_is_named_before_training(source, said, install):
    install("odd-pack", {"odd": "plugin"}, source=source)
    given = {"train.batch_size": 8}
    made = compose(["mlp", "ect", "odd"], given, data="two-moons", teacher="none")
    with pytest.raises(PluginError, match=f"plugin 'odd' of odd-pack 1.0 {said}"):
        rehearse(made)


def test_a_wrong_network_is_named_when_it_is_drawn_from(run, install):
    install("odd-pack", {"odd": "plugin"}, source=NETWORK)
    load(find("odd"))
    network = sys.modules["odd_pack"].Network(jnp.ones(()))
    with pytest.raises(
        PluginError, match=r"'odd' of odd-pack 1.0 returned float32\(1, 1\) from its net"
    ):
        sample(eqx.tree_at(lambda m: m.network, run.model, network), run.recipe.data, 4)


def test_a_part_upgraded_behind_a_run_is_named_before_it_goes_on(install, tmp_path):
    good = TANGENT.replace("point.x_t.astype(jnp.bfloat16)", "(point.eps - point.x0) / 2")
    install("odd-pack", {"odd": "plugin"}, source=good)
    made = recipe("trigflow", "sct", "tangent=odd", teacher="none", **STEPS)
    path = go(made, tmp_path / "r").path
    upgraded(install, TANGENT)
    wanted = r"2.0 returned bfloat16\(1,\) from its tangent, which must be float32\(1,\) \(try: "
    with pytest.raises(PluginError, match=wanted):
        resume(path, steps=3, reporter=Reporter())
    assert Run.load(path).step == 2


def test_plugins_that_share_the_code_at_fault_are_all_named(install):
    source = """
    from scmkit.plugin import Plugin, Slot

    def fail(config):
        raise ValueError("no")

    one = Plugin("one", "a metric", {Slot.metric: fail})
    two = Plugin("two", "a metric", {Slot.metric: fail})
    """
    install("twin-pack", {"one": "one", "two": "two"}, source=source)
    fail = load(find("one")).provides[Slot.metric]
    with pytest.raises(PluginError, match=r"^plugin 'one' of twin-pack 1.0 failed: Val"), blaming():
        fail(None)
    load(find("two"))
    with pytest.raises(PluginError, match=r"^plugin 'one' or 'two' of twin-pack"), blaming():
        fail(None)


class Own(AbstractSampler):
    """A user's, of no plugin."""

    usual_steps: ClassVar[tuple[int, ...]] = (1,)

    def deterministic(self, steps):
        return True

    def __call__(self, model, noise, cond, *, steps, key):
        return SamplerOutput(noise[None], jnp.asarray(1))


class Failing(AbstractNetwork):
    """The same, called by a plugin."""

    def __call__(self, x, c_noise, cond, *, key):
        raise KeyError("mine")


def test_what_is_of_no_plugin_is_blamed_on_none(run):
    with pytest.raises(
        PluginError, match=r"^test_blame.Own returned float32\(1, 1\) from its samp"
    ):
        sample(run.model, run.recipe.data, 4, Own())
    with pytest.raises(KeyError, match="mine"):
        sample(eqx.tree_at(lambda m: m.network, run.model, Failing()), run.recipe.data, 4)
