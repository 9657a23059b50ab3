"""The command line: what it prints, writes and exits with."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.text import Text
from scmkit_cli.main import app, main
from scmkit_plugins.datasets import digits
from typer.main import get_command

from scmkit import compose, dataset_of
from scmkit.data import StoreWriter
from scmkit.errors import DataError

TINY = [
    *("--set", "mlp.width=8", "--set", "mlp.depth=1", "--set", "mlp.embedding_dim=8"),
    *("--set", "positional.channels=8", "--set", "train.log_every=2"),
]


@pytest.fixture
def scmkit(monkeypatch, capsys):
    """Runs a command in process: `(exit code, stdout, stderr)`."""

    def run(*argv):
        monkeypatch.setattr(sys, "argv", ["scmkit", *map(str, argv)])
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code or 0
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of the main job's plugins, trained in two steps each, into a path with `..`."""
    out = tmp_path_factory.mktemp("runs")
    (out / "x").mkdir()
    command = [sys.executable, "-c", "from scmkit_cli.main import main; main()", "train", *TINY]
    command += ["--plugin", "trigflow", "--plugin", "scd", "--steps", "2", "--name", "r"]
    done = subprocess.run(
        [*command, "--out", out / "x" / ".."],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(out / "r" / "samples" / "00000002.png")
    assert "training one first" in done.stderr
    assert "Traceback" not in done.stderr
    return out / "r"


def test_no_help_is_lost_as_markup():
    """Rich takes `[default: ...]` in a help text for a style, and shows nothing."""

    def helps(command):
        for parameter in command.params:
            yield getattr(parameter, "help", None)
        for inner in getattr(command, "commands", {}).values():
            yield from (inner.help, *helps(inner))

    texts = [text for text in helps(get_command(app)) if text]
    assert len(texts) > 80
    for text in texts:
        assert Text.from_markup(text).plain == text


def test_the_run_is_complete(run):
    assert (run / "teacher" / "recipe.json").exists()
    recipe = json.loads((run / "recipe.json").read_text())
    assert recipe["teacher"]["path"] == "teacher"
    assert recipe["train"]["steps"] == 2
    with Image.open(run / "samples" / "00000002.png") as picture:
        assert picture.size[0] > 2 * 8 * 64


@pytest.mark.parametrize("steps", [1, 2])
def test_sample_to_array(scmkit, run, tmp_path, steps):
    file = tmp_path / "x.npy"
    code, out, _ = scmkit("sample", run, "--n", 5, "--steps", steps, "--class", 3, "--out", file)
    x = np.load(file)
    assert (code, out.strip()) == (0, str(file))
    assert x.shape == (5, 1, 8, 8)
    assert x.dtype == np.float32
    assert np.abs(x).max() <= 1


def test_paths_with_dots_are_those_of_the_system(scmkit, run, tmp_path, monkeypatch):
    """Where a link comes before `..`, too; TensorStore refuses both."""
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "deep" / "er")
    with StoreWriter(tmp_path / "link" / ".." / "s", shape=(2,), dtype="float32") as writer:
        writer.append("train", np.eye(2, dtype=np.float32))
    assert (tmp_path / "deep" / "s" / "scmkit.json").is_file()
    monkeypatch.chdir(tmp_path / "deep")
    for store in ("er/../s", "../link/../s"):
        assert scmkit("data", "info", store)[0] == 0
    code, _, err = scmkit("export", run / ".." / run.name, "er/../../x.safetensors")
    assert (code, err) == (0, "")
    code, _, err = scmkit(
        "convert", "scmkit", tmp_path / "x.safetensors", tmp_path / "link" / ".." / "back"
    )
    assert code == 0, err
    assert (tmp_path / "deep" / "back" / "recipe.json").is_file()


def test_sample_to_picture(scmkit, run, tmp_path):
    file = tmp_path / "x.png"
    code, _, _ = scmkit("sample", run, "--n", 20, "--out", file)
    assert code == 0
    with Image.open(file) as picture:
        picture.verify()


