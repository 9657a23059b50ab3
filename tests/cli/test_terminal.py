"""No control code out of a file or a package reaches the terminal."""

import dataclasses
import json
import sys
from importlib.metadata import EntryPoint

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from import_files import images, save
from scmkit_cli import terminal
from scmkit_cli.main import main
from scmkit_cli.summary import print_finished, print_recipe

from scmkit import Run, compose
from scmkit.composing import entries as discovery
from scmkit.errors import UsageError
from scmkit.terminal import printable, say
from scmkit.training.progress import Bar

EVIL = "\x1b[31m\x07\x9b2J\u202e\x7f"
anything = st.text(st.characters() | st.sampled_from(EVIL + "\n\r"))


@settings(max_examples=40)
@given(anything)
def test_what_is_printed_is_one_line_of_visible_characters(text):
    shown = printable(text)
    assert shown.isprintable()
    assert printable(shown) == shown
    assert shown == text or not text.isprintable()


@settings(max_examples=40)
@given(anything)
def test_json_stays_what_it_is(text):
    assert json.loads(printable(json.dumps({text: text}))) == {text: text}


def clean(text):
    """Whether a text has lines of visible characters only."""
    return all(line.isprintable() for line in text.splitlines())


def test_every_way_to_a_terminal(capsys):
    terminal.say(EVIL)
    terminal.say(EVIL, err=True)
    say(EVIL)
    Bar().message(EVIL)
    out, err = capsys.readouterr()
    assert clean(out + err)
    assert out == printable(EVIL) + "\n"
    assert err.splitlines() == [printable(EVIL)] * 3
    assert str(UsageError(EVIL)) == printable(EVIL)


@pytest.fixture
def scmkit(monkeypatch, capsys):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["scmkit", *map(str, arguments)])
        code = 0
        try:
            main()
        except SystemExit as exit:
            code = exit.code
        out, err = capsys.readouterr()
        assert clean(out + err)
        return code, out, err

    return run


def test_names_of_plugins(scmkit, monkeypatch):
    entry = discovery.Entry(EVIL, EVIL, EVIL, EntryPoint(EVIL, "nowhere:plugin", discovery.GROUP))
    monkeypatch.setattr(discovery, "entries", lambda: [entry])
    code, out, _ = scmkit("plugins", "list")
    assert code == 0
    assert printable(EVIL) in out
    code, out, _ = scmkit("plugins", "list", "--json")
    assert json.loads(out)["name"] == EVIL
    code, _, err = scmkit("plugins", "info", EVIL)
    assert code == 2
    assert printable(EVIL) in err


def test_names_of_classes_files_and_sources(scmkit, tmp_path):
    for name in (EVIL, "bee"):
        for i in range(2):
            save(tmp_path / "in" / name / f"{i}.png", images(1, 4, 4)[0])
    _, out, err = scmkit("data", "import", tmp_path / "in", tmp_path / f"store{EVIL}")
    assert f"'{printable(EVIL)}'" in err
    assert printable(f"store{EVIL}") in out
    _, out, _ = scmkit("data", "info", tmp_path / f"store{EVIL}")
    assert printable(EVIL) in out
    code, _, err = scmkit("train", "--data", tmp_path / f"store{EVIL}", "--set", "x.y=1")
    assert code == 2
    (tmp_path / "in/bee" / EVIL).write_text("text")
    _, _, err = scmkit("data", "import", tmp_path / "in", tmp_path / "b", "--skip-bad")
    assert f"skipped {tmp_path}/in/bee/{printable(EVIL)}: not an image" in err


def test_the_source_of_a_recipe(capsys):
    recipe = compose(["trigflow", "diffusion"], {}, data="two-moons")
    print_recipe(recipe.replace(data=dataclasses.replace(recipe.data, source=EVIL)))
    err = capsys.readouterr().err
    assert clean(err)
    assert printable(EVIL) in err


@pytest.mark.parametrize(
    ("method", "options", "steps"),
    [
        ("sct", {}, 2),
        ("diffusion", {}, 18),
        ("pid", {}, 1),
        ("tract", {"tract.schedule": "64,8"}, 8),
        ("consistency-fm", {"consistency-fm.segments": 3}, 3),
    ],
)
def test_what_to_do_next_is_in_steps_that_the_model_has(method, options, steps, tmp_path, capsys):
    print_finished(Run(tmp_path, compose([method], options, data="gmm")))
    assert f"scmkit sample {tmp_path} --steps {steps} --out samples.png" in capsys.readouterr().err
