"""Reports: what they compute, what they show, and that a page fetches nothing and runs nobody's code."""

import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from xml.etree import ElementTree

import jax.random as jr
import numpy as np
import pytest
from exact import exact_model
from scmkit_cli.main import main

from scmkit import Run, build_model, compose
from scmkit.composing.build import build_free
from scmkit.composing.recipe import TeacherRecord
from scmkit.errors import UsageError
from scmkit.interfaces import UNCONDITIONED
from scmkit.plugin import Slot
from scmkit.reporting import report
from scmkit.reporting.axes import axis_of, number
from scmkit.reporting.charts import Band, Chart, Series, draw
from scmkit.reporting.cost import duration
from scmkit.reporting.markup import Html, element, join
from scmkit.reporting.neighbors import nearest
from scmkit.reporting.paths import RATIO_MIN, pf_ode_paths
from scmkit.reporting.recipe_picture import changed_options, recipe_picture
from scmkit.reporting.sections import curves
from scmkit.reporting.subjects import Asked, Subject
from scmkit.runs import checkpoint

TINY = {
    "mlp.width": 8,
    "mlp.depth": 1,
    "mlp.embedding_dim": 8,
    "positional.channels": 8,
    "train.steps": 4,
}


LOG = [
    {"step": 2, "loss": 1.0, "lr": 1e-3, "steps_per_second": 0.5},
    {"step": 4, "loss": 0.5, "lr": 1e-4, "steps_per_second": 1.0},
]
SPLIT = {"df_dt": 0.3, "df_dt_by_noise": [0.1, None, 0.3, 0.4]}


def untrained(path, recipe, log):
    """A finished run with fresh weights: what is trained matters to no test here."""
    run = Run.create(path, recipe)
    model = build_model(recipe, key=jr.key(1))
    tree = {"players": {"generator": {"ema": model}}}
    checkpoint.save(run.checkpoints, recipe.train.steps, tree, metadata={})
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log))
    return run


def distilled(path, data):
    """A run of sCD with its teacher inside."""
    recipe = compose(["trigflow", "scd"], TINY, data=data)
    run = untrained(path, recipe, [line | SPLIT for line in LOG])
    teacher = untrained(path / "teacher", recipe.teacher, LOG)
    run.write_recipe(recipe.replace(teacher=TeacherRecord("teacher", teacher.digest())))
    return path


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return distilled(tmp_path_factory.mktemp("runs") / "digits", "digits")


@pytest.fixture(scope="module")
def moons(tmp_path_factory):
    return distilled(tmp_path_factory.mktemp("runs") / "moons", "two-moons")


@pytest.fixture(scope="module")
def line(tmp_path_factory):
    recipe = compose(["edm", "diffusion"], TINY, data="gmm")
    return untrained(tmp_path_factory.mktemp("runs") / "line", recipe, LOG).path


class Page(HTMLParser):
    """What is on a page; raises for an element that is not closed where it should be."""

    VOID = ("meta", "img", "input", "link", "br")

    def __init__(self, source):
        super().__init__()
        self.open, self.tags, self.attributes, self.scripts, self.text = [], [], [], [], ""
        self.ids = []
        self.feed(source)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        names = [name for name, _ in attrs]
        assert len(set(names)) == len(names)
        self.tags.append(tag)
        self.attributes += [(tag, *pair) for pair in attrs]
        self.ids += [value for name, value in attrs if name == "id"]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            self.scripts.append(data)
        elif "style" not in self.open:
            self.text += data


@pytest.fixture(scope="module")
def digits_page(digits):
    return report([digits], n=80, steps=[1, 2], features="data")


@pytest.fixture(scope="module")
def plane_page(moons, line):
    return report([moons, line], metrics=False, steps=[1])


@pytest.mark.parametrize("which", ["digits_page", "plane_page"])
def test_a_page_is_well_formed_and_fetches_nothing(which, request):
    source = request.getfixturevalue(which)
    page = Page(source)
    first = ["recipe", "samples", "trajectories", "metrics", "training"]
    assert page.ids == [*first, "stability", "nearest-neighbors", "commands"]
    for tag, name, value in page.attributes:
        assert not name.startswith("on")
        if name in ("src", "href"):
            assert value.startswith("#" if tag == "a" else "data:image/png;base64,")
    assert not re.search(r"https?:|url\(|@import", source)
    policy = next(v for _, name, v in page.attributes if name == "content" and "src" in v)
    assert policy.startswith("default-src 'none'; img-src data:;")