def test_options_of_a_plugin_that_does_not_sample_are_refused(scmkit, run, tmp_path):
    code, _, err = scmkit("sample", run, "--set", "ddim.x=1", "--out", tmp_path / "x.npy")
    assert code != 0
    assert "--set ddim.…: only options of 'consistency' are used here" in err
    assert scmkit("sample", run, "--set", ".x=1")[2].endswith("write it as PLUGIN.OPTION=VALUE\n")


def test_a_sampler_is_the_same_with_its_package(scmkit, run, tmp_path):
    drawn = []
    for name in ("pf-ode", "scmkit:pf-ode"):
        file = tmp_path / f"{len(drawn)}.npy"
        given = ("--sampler", name, "--set", "pf-ode.solver=Euler", "--out", file)
        code, _, err = scmkit("sample", run / "teacher", "--n", 2, "--steps", 3, *given)
        assert code == 0, err
        drawn.append(np.load(file))
    np.testing.assert_array_equal(*drawn)


def test_sample_with_another_sampler(scmkit, run, tmp_path):
    file = tmp_path / "x.npy"
    teacher = run / "teacher"
    code, _, err = scmkit(
        *("sample", teacher, "--n", 3, "--out", file, "--steps", 4),
        *("--set", "pf-ode.solver=Euler"),
    )
    assert code == 0
    assert "pf-ode, 4 steps" in err


def test_eval_table_and_json(scmkit, run):
    pixels = ("--features", "data")
    asked = ("--n", 50, "--metric", "energy-distance", "--steps", "1,2")
    code, out, err = scmkit("eval", run, *asked, *pixels)
    assert code == 0
    assert len(out.splitlines()) == 6
    assert "means over 4 sampling seeds" in out
    assert "(1.00x)" in out
    assert "features" not in err
    code, out, _ = scmkit("eval", run, "--n", 50, "--json", *pixels)
    rows = [json.loads(line) for line in out.splitlines()]
    assert [r["nfe"] for r in rows] == [None, None, None, 1, 2]
    assert [r["seeds"] for r in rows] == [1, 1, 4, 4, 4]
    assert {"energy-distance", "mmd", "sliced-wasserstein", "near-copies"} < set(rows[-1])
    assert rows[0]["energy-distance"] < rows[2]["energy-distance"] < rows[3]["energy-distance"]


def test_eval_in_the_space_of_a_classifier(scmkit, run):
    few = ("--n", 40, "--steps", "1", "--set", "classifier.steps=30")
    code, out, err = scmkit("eval", run, *few)
    assert code == 0, err
    *table, _, told = out.splitlines()
    assert len(table) == 4
    assert "frechet-distance" in table[0]
    assert "precision ↑" in table[0]
    assert table[1].startswith("real data")
    assert table[1].count(" ±") == table[1].count("(1.00x)") == 5
    assert "features        classifier, since these are images with classes" in err
    assert told.startswith("classifier: digest ")
    assert "test accuracy 0." in told
    code, out, _ = scmkit("eval", run, *few, "--metric", "recall", "--json", "--resamples", 0)
    rows = [json.loads(line) for line in out.splitlines()]
    assert [row["intervals"] for row in rows] == [{}] * 3
    assert [row["seconds"] is None for row in rows] == [True, True, False]
    [digest] = {row["features"]["classifier"]["digest"] for row in rows}
    assert digest[:12] in told
    split = ("--split", "train", "--features", "data")
    code, out, _ = scmkit("eval", run, "--n", 20, *split, "--metric", "mmd", "--json")
    row = json.loads(out.splitlines()[0])
    low, high = row["intervals"]["mmd"]
    assert row["name"] == "real data"
    assert low < row["mmd"] < high


def test_eval_knows_the_exact_map(scmkit, tmp_path):
    code, _, err = scmkit(
        *("train", *TINY, "--data", "gmm", "--steps", 2, "--name", "g", "--out", tmp_path),
        *("--teacher", "none"),
    )
    assert code == 0, err
    code, out, _ = scmkit("eval", tmp_path / "g", "--n", 100, "--json", "--steps", "1,2")
    rows = [json.loads(line) for line in out.splitlines()]
    assert ["exact-map" in r for r in rows] == [False, False, False, True, False]
    assert "a sampler that adds no noise" in rows[-1]["missing"]["exact-map"]
    assert {r["n"] for r in rows} == {100}


