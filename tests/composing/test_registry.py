"""Finding and loading plugins: every way in which one can be wrong, in Python and on the command line."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from fake_distributions import Installer, metric_module
from scmkit_cli.main import main

from scmkit.composing.build import build_free
from scmkit.composing.compose import compose
from scmkit.composing.entries import entries, find, has_module, problem
from scmkit.composing.loading import load
from scmkit.errors import PluginError
from scmkit.interfaces import Evaluation
from scmkit.plugin import NoOptions, Plugin, Slot
from scmkit.testing import checks

LOSS = """
from scmkit.plugin import Plugin, Slot

def build(config, context, *, key):
    {body}

plugin = Plugin(name="{name}", summary="a loss", provides={{Slot.loss: build}}, makes="consistency")
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Installer:
    return Installer(tmp_path / "site", monkeypatch)


@dataclass
class Outcome:
    code: int
    out: str
    err: str


@pytest.fixture
def scmkit(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Callable[..., Outcome]:
    """The command line, in this process."""

    def run(*arguments: str) -> Outcome:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["scmkit", *arguments])
        capsys.readouterr()
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 1
        said = capsys.readouterr()
        return Outcome(code, said.out, said.err)

    return run


def refused(outcome: Outcome, code: int = 2) -> str:
    """The one line of an error."""
    lines = outcome.err.strip().splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    assert outcome.code == code, outcome
    assert errors == lines[-1:], outcome.err
    assert "Traceback" not in outcome.err
    return errors[0]


def broken_cases() -> dict[str, tuple[str, list[str]]]:
    """Source of a plugin `odd` of `odd-pack` 1.0, and what the error must say."""
    return {
        "raises on import": (
            "raise RuntimeError('first\\nsecond')",
            ["'odd'", "odd-pack 1.0", "RuntimeError: first", "pip install --upgrade odd-pack"],
        ),
        "exits on import": ("raise SystemExit(3)", ["odd-pack 1.0 is broken", "SystemExit: 3"]),
        "imports what is missing": (
            "import no_such_module_anywhere",
            ["No module named 'no_such_module_anywhere'"],
        ),
        "has a syntax error": ("def", ["SyntaxError"]),
        "lacks the attribute": ("nothing = 1", ["AttributeError", "'plugin'"]),
        "is no Plugin": ("plugin = 3", ["is a int, not a scmkit.Plugin", "'odd_pack:plugin'"]),
        "is of a newer API": (
            metric_module("odd", api="API_VERSION + 1"),
            ["plugin API 3, this scmkit speaks 2", "pip install --upgrade scmkit"],
        ),
        "is of an older API": (
            metric_module("odd", api="API_VERSION - 1"),
            ["plugin API 1, this scmkit speaks 2", "pip install --upgrade odd-pack"],
        ),
        "needs a module": (
            metric_module("odd", requires="{'no_such_extra': 'pip install odd-pack[extra]'}"),
            ["needs the module 'no_such_extra'", "install it with: pip install odd-pack[extra]"],
        ),
        "needs a submodule": (
            metric_module("odd", requires="{'no_such.extra': 'pip install extra'}"),
            ["needs the module 'no_such.extra'", "pip install extra"],
        ),
        "has another name": (metric_module("even"), ["calls itself 'even'"]),
        "fills no slot": (
            "from scmkit import Plugin\nplugin = Plugin('odd', 'x', {})",
            ["TypeError", "provides no slot"],
        ),
        "fills an unknown slot": (
            "from scmkit import Plugin\nplugin = Plugin('odd', 'x', {'los': print})",
            ["odd-pack 1.0 is broken"],
        ),
        "has no options class": (
            "from scmkit import Plugin\nplugin = Plugin('odd', 'x', {'sampler': print}, config=dict)",
            ["odd-pack 1.0 is broken"],
        ),
    }


@pytest.mark.parametrize("case", broken_cases())
def test_a_broken_plugin_says_why_and_breaks_no_other(
    case: str, install: Installer, scmkit: Callable[..., Outcome]
) -> None:
    source, wanted = broken_cases()[case]
    install("odd-pack", {"odd": "plugin"}, source=source)
    install("good-pack", {"good": "plugin"}, source=metric_module("good"))
    with pytest.raises(PluginError) as caught:
        load(find("odd"))
    line = refused(scmkit("train", "--plugin", "odd"))
    for said in wanted:
        assert said in str(caught.value)
        assert said in line
    assert load(find("good")).name == "good"
    rows = _listed(scmkit("plugins", "list", "--json", "--load"))
    assert wanted[-1] in rows["odd"]["broken"]
    assert rows["good"]["slots"] == ["metric"]
    assert "broken" not in rows["trigflow"]


def _listed(outcome: Outcome) -> dict[str, dict]:
    assert outcome.code == 0, outcome.err
    return {row["name"]: row for row in map(json.loads, outcome.out.splitlines())}