def test_a_report_on_images_shows_everything(digits, digits_page):
    page = Page(digits_page)
    assert "Left out" not in page.text
    for shown in (
        "digits: consistency, 1 step",
        "digits, teacher: pf-ode, 18 steps",
        "energy-distance",
        "real data",
        "‖df/dt‖, digits",
        "learning rate",
        "student, 2 steps",
        f"scmkit train --recipe {digits}/recipe.json --seed 1",
        "Peak memory of this process",
    ):
        assert shown in page.text
    assert page.tags.count("canvas") == 0
    recipe = Run.load(digits).recipe
    assert {"trigflow", "scd", "mlp", "adaptive-double-norm"} <= set(recipe.slots.values())
    for plugin in recipe.slots.values():
        assert plugin in page.text


def test_vectors_have_a_flow_and_curves_and_no_neighbours(plane_page):
    page = Page(plane_page)
    assert "Left out: pairs are shown for images" in page.text
    assert "Left out: they were switched off with --no-metrics." in page.text
    assert "moons, teacher" in page.text
    assert page.tags.count("canvas") == 1
    flow = json.loads(page.scripts[0])
    assert len(flow["frames"]) == len(flow["times"]) == 61
    assert flow["times"] == sorted(flow["times"], reverse=True)
    assert list(flow["ends"]) == ["1"]  # The second step draws noise, and lands elsewhere.
    lengths = {len(frame) for frame in (*flow["frames"], *flow["ends"].values())}
    assert lengths == {800}
    numbers = np.concatenate([*flow["frames"], flow["reference"]])
    assert numbers.dtype == np.int64
    assert 0 <= numbers.min() < numbers.max() <= 1200
    assert "−t, from noise to data" in page.text


def test_losses_of_players_stand_behind_the_generators(monkeypatch, line):
    values = {"loss": 1.0, "grad_norm": 2.0, "critic/loss": 3.0, "critic/grad_norm": 4.0}
    lines = [{"step": step, "other": 5.0, **values} for step in (1, 2)]
    monkeypatch.setattr(Run, "metrics", property(lambda run: lines))
    text = curves.section([Subject("one", Run.load(line), "c0", Asked())], Asked()).body
    titles = [
        "loss<",
        "loss of player",
        "gradient norm<",
        "gradient norm of player",
        "other",
    ]
    found = [text.index(title) for title in titles]
    assert found == sorted(found)


def test_the_same_run_gives_the_same_page(line):
    one, two = (report([line], metrics=False, steps=[1]) for _ in range(2))
    assert one == two