DATA = Path(__file__).parents[1] / "support" / "files"
WEIGHTS = DATA / "weights" / "edm2.pkl"


def tiny_weights():
    with np.load(DATA / "edm2-tiny.npz") as arrays:
        return {
            name.removeprefix("state/"): arrays[name]
            for name in arrays
            if name.startswith("state/")
        }


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """A tiny network of NVIDIA's with labels and gains that are not zero, as a run."""
    from scmkit.runs.convert import convert

    folder = tmp_path_factory.mktemp("converted")
    np.savez(folder / "w.npz", **tiny_weights())
    # EDM2's own networks never went without their label; guidance asks for one that did.
    given = {"edm2.head_dim": 4, "diffusion.label_dropout": 0.1}
    return convert("edm2", folder / "w.npz", folder / "run", given).path


@pytest.mark.slow
def test_convert_sample_with_guidance_export_and_back(scmkit, converted, tmp_path):
    code, out, err = scmkit("convert", "edm2", WEIGHTS, tmp_path / "run")
    assert (code, out.strip()) == (0, str(tmp_path / "run")), err
    assert "network         edm2" in err
    sample = ("sample", converted, "--n", 2, "--steps", 1, "--class", 3)
    for name, extra in {"plain": (), "guided": ("--guidance", 2), "one": ("--guidance", 1)}.items():
        code, _, err = scmkit(*sample, *extra, "--out", tmp_path / f"{name}.npy")
        assert code == 0, err
    plain, guided, one = (np.load(tmp_path / f"{n}.npy") for n in ("plain", "guided", "one"))
    np.testing.assert_allclose(one, plain, atol=1e-3)
    assert np.abs(guided - plain).max() > 1e-2
    file = tmp_path / "w.safetensors"
    assert scmkit("export", converted, file)[:2] == (0, f"{file}\n")
    code, _, err = scmkit("convert", "scmkit", file, tmp_path / "again")
    assert code == 0, err
    code, _, _ = scmkit("sample", tmp_path / "again", *sample[2:], "--out", tmp_path / "b.npy")
    assert code == 0
    np.testing.assert_array_equal(np.load(tmp_path / "b.npy"), plain)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (("--guidance-interval", "1,2"), "--guidance-interval needs a strength: add --guidance"),
        (("--guide", "x"), "--guide needs a strength"),
        (("--guidance", 2, "--guidance-interval", "2,1"), "give two numbers, LOW,HIGH"),
        (("--guidance", 2, "--guide", "nowhere"), "'nowhere' is not a run"),
        (("--guidance", "nan"), "guidance nan: give a finite strength"),
        (("--seed", 2**32), "4294967295"),
        (("--steps", 10**12), "2147483647"),
    ],
)
def test_guidance_that_makes_no_sense(scmkit, converted, tmp_path, extra, message):
    code, _, err = scmkit("sample", converted, "--n", 1, *extra, "--out", tmp_path / "x.npy")
    assert code == 2
    assert message in err


def test_guidance_of_a_model_that_never_drew_without_a_label(scmkit, tmp_path):
    from scmkit.runs.convert import convert

    np.savez(tmp_path / "w.npz", **tiny_weights())
    given = {"edm2.head_dim": 4, "diffusion.label_dropout": 0}
    run = convert("edm2", tmp_path / "w.npz", tmp_path / "run", given).path
    code, _, err = scmkit("sample", run, "--guidance", 2, "--out", tmp_path / "x.npy")
    assert code == 2
    assert "was trained with every label shown" in err
    assert "--guide" in err


def test_guidance_of_a_student_that_was_not_told(scmkit, run, tmp_path):
    code, _, err = scmkit("sample", run, "--guidance", 2, "--out", tmp_path / "x.npy")
    assert code == 2
    assert "is a consistency model that is told no strength" in err
    assert "distil one with scd and --set scd.guidance_range=1,2" in err