def test_listing_imports_nothing(install: Installer, scmkit: Callable[..., Outcome]) -> None:
    (install.directory / "heavy").mkdir()
    (install.directory / "heavy" / "__init__.py").write_text("raise SystemExit('imported')")
    (install.directory / "heavy" / "part.py").touch()
    install("heavy-pack", {"heavy": "heavy.part:plugin", "lost": "heavy.gone:plugin"})
    rows = _listed(scmkit("plugins", "list", "--json"))
    assert "heavy" not in sys.modules
    assert "broken" not in rows["heavy"]
    assert rows["lost"]["broken"] == "no module 'heavy.gone'"
    assert rows["heavy"]["version"] == "1.0"
    assert rows["trigflow"]["package"] == "scmkit"


def test_listing_for_people_shows_what_is_broken(
    install: Installer, scmkit: Callable[..., Outcome]
) -> None:
    install("lost-pack", {"lost": "no_such_module:plugin"}, version="0.3")
    shown = scmkit("plugins", "list").out
    line = next(line for line in shown.splitlines() if line.startswith("lost"))
    assert "lost-pack 0.3" in line
    assert "BROKEN: no module 'no_such_module'" in line
    assert shown.splitlines() == sorted(shown.splitlines())


def test_damaged_metadata_harms_its_own_plugin_alone(
    install: Installer, scmkit: Callable[..., Outcome]
) -> None:
    install("good-pack", {"good": "plugin"}, source=metric_module("good"))
    install("odd-pack", {"odd": "plugin"}, version="2.1")
    (install.directory / "odd_pack-2.1.dist-info" / "METADATA").unlink()
    install("form-pack", {"form": "no module: at all"})
    for name, content in (
        ("text", b"[scmkit.plugins]\n\xff"),
        ("line", b"[scmkit.plugins]\nline\n"),
    ):
        install(f"{name}-pack", {name: "plugin"}, version="3")
        (install.directory / f"{name}_pack-3.dist-info" / "entry_points.txt").write_bytes(content)
    rows = _listed(scmkit("plugins", "list", "--json", "--load"))
    said = {name: row["broken"] for name, row in rows.items() if "broken" in row}
    assert said.keys() == {"odd", "form", "text-pack", "line-pack"}
    assert said["odd"] == "its package has no readable METADATA"
    assert said["form"] == "its entry point 'no module: at all' is not MODULE:ATTRIBUTE"
    assert said["line-pack"].startswith("its entry_points.txt cannot be read (")
    assert rows["good"]["slots"] == ["metric"]
    assert scmkit("plugins", "info", "good").code == 0
    line = refused(scmkit("plugins", "info", "odd"))
    assert line.startswith(
        "error: plugin 'odd' of odd_pack 2.1 is broken: its package has no readable"
    )


def test_an_unknown_name_gets_a_suggestion(scmkit: Callable[..., Outcome]) -> None:
    line = refused(scmkit("train", "--plugin", "trigflw"))
    assert "no plugin 'trigflw'; did you mean 'trigflow'?" in line
    assert "scmkit plugins list" in line
    assert "did you mean" not in refused(scmkit("plugins", "info", "zzzzzz"))


def test_an_unknown_package_names_what_to_install(scmkit: Callable[..., Outcome]) -> None:
    line = refused(scmkit("train", "--plugin", "scm-foo:bar"))
    assert "'scm-foo' is not installed or has no plugins; pip install scm-foo" in line
    line = refused(scmkit("train", "--plugin", "scm-foo:trigflow"))
    assert "no plugin 'trigflow' in package 'scm-foo': it is in scmkit" in line


def test_a_name_from_two_packages_must_be_picked(
    install: Installer, scmkit: Callable[..., Outcome]
) -> None:
    install("first-pack", {"twin": "plugin"}, version="1.2", source=metric_module("twin"))
    install("second-pack", {"twin": "plugin"}, version="3.4", source=metric_module("twin"))
    line = refused(scmkit("plugins", "info", "twin"))
    assert "first-pack 1.2 and second-pack 3.4" in line
    assert "--plugin first-pack:twin" in line
    assert find("second-pack:twin").version == "3.4"
    assert scmkit("plugins", "info", "second-pack:twin").code == 0
    problems = {e.package: problem(e, entries()) for e in entries() if e.name == "twin"}
    assert "second-pack:twin" in (problems["second-pack"] or "")


def test_package_names_are_compared_as_indexes_do(install: Installer) -> None:
    install("My.Pack", {"mine": "my_pack:plugin"}, source=metric_module("mine"))
    assert find("my-pack:mine").package == "My.Pack"
    assert find("MY_PACK:mine").package == "My.Pack"


def test_one_name_from_two_packages_in_one_recipe(install: Installer) -> None:
    for package in ("first-pack", "second-pack"):
        source = LOSS.format(name="twin", body="pass")
        install(package, {"twin": "plugin"}, source=source)
    with pytest.raises(PluginError, match="named from two packages"):
        compose(["first-pack:twin", "second-pack:twin"])


