"""The examples run, the plugin template is a package that can be installed, named and checked, and the
commands in the documentation are right."""

import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scmkit_cli.summary
from PIL import Image
from scmkit_cli.main import app
from typer.testing import CliRunner

import scmkit
from scmkit import Recipe, compose
from scmkit.data import StoreWriter
from scmkit.data.layout import PairsRecord

DOCS = Path(__file__).parent.parent / "docs"
EXAMPLES = Path(__file__).parent.parent / "examples"
TINY = {
    "mlp.width": 16,
    "mlp.depth": 1,
    "mlp.embedding_dim": 8,
    "positional.channels": 8,
    "train.checkpoint_every": 9,
    "train.sample_every": 9,
}


@pytest.fixture
def run(tmp_path):
    """Runs Python in an empty folder, and returns what it printed; fails where it fails."""

    def run(*args, **env):
        quick = {"PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(
            [sys.executable, *map(str, args)],
            cwd=tmp_path,
            env=os.environ | quick | {name: str(value) for name, value in env.items()},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder with the template as pip installs it, and its tests beside."""
    folder = tmp_path_factory.mktemp("template")
    source = shutil.copytree(
        EXAMPLES / "plugin_template",
        folder / "source",
        ignore=shutil.ignore_patterns("__pycache__", ".pytest_cache"),
    )
    # Where the build backend is at hand, nothing needs to be downloaded.
    isolation = ["--no-build-isolation"] if importlib.util.find_spec("hatchling") else []
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    done = subprocess.run(
        [*pip, "--no-deps", *isolation, "--target", str(folder / "site"), str(source)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
def test_toy_2d_draws_four_panels(run, tmp_path):
    printed = run(EXAMPLES / "toy_2d.py", "--steps", 2, "--samples", 100).splitlines()
    assert printed[-1] == "toy_2d.png"
    assert [line.split("  ")[0] for line in printed[2:5]] == [
        "pf-ode, 18 steps",
        "consistency, 1 step",
        "consistency, 2 steps",
    ]
    pixels = np.asarray(Image.open(tmp_path / "toy_2d.png"))
    height, width, _ = pixels.shape
    panels = [pixels[:, i * (height + 24) : i * (height + 24) + height] for i in range(4)]
    assert width == 4 * height + 3 * 24
    assert all((panel != 255).any() for panel in panels)


@pytest.mark.slow
def test_distillation_crosses_processes(run, tmp_path):
    printed = run(EXAMPLES / "distillation.py", "--steps", 2).splitlines()
    names = [line[:45].strip() for line in printed[2:]]
    assert names[0].startswith("real")
    assert names[1].startswith("Gaussian")
    assert names[2:] == [
        "pf-ode, 18 steps",
        "consistency, 1 step",
        "consistency, 2 steps",
    ]
    runs = sorted(path.name for path in (tmp_path / "runs").iterdir())
    assert runs == ["digits-flow-matching-diffusion-001", "digits-trigflow-scd-001"]


@pytest.mark.slow
def test_editing_draws_three_parts(run, tmp_path):
    printed = run(EXAMPLES / "editing.py", "--steps", 2).splitlines()
    assert [line.split()[0] for line in printed] == [
        "teacher",
        "Pixels",
        "BlockMeans",
        "editing.png",
    ]
    assert "off by 0.0e+00" in printed[1]
    assert float(printed[0].split()[-1]) < 1e-3
    with Image.open(tmp_path / "editing.png") as picture:
        assert picture.size == (8 + 7 * 72, 3 * 8 + 9 * 72)


@pytest.mark.slow
def test_custom_loss_approaches_the_exact_map(run):
    printed = run(EXAMPLES / "custom_loss.py", "--steps", 20).splitlines()
    errors = [float(line.split()[-1]) for line in printed]
    assert len(errors) == 11
    assert errors[-1] < 0.8 * errors[0]


def test_every_example_is_listed():
    listed = (EXAMPLES / "README.md").read_text()
    for example in EXAMPLES.iterdir():
        assert example.name == "README.md" or f"`{example.name}" in listed


def test_template_trains_by_name(run, installed, tmp_path):
    settings = [text for k, v in TINY.items() for text in ("--set", f"{k}={v}")]
    printed = run(
        "-c",
        "from scmkit_cli.main import main; main()",
        *("train", "--plugin", "cosine", "--plugin", "huber-ct", "--teacher", "none"),
        *("--data", "gmm", "--steps", 3, "--batch-size", 8, "--name", "template"),
        *("--set", "huber-ct.halvings=2", *settings),
        PYTHONPATH=installed / "site",
    )
    assert printed.strip() == str(Path("runs/template/samples/00000003.png"))
    recipe = (tmp_path / "runs/template/recipe.json").read_text()
    for recorded in ('"noise": "cosine"', '"parameterization": "preconditioned"', "scmkit-cosine"):
        assert recorded in recipe


def test_template_passes_its_conformance_checks(run, installed):
    source, site = installed / "source", installed / "site"
    printed = run("-m", "pytest", "-q", source / "tests", "--rootdir", source, PYTHONPATH=site)
    assert " passed" in printed
    assert "failed" not in printed
    assert "skipped" not in printed


def fenced(text, language):
    """The contents of the code blocks in one language; "" for those without."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [content for name, content in blocks if name == language]


def test_documented_trainings_compose(tmp_path, monkeypatch):
    pages = {page.name: page.read_text() for page in DOCS.glob("*.md")}
    lines = [
        line for text in pages.values() for block in fenced(text, "") for line in block.split("\n")
    ]
    # Of a mesh the devices are not here.
    plain = [re.sub(r"--mesh \S+", "", line) for line in lines]
    found = [re.search(r"scmkit (train .*)", line) for line in plain]
    commands = [shlex.split(one[1], comments=True) for one in found if one]
    assert len(commands) > 10

    monkeypatch.chdir(tmp_path)
    (toml,) = [block for block in fenced(pages["guide.md"], "toml") if block.startswith("# moons")]
    Path("moons.toml").write_text(toml)
    for name, side in (("photos", 32), ("emoji", 32), ("imagenet64", 64)):
        with StoreWriter(f"{name}.store", shape=(3, side, side), dtype="uint8") as store:
            some = np.arange(2 * 3 * side * side).astype(np.uint8).reshape(2, 3, side, side)
            store.append("train", some)
    names = {"moons.pairs": (2,), "moons-2.pairs": (2,), "pairs": (1, 8, 8)}
    for name, shape in names.items():
        times = (3.0, 1.0, 0.1) if name == "pairs" else ()
        some = np.arange(2 * np.prod(shape), dtype=np.float32).reshape(2, *shape)
        states = {"states": np.stack([some] * len(times), axis=1)} if times else {}
        record = PairsRecord("flow", 1, "", "trigflow", {}, 1.0, "ddim", {}, 1, 0, times=times)
        with StoreWriter(name, shape=shape, dtype="float32", pairs=record) as store:
            store.append("train", some, noise=some, **states)
            store.append("test", some)
    edm2 = compose(("edm", "fourier", "mp-gain", "edm2", "diffusion"), data="./imagenet64.store")
    teacher = compose(("trigflow", "diffusion"))
    flow = compose(("flow-matching", "diffusion"), data="two-moons")
    runs = {"NAME": compose(), "teacher": teacher, "edm2-s": edm2, "flow": flow, "flow-2": flow}
    runs["dit"] = compose(("flow-matching", "dit", "diffusion"))
    for name, recipe in runs.items():
        Path(f"runs/{name}").mkdir(parents=True)
        Path(f"runs/{name}/recipe.json").write_text(json.dumps(recipe.to_json()))

    recipes = []
    monkeypatch.setattr(scmkit, "train", lambda recipe, **_: recipes.append(recipe), raising=False)
    monkeypatch.setattr(scmkit_cli.summary, "print_finished", lambda run: None)
    for command in commands:
        result = CliRunner().invoke(app, command)
        assert result.exit_code == 0, (command, result.exception)
    assert len(recipes) == len(commands)
    assert all(isinstance(recipe, Recipe) for recipe in recipes)