def test_convert_names_what_is_wrong(scmkit, tmp_path):
    (tmp_path / "w.pkl").write_bytes(b"\x80\x04cos\nsystem\n.")
    code, _, err = scmkit("convert", "edm2", tmp_path / "w.pkl", tmp_path / "run")
    assert code == 2
    assert "asks for 'os.system', which no weight file needs" in err
    code, _, err = scmkit("convert", "edm", WEIGHTS, tmp_path / "run")
    assert code == 2
    assert "is not for importer 'edm'" in err
    code, _, err = scmkit("convert", "mlp", WEIGHTS, tmp_path / "run")
    assert code == 2
    assert "plugin 'mlp' is no importer" in err


def test_tune_prints_the_option(scmkit, run):
    code, out, err = scmkit("tune", run, "--n", 50, "--json")
    found = json.loads(out)
    assert code == 0
    assert len(err.splitlines()) == 16
    assert found["default"] == pytest.approx([1.1])
    assert found["option"] == f"--set consistency.angles={found['angles'][0]}"
    code, out, _ = scmkit("tune", run, "--n", 50)
    assert code == 0
    assert "standard error" in out
    code, _, err = scmkit("tune", run / "teacher")
    assert code == 2
    assert "only consistency models" in err


def test_diagnose_draws_and_writes_numbers(scmkit, run, tmp_path):
    out = tmp_path / "stability.png"
    few = ("--points", 5, "--samples", 8)
    code, printed, err = scmkit("diagnose", run, run / "teacher", *few, "--out", out)
    assert (code, printed.strip()) == (0, str(out)), err
    with Image.open(out) as picture:
        picture.verify()
    curves = json.loads(out.with_suffix(".json").read_text())
    assert set(curves) == {str(run), str(run / "teacher")}
    assert "error to the teacher's map: " in err
    assert [angle for angle in curves[str(run)].pop("map_error")] == ["1.56", "1.1", "0.4"]
    for curve in curves.values():
        assert len(curve["angle"]) == 5
        assert np.isfinite([curve["space"], curve["time"], curve["total"]]).all()
    moved = tmp_path / "moved"
    shutil.copytree(run, moved)
    shutil.rmtree(moved / "teacher")
    code, _, err = scmkit("diagnose", moved, *few, "--out", out)
    assert code == 0, err
    assert "error to the teacher's map: not measured: " in err


def test_likelihood_table_and_json(scmkit, run):
    few = ("likelihood", run / "teacher", "--n", 4, "--trace", "hutchinson", "--probes", 2)
    code, out, err = scmkit(*few)
    assert code == 0, err
    assert "4 of the test split, given their class" in out
    assert "uniform over each of 17 levels: an upper bound" in out
    assert "hutchinson, 2 probes" in out
    code, out, _ = scmkit(*few, "--json")
    found = json.loads(out)
    assert code == 0
    low, high = found["interval"]
    assert low < found["bits_per_dimension"] < high
    assert (found["n"], found["levels"], found["probes"]) == (4, 17, 2)
    np.testing.assert_allclose(np.mean(found["each"]), found["bits_per_dimension"])


def test_edits_of_digits(scmkit, run, tmp_path):
    out = tmp_path / "x.npy"
    quick = ("--steps", 2, "--variations", 3, "--index", "5,7")
    code, printed, err = scmkit("edit", "inpaint", run, *quick, "--missing", "top", "--out", out)
    assert (code, printed.strip()) == (0, str(out)), err
    x = np.load(out)
    with np.load(Path(digits.__file__).with_name("digits.npz")) as arrays:
        test = arrays["x_test"]
    given = test[[5, 7], None].repeat(3, axis=0).astype(np.float32) / 8 - 1
    assert x.shape == (6, 1, 8, 8)
    np.testing.assert_array_equal(x[:, :, 4:], given[:, :, 4:])
    assert (x[:, :, :4] != given[:, :, :4]).mean() > 0.5
    picture = tmp_path / "x.png"
    code, _, err = scmkit("edit", "interpolate", run, "--frames", 3, "--out", picture)
    assert code == 0, err
    with Image.open(picture) as image:
        assert image.size == (8 + 5 * 72, 8 + 72)
    for command in (
        ("stroke", run, "--image", picture, "--class", 3, "--steps", 1),
        ("inpaint", run, "--image", out, "--class", 3, "--missing", picture, "--steps", 1),
    ):
        code, _, err = scmkit("edit", *command, "--out", picture)
        assert code == 0, err