@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        ("raise ValueError('no\\nway')", "failed to build its loss: no"),
        ("raise KeyError", "failed to build its loss: KeyError"),
        (
            "return 3",
            "built a int as its loss, which is no AbstractLoss or AbstractBatchLoss or AbstractGroupLoss",
        ),
    ],
)
def test_a_plugin_that_fails_to_build_is_named(
    body: str, wanted: str, install: Installer, scmkit: Callable[..., Outcome]
) -> None:
    install("odd-pack", {"odd": "plugin"}, source=LOSS.format(name="odd", body=body))
    line = refused(
        scmkit(
            "train", "--plugin", "odd", "--data", "gmm", "--teacher", "none", "--set", "mlp.width=8"
        )
    )
    assert "plugin 'odd' of odd-pack 1.0" in line
    assert line.endswith(wanted)


def test_a_foreign_metric_works_like_a_built_in(
    install: Installer, scmkit: Callable[..., Outcome]
) -> None:
    install("good-pack", {"good": "plugin"}, source=metric_module("good"))
    x = np.zeros((4, 2), np.float32)
    assert build_free(Slot.metric, "good", {})(Evaluation(x, x, x)) == 0
    shown = scmkit("plugins", "info", "good").out
    assert "good-pack 1.0" in shown
    assert "slots: metric" in shown
    checked = scmkit("plugins", "check", "good")
    assert checked.code == 0, checked
    assert checked.out.count("ok ") == len(checks(load(find("good"))))
    assert "'good' has no option 'much'" in refused(
        scmkit("plugins", "check", "good", "--set", "good.much=1")
    )
    assert "only options of 'good'" in refused(
        scmkit("plugins", "check", "good", "--set", "bad.much=1")
    )
    assert "ask for it with `scmkit eval RUN --metric good`" in refused(
        scmkit("train", "--plugin", "good")
    )


def test_a_foreign_data_set_trains(install: Installer) -> None:
    source = """
    import numpy as np
    from scmkit.data import ArrayDataset
    from scmkit.plugin import NoOptions, Plugin, Slot

    def build(config):
        points = np.random.default_rng(0).normal(size=(64, 5)).astype(np.float32)
        return ArrayDataset(points[:48], points[48:])

    plugin = Plugin(name="normal", summary="points", provides={Slot.dataset: build})
    """
    install("data-pack", {"normal": "plugin"}, version="7", source=source)
    recipe = compose(data="data-pack:normal")
    assert recipe.data.shape == (5,)
    assert recipe.plugins["normal"].package == "data-pack"
    assert recipe.plugins["normal"].version == "7"
    with pytest.raises(PluginError, match="ask for it with --data normal"):
        compose(["normal"])


def test_failing_checks_fail_the_command(
    install: Installer, scmkit: Callable[..., Outcome]
) -> None:
    source = metric_module("odd", summary="'two\\nlines'").replace("float(abs(", "float(0 * abs(")
    install("odd-pack", {"odd": "plugin"}, source=source)
    outcome = scmkit("plugins", "check", "odd")
    assert "odd-pack 1.0: 2 conformance checks failed" in refused(outcome, code=1)
    assert "FAILED  plugin/summary_is_one_line: AssertionError: summary" in outcome.out
    assert "FAILED  metric/worse_samples_score_worse" in outcome.out


def test_the_wrong_kind_of_plugin_is_refused(scmkit: Callable[..., Outcome]) -> None:
    assert "is no dataset (it fills: noise, parameterization)" in refused(
        scmkit("train", "--data", "trigflow")
    )
    with pytest.raises(PluginError, match="is no metric"):
        build_free(Slot.metric, "trigflow", {})


def test_modules_are_found_without_importing() -> None:
    assert has_module("scmkit.errors")
    assert has_module("json")
    assert not has_module("json.no_such")
    assert not has_module("json.decoder.deeper")
    assert not has_module("no_such.deeper")
    assert not has_module("")


def test_a_plugin_needs_slots_and_options() -> None:
    with pytest.raises(TypeError, match="provides no slot"):
        Plugin("p", "s", {})
    with pytest.raises(TypeError):
        Plugin("p", "s", {Slot.sampler: print}, suggests={"x": "y"})  # pyright: ignore
    assert Plugin("p", "s", {Slot.sampler: print}).config is NoOptions


def test_a_real_process_reports_one_line(install: Installer, tmp_path: Path) -> None:
    install("odd-pack", {"odd": "plugin"}, source="raise RuntimeError('boom')")
    code = f"import sys; sys.path.insert(0, {str(install.directory)!r}); " + (
        "sys.argv = ['scmkit', 'plugins', 'info', 'odd']; from scmkit_cli.main import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    line = refused(Outcome(done.returncode, done.stdout, done.stderr))
    assert "plugin 'odd' of odd-pack 1.0 is broken: RuntimeError: boom" in line