def test_names_and_paths_of_strangers_are_text(line, tmp_path):
    hostile = "<img src=x onerror=alert(1)>&\"' $x$"
    run = tmp_path / hostile
    shutil.copytree(line, run)
    recipe = json.loads((run / "recipe.json").read_text())
    recipe["teacher"] = {"path": "</div><script>alert(2)</script>", "digest": None}
    (run / "recipe.json").write_text(json.dumps(recipe))
    lines = [json.loads(text) for text in (run / "metrics.jsonl").read_text().splitlines()]
    lines[0]["<b>loss</b>"] = 1.0
    (run / "metrics.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines))
    page = Page(report([run], metrics=False, steps=[1]))
    assert hostile in page.text
    assert "script>alert(2)</script>" in page.text
    assert "<b>loss</b>" in page.text
    assert page.tags.count("script") == 1
    assert not [v for tag, name, v in page.attributes if (tag, name) == ("img", "src")]
    assert not any(name.startswith("on") for _, name, _ in page.attributes)


def test_a_section_that_fails_leaves_the_others(line, tmp_path):
    run = tmp_path / "gone"
    shutil.copytree(line, run)
    recipe = json.loads((run / "recipe.json").read_text())
    del recipe["slots"]["dataset"]
    recipe["data"]["source"] = str(tmp_path / "nowhere")
    (run / "recipe.json").write_text(json.dumps(recipe))
    (run / "metrics.jsonl").unlink()
    page = Page(report([run], steps=[1]))
    for reason in ("the runs have no metrics.jsonl", "pairs are shown for images"):
        assert f"Left out: {reason}" in page.text
    assert page.text.count("Left out: ") == 5
    assert page.text.count(f"Left out: {tmp_path / 'nowhere'}: the store that the run was") == 3
    assert "−t, from noise to data" in page.text


def test_runs_that_cannot_be_shown(line, tmp_path):
    with pytest.raises(UsageError, match="is named twice"):
        report([line, line / ".." / line.name])
    Run.create(tmp_path / "fresh", Run.load(line).recipe)
    with pytest.raises(UsageError, match="has no checkpoint yet"):
        report([tmp_path / "fresh"])
    with pytest.raises(UsageError, match="'nowhere' is not a run"):
        report(["nowhere"])


def test_what_differs_from_the_defaults_is_in_the_picture(digits):
    recipe = Run.load(digits).recipe
    assert changed_options(recipe, "mlp") == {"width": 8, "depth": 1, "embedding_dim": 8}
    picture = recipe_picture(recipe)
    assert "width <b>8</b>" in picture
    assert "layers" not in picture


@pytest.mark.parametrize("process", ["edm", "flow-matching"])
def test_paths_are_the_exact_ones_of_a_gaussian(process):
    """For N(0, s^2) a path is `sqrt(alpha^2 s^2 + sigma^2)` times a constant, whatever the process."""
    s, ratio_max = 0.2, 40.0
    noise = jr.normal(jr.key(0), (5, 3))
    model = exact_model(compose_process(process), s)
    paths = pf_ode_paths(model, noise, UNCONDITIONED, points=41, ratio_max=ratio_max)
    assert paths.states.shape == paths.denoised.shape == (41, 5, 3)
    assert np.tan(paths.angle[0]) * 0.5 == pytest.approx(ratio_max, rel=1e-3)
    assert np.tan(paths.angle[-1]) * 0.5 == pytest.approx(RATIO_MIN, rel=1e-2)
    size = np.hypot(np.cos(paths.angle) * s, np.sin(paths.angle) * 0.5)
    expected = np.asarray(noise) * (size * np.sin(paths.angle[0]) * 0.5 / size[0])[:, None, None]
    np.testing.assert_allclose(paths.states, expected, atol=2e-3)
    np.testing.assert_allclose(paths.denoised[-1], paths.states[-1], atol=2e-3)


def compose_process(name):
    return build_model(compose([name, "diffusion"], TINY, data="gmm"), key=jr.key(0)).process


def test_neighbours_are_the_nearest():
    data = build_free(Slot.dataset, "digits", {})
    train = data.read("train", np.arange(data.size("train")))[0]
    index, distance = nearest(train[[7, 30]], data)
    np.testing.assert_array_equal(index, [7, 30])
    np.testing.assert_array_equal(distance, 0)
    samples = np.random.default_rng(0).normal(size=(3, 1, 8, 8)).astype(np.float32)
    plain = np.sqrt(((samples[:, None] - train[None]) ** 2).mean((2, 3, 4)))
    index, distance = nearest(samples, data)
    np.testing.assert_array_equal(index, plain.argmin(1))
    np.testing.assert_allclose(distance, plain.min(1), rtol=1e-5)


def test_markup_escapes_what_is_no_markup():
    made = element("p", "<a>", Html("<b></b>"), title='"><', hidden=True, class_="c", data_x=None)
    assert made == '<p title="&quot;&gt;&lt;" hidden class="c">&lt;a&gt;<b></b></p>'
    assert join("a", None, "b", by=", ") == "a, b"


def test_axes_place_their_ends_and_tick_in_round_numbers():
    linear = axis_of(np.asarray([1.0, np.nan, 11.0]), margin=0.0)
    np.testing.assert_allclose(linear.place(np.asarray([1.0, 6.0, 11.0])), [0, 0.5, 1])
    assert linear.ticks == (2, 4, 6, 8, 10)
    assert axis_of(np.asarray([0.0, 0.3])).ticks == pytest.approx((0, 0.1, 0.2, 0.3))
    wide = axis_of(np.asarray([0.1, 1000.0]), margin=0.0)
    assert wide.log
    np.testing.assert_allclose(wide.place(np.asarray([0.1, 10.0, 1000.0])), [0, 0.5, 1])
    assert wide.ticks == pytest.approx((0.1, 1, 10, 100, 1000))
    assert axis_of(np.asarray([5.0])).place(np.asarray([5.0])) == 0.5
    assert axis_of(np.asarray([np.nan])).ticks
    assert len(axis_of(np.asarray([2.0, 3.0]), log=True).ticks) >= 3


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0, "0"), (0.0123, "0.0123"), (-2.5e-5, "−2.5e−5"), (3500, "3.5 k"), (2.45e6, "2.45 M")],
)
def test_numbers_are_short(value, shown):
    assert number(value) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (3.7e-5, "37 µs"),
        (1.5e-3, "1.5 ms"),
        (35.0, "35 s"),
        (250.0, "4 min 10 s"),
        (7500.0, "2 h 5 min"),
    ],
)
def test_times_are_what_people_say(seconds, shown):
    assert duration(seconds) == shown