def test_edits_of_colour_images(scmkit, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (12, 3, 4, 4), np.uint8)
    with StoreWriter(tmp_path / "store", shape=(3, 4, 4), dtype="uint8") as store:
        store.append("train", pixels)
        store.append("test", pixels[:2])
    code, _, err = scmkit(
        *("train", *TINY, "--data", tmp_path / "store", "--teacher", "none", "--steps", 1),
        *("--batch-size", 4, "--name", "c", "--out", tmp_path),
    )
    assert code == 0, err
    made = tmp_path / "x.npy"
    quick = ("--index", "0,1", "--steps", 1, "--variations", 2, "--out", made)
    code, _, err = scmkit("edit", "colorize", tmp_path / "c", *quick)
    assert code == 0, err
    assert np.load(made).shape == (4, 3, 4, 4)
    code, _, err = scmkit("edit", "interpolate", tmp_path / "c")
    assert code == 2
    assert "is a consistency model, which has no probability-flow ODE\n" in err


def test_plugins_info_shows_sizes(scmkit):
    command = ("plugins", "info", "dit", "--set", "dit.preset=S", "--shape", "4,8,8")
    code, out, err = scmkit(*command, "--classes", 10, "-p", "adaln")
    assert code == 0, err
    assert "size on 4x8x8, 10 classes -p adaln" in out
    rows = [line for line in out.splitlines() if "M parameters" in line]
    assert len(rows) == 1
    assert float(rows[0].split("M parameters")[0]) == pytest.approx(32.5, rel=0.02)
    code, _, err = scmkit("plugins", "info", "dit", "--shape", "4,x")
    assert code == 2
    assert "give positive whole numbers, such as 3,64,64" in err


def test_resume(scmkit, run):
    code, _, err = scmkit("resume", run)
    assert code == 2
    assert "finished at step 2" in err
    code, out, _ = scmkit("resume", run, "--steps", 3)
    assert code == 0
    assert out.strip().endswith("00000003.png")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["train", "--plugin", "trigflw"], "no plugin 'trigflw'; did you mean 'trigflow'?"),
        (["train", "--plugin", "trigflow", "--plugin", "edm"], "both fill the slot 'noise'"),
        (["train", "--set", "scd.c=1"], "'scd' is not part of this recipe"),
        (["train", "--set", "sct.constan=1"], "did you mean 'constant'?"),
        (["train", "--set", "sct.constant=-1"], "option 'sct.constant': bad value '-1'"),
        (["train", "--set", "nonsense"], "PLUGIN.OPTION=VALUE"),
        (["train", "--data", "digit"], "did you mean 'digits'?"),
        (["train", "--data", "./nowhere"], "nowhere"),
        (["train", "--teacher", "./nowhere"], "'"),
        (["train", "--name", "a/b"], "run name 'a/b'"),
        (["train", "-p", "scd", "--teacher", "none"], "learns from a teacher"),
        (["train", "--steps", "0"], "option 'train.steps': bad value 0"),
        (["resume", "nowhere"], "'nowhere' is not a run: no such directory"),
        (["sample", "nowhere"], "'nowhere' is not a run"),
        (["sample", "RUN", "--out", "x.gif"], "ends in .png or .npy"),
        (["sample", "RUN", "--class", "10"], "classes 0 to 9"),
        (["sample", "RUN", "--sampler", "consistencies"], "did you mean 'consistency'?"),
        (["sample", "RUN", "--set", "consistency.angles=9"], "between 0 and pi/2"),
        (["eval", "RUN", "--steps", "one"], "--steps one: give positive whole numbers"),
        (["eval", "RUN", "--metric", "digits"], "plugin 'digits' is no metric"),
        (["eval", "RUN", "--split", "valid"], "--split valid: there are test and train"),
        (["eval", "RUN", "--resamples", "1"], "--resamples 1: give 2 or more"),
        (
            ["eval", "RUN", "--resamples", "9", "--seeds", "2"],
            "--resamples 9: intervals of 2 seeds",
        ),
        (["eval", "RUN", "--features", "inception"], "--set inception.weights=FILE"),
        (["data", "info", "nowhere"], "nowhere"),
        (["likelihood", "RUN"], "but its teacher has: RUN/teacher"),
        (["likelihood", "RUN/teacher", "--probes", "2"], "add --trace hutchinson"),
        (["edit", "inpaint", "RUN/teacher"], "distil it with `scmkit train --plugin scd"),
        (["edit", "inpaint", "RUN", "--index", "0,500"], "numbers from 0 to 499, such as 0,5,9"),
        (["edit", "inpaint", "RUN", "--missing", "middle"], "left, right, top, bottom, centre"),
        (["edit", "stroke", "RUN", "--image", "nowhere.png"], "cannot be read as an image"),
        (["edit", "colorize", "RUN"], "three channels, and this data has 1"),
        (["edit", "superres", "RUN", "--factor", "3"], "blocks of 3x3 pixels do not fill"),
        (["edit", "interpolate", "RUN", "--index", "1"], "name two samples"),
        (["plugins", "info", "nope"], "no plugin 'nope'"),
        (["sample", "RUN", "--seed", "-1"], "--seed -1: give a whole number from 0 to 4294967295"),
        (["sample", "RUN", "--n", "many"], "--n many: give a whole number from 1 to 2147483647"),
        (["edit", "stroke", "RUN", "--angle", "2"], "--angle 2: give a number from 0.01 to 1.57"),
        (["train", "--steps", "1.5"], "--steps 1.5: give a whole number"),
        (["train", "--on-nonfinite", "go"], "'go' is not one of 'stop', 'skip', "),
        (["train", "--stepps", "5"], "no such option: --stepps"),
        (["sample"], "missing argument 'run'; see `scmkit sample --help`"),
        (["sampel"], "no such command 'sampel'"),
        (["train", "--data", "photos.store"], "photos.store: no such folder; create a store with"),
        (["train", "--data", "photos"], "no data 'photos': no plugin has that name, and no store"),
    ],
)
def test_errors_are_one_line_and_exit_2(scmkit, run, tmp_path, monkeypatch, argv, message):
    monkeypatch.chdir(tmp_path)
    code, out, err = scmkit(*(a.replace("RUN", str(run)) for a in argv))
    assert code == 2, err
    assert out == ""
    [line] = [text for text in err.splitlines() if text.startswith("error:")]
    assert message.replace("RUN", str(run)) in line
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def test_every_bound_of_a_number_is_explained_in_one_line(scmkit):
    """Whichever command and option: the value, and what is allowed."""

    def bounded(command, words):
        for parameter in getattr(command, "params", ()):
            low = getattr(getattr(parameter, "type", parameter), "min", None)
            if low is not None:
                yield [*words, parameter.opts[0], str(low - 1)], low
        for name, inner in getattr(command, "commands", {}).items():
            yield from bounded(inner, [*words, name])

    found = list(bounded(get_command(app), []))
    assert len(found) > 40
    for argv, low in found:
        code, out, err = scmkit(*argv)
        assert (code, out) == (2, ""), argv
        [line] = err.splitlines()
        assert line.startswith(f"error: {argv[-2]} {argv[-1]}: give a "), line
        assert f" {low}" in line


def test_who_plays_in_a_method(scmkit):
    code, out, _ = scmkit("plugins", "info", "dmd2", "--set", "dmd2.updates=3")
    assert code == 0
    start = out.splitlines().index("plays (10000 turns, an update each *):")
    assert out.splitlines()[start + 1 : start + 3] == [
        "  fake       ***  another copy of the model, which starts as the teacher",
        "  generator  *    the model, which starts as the teacher",
    ]
    _, out, _ = scmkit("plugins", "info", "progressive-distillation", "--set", "train.steps=80")
    assert "  teacher    ~  follows the generator's newest weights, starts as the teacher" in out
    assert "  stages     |  0 -- 20 -- 40 -- 60 -- 80, the optimizer new in each" in out
    _, out, _ = scmkit("plugins", "info", "sct")
    assert "plays" not in out