def test_a_chart_holds_its_points_and_bars():
    x, y = np.asarray([1.0, 2.0, 4.0]), np.asarray([0.0, np.nan, 1.0])
    spread = np.asarray([[0, 0.5], [np.nan, np.nan], [0.5, 1]])
    series = Series("<run>", x, y, "c1", "markers", spread)
    chart = Chart(
        "t", [series], "NFE", log_x=True, x_ticks=(1.0, 2.0, 4.0), band=Band("real", 0.2, 0.3)
    )
    root = ElementTree.fromstring(draw(chart))
    circles = [e for e in root.iter("circle")]
    assert [c.find("title").text for c in circles] == ["<run>: 0 at 1", "<run>: 1 at 4"]
    assert len([e for e in root.iter("path") if e.get("class") == "spread"]) == 2
    assert len([e for e in root.iter("rect") if e.get("class") == "band"]) == 1
    middles = [float(e.get("x")) for e in root.iter("text") if e.get("class") == "x tick"]
    assert middles[1] - middles[0] == pytest.approx(middles[2] - middles[1], abs=0.2)
    line = next(e for e in root.iter("path") if e.get("class") == "line")
    assert line.get("d").count("M") == 2  # broken at the NaN


def test_a_long_line_is_averaged_down():
    x = np.arange(4000.0)
    root = ElementTree.fromstring(draw(Chart("t", [Series("s", x, x)])))
    line = next(e for e in root.iter("path") if e.get("class") == "line")
    assert line.get("d").count("L") == 399


def test_the_command(line, tmp_path, monkeypatch, capsys):
    def scmkit(*argv):
        monkeypatch.setattr(sys, "argv", ["scmkit", "report", *map(str, argv)])
        try:
            main()
        except SystemExit as stop:
            return stop.code or 0, *capsys.readouterr()
        return 0, *capsys.readouterr()

    out = tmp_path / "page.html"
    code, printed, err = scmkit(line, "--out", out, "--steps", 1, "--no-metrics")
    assert (code, printed.strip()) == (0, str(out)), err
    assert "Trajectories ..." in err
    assert "scmkit report" in Page(out.read_text()).text
    code, _, err = scmkit(line, "--out", "page.pdf")
    assert code == 2
    assert "use a name that ends in .html" in err
    code, _, err = scmkit(line, "--steps", "1,0")
    assert code == 2
    assert "--steps 1,0: give positive whole numbers" in err


CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)


@pytest.mark.skipif(
    CHROMIUM is None,
    reason="no Chromium: apt-get update && apt-get install -y --no-install-recommends chromium",
)
def test_a_browser_runs_the_flow_without_a_complaint(plane_page, tmp_path):
    file = tmp_path / "page.html"
    file.write_text(plane_page)
    assert CHROMIUM is not None
    flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync"
    flags += " --disable-background-networking --disable-component-update --enable-logging=stderr"
    flags += " --virtual-time-budget=2000 --window-size=1280,6000 --dump-dom"
    done = subprocess.run(
        [CHROMIUM, *flags.split(), f"--user-data-dir={tmp_path / 'profile'}", file.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert "CONSOLE" not in done.stderr, done.stderr
    assert 'data-ready="true"' in done.stdout
    [drawn] = re.findall(r'data-drawn="(\d+)"', done.stdout)
    assert int(drawn) > 0  # What a blank canvas sums to.
    [time] = re.findall(r"<output>t = ([\d.]+)</output>", done.stdout)
    assert 0 <= float(time) < np.pi / 2