def test_a_store_that_is_gone(tmp_path):
    with StoreWriter(tmp_path / "store", shape=(2,), dtype="float32") as writer:
        writer.append("train", np.eye(2, dtype=np.float32))
    recipe = compose(["diffusion"], data=str(tmp_path / "store"))
    (tmp_path / "store").rename(tmp_path / "elsewhere")
    with pytest.raises(
        DataError, match="the store that the run was trained on is gone; move it back"
    ):
        dataset_of(recipe)
    (tmp_path / "store").symlink_to(tmp_path / "elsewhere")
    assert dataset_of(recipe).shape == (2,)


def test_images_to_edit_that_are_damaged(scmkit, run, tmp_path):
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (%s,), }\n"
    (tmp_path / "claim.npy").write_bytes(npy(header % b"99999999999"))
    (tmp_path / "deep.npy").write_bytes(npy(b"-" * 9000 + b"1"))
    # Pillow refuses that size with an error of its own kind.
    (tmp_path / "large.pgm").write_bytes(b"P5 20000 20000 255\n")
    # Pillow would cut it to 8 bits.
    (tmp_path / "16.ppm").write_bytes(b"P6 8 8 65535\n" + bytes(384))
    for name in ("claim.npy", "deep.npy", "large.pgm", "16.ppm"):
        code, _, err = scmkit("edit", "stroke", run, "--image", tmp_path / name)
        assert code == 2, err
        assert f"{name}' cannot be read as an image" in err
        assert "Traceback" not in err


def npy(header: bytes) -> bytes:
    return b"\x93NUMPY\1\0" + len(header).to_bytes(2, "little") + header


def test_debug_shows_the_traceback(run):
    command = [sys.executable, "-c", "from scmkit_cli.main import main; main()"]
    done = subprocess.run(
        [*command, "resume", "nowhere", "--debug"], capture_output=True, text=True, check=False
    )
    assert "Traceback" in done.stderr


def test_usage_errors_exit_2(scmkit):
    assert scmkit("nonsense")[0] == 2
    assert scmkit("train", "--nonsense")[0] == 2


def test_every_command_explains_itself(scmkit):
    commands = (
        "train",
        "resume",
        "replay",
        "run",
        "sample",
        "eval",
        "likelihood",
        "edit",
        "plugins",
        "data",
    )
    for command in commands:
        code, out, _ = scmkit(command, "--help")
        assert code == 0
        assert len(out.splitlines()) > 5


@pytest.mark.parametrize(
    ("number", "code"),
    [pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow), (signal.SIGTERM, 75)],
)
def test_signals_save_and_exit(tmp_path, number, code):
    command = [sys.executable, "-c", "from scmkit_cli.main import main; main()", "train", *TINY]
    command += ["--data", "gmm", "--teacher", "none", "--steps", "1000000", "--name", "r"]
    process = subprocess.Popen(
        [*command, "--out", str(tmp_path)],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    metrics = tmp_path / "r" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (metrics.exists() and metrics.read_text()) and time.monotonic() < deadline:
        time.sleep(0.1)
    os.kill(process.pid, number)
    _, err = process.communicate(timeout=120)
    assert process.returncode == code, err
    [line] = [text for text in err.splitlines() if text.startswith("error: stopped at step")]
    assert "continue with `scmkit resume" in line
    saved = list(Path(tmp_path / "r" / "checkpoints").iterdir())
    assert len(saved) == 1


def test_plugins_info_suggests_what_suits_the_options(scmkit):
    command = ("plugins", "info", "progressive-distillation")
    assert "suggests: --set flow-map.steps=1\n" in scmkit(*command)[1]
    changed = ("--set", "progressive-distillation.last=4")
    assert "suggests: --set flow-map.steps=4\n" in scmkit(*command, *changed)[1]
    assert "samples from: diffusion, flow-map models\n" in scmkit("plugins", "info", "pf-ode")[1]
