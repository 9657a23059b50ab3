"""Benches: one budget, shared teachers, nothing done twice, and failures that stay where they are."""

import dataclasses
import json
import math
import os
import signal
import sys
from pathlib import Path

import pytest
from scmkit_cli.bench_files import View, results_left
from scmkit_cli.main import main
from scmkit_cli.streams import stoppable
from small_runs import Reporter

from scmkit import Recipe, Run
from scmkit.composing.environment import environment
from scmkit.errors import (
    Interrupted,
    OptionError,
    PluginError,
    Preempted,
    RunError,
    ScmkitError,
    UsageError,
)
from scmkit.evaluation import GAUSSIAN, REAL, Row, evaluate
from scmkit.evaluation.intervals import estimate
from scmkit.reporting.trials import (
    Cell,
    Plan,
    Result,
    Setting,
    bench,
    bench_page,
    summarise,
    table_of,
    verdicts,
)
from scmkit.reporting.trials.measuring import kept, row_of
from scmkit.reporting.trials.plan import claimed, plain, teacher_path

TINY = {
    "mlp.width": 8,
    "mlp.depth": 1,
    "mlp.embedding_dim": 8,
    "positional.channels": 8,
    "scd.warmup_steps": 1,
}
PLAN = Plan(
    ("trigflow,diffusion", "trigflow,scd"),
    data=("gmm",),
    seeds=1,
    steps=4,
    batch_size=16,
    settings=TINY,
    sampling=(1,),
    metrics=("energy-distance",),
    n=64,
)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A bench stopped in the middle of its second run, and what was started until then."""
    out = tmp_path_factory.mktemp("bench")
    reporter = Reporter(("trigflow-scd-0", 2), lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(Interrupted, match="run the same command again to continue"):
        bench(PLAN, out, reporter=reporter)
    return out, reporter


@pytest.fixture(scope="module")
def finished(stopped):
    """The same bench, continued."""
    reporter = Reporter()
    told = []
    results = bench(PLAN, stopped[0], reporter=reporter, finished=lambda r: told.append(len(r)))
    assert told == [1, 2]
    return stopped[0], reporter, results


def test_a_stopped_bench_continues_where_it_was(stopped, finished):
    _, first = stopped
    _, second, results = finished
    assert first.names == [("trigflow-diffusion-0", 0, 4), ("trigflow-scd-0", 0, 4)]
    assert second.names == [("trigflow-scd-0", 3, 4)]
    assert [r.error for r in results] == [None, None]


def test_a_teacher_that_is_a_cell_is_trained_once(finished):
    out, _, results = finished
    assert results[1].teacher == "gmm/trigflow-diffusion-0"
    assert results[1].teacher_seconds == results[0].seconds > 0
    recipe = json.loads((out / "gmm/trigflow-scd-0/recipe.json").read_text())
    assert recipe["teacher"]["path"] == str((out / "gmm/trigflow-diffusion-0").resolve())
    assert not list((out / "gmm").glob("*/teacher"))


def test_rows_of_real_data_come_once(finished):
    names = [[row.name for row in result.rows] for result in finished[2]]
    assert names[0][0] == REAL
    assert names[1] == ["consistency, 1 step"]


def test_finished_runs_are_neither_trained_nor_measured_again(finished, monkeypatch):
    out, _, results = finished
    monkeypatch.setattr("scmkit.reporting.trials.measuring.evaluate", None)
    reporter = Reporter()
    assert bench(PLAN, out, reporter=reporter) == results
    assert reporter.names == []


@pytest.mark.parametrize(
    ("number", "kind"), [(signal.SIGINT, Interrupted), (signal.SIGTERM, Preempted)]
)
def test_a_stop_while_something_is_measured_says_how_to_go_on(finished, monkeypatch, number, kind):
    """As the command takes signals; from Python, Ctrl-C is Python's own."""

    def signalled(*args, **kwargs):
        os.kill(os.getpid(), number)

    monkeypatch.setattr("scmkit.reporting.trials.measuring.evaluate", signalled)
    message = r"diffusion-0; run the same command again to continue"
    with pytest.raises(kind, match=message), stoppable():
        bench(dataclasses.replace(PLAN, n=32), finished[0], reporter=Reporter())
    if number == signal.SIGINT:
        with pytest.raises(kind, match=message):
            bench(dataclasses.replace(PLAN, n=32), finished[0], reporter=Reporter())


def test_a_bench_that_goes_on_keeps_what_it_had_written_until_there_is_more(finished, tmp_path):
    results = finished[2]
    view = View(tmp_path, Setting(PLAN, {}, {}), None, environment("bench"), None)
    view.update(results[:1])
    assert results_left(tmp_path) == 1
    again = dataclasses.replace(view, left=results_left(tmp_path))
    written = (tmp_path / "bench.json").read_bytes()
    again.update([dataclasses.replace(results[0], parameters=1)])
    assert (tmp_path / "bench.json").read_bytes() == written
    again.update(results)
    assert results_left(tmp_path) == 2


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"results": 3}', '{"results": "abc"}', '{"results": {"a": 1}}', "{"]
)
def test_a_file_that_is_no_bench_has_left_nothing(tmp_path, text):
    (tmp_path / "bench.json").write_text(text)
    assert results_left(tmp_path) == 0


def test_a_measurement_that_is_damaged_is_named(finished):
    out, _, _ = finished
    [file] = [f for f in out.rglob("*.json") if "asked" in f.read_text()][:1]
    whole = file.read_text()
    asked = json.loads(whole)["asked"]
    for content in ("[", "3", "{}", "[" * 5000, json.dumps({"asked": asked, "rows": [{}]})):
        file.write_text(content)
        with pytest.raises(RunError, match="remove it to measure again"):
            kept(file, asked)
    file.write_text(whole)


def test_a_run_that_fails_loses_no_other(finished, tmp_path, monkeypatch):
    out, _, results = finished
    file = out / "gmm/trigflow-scd-0/recipe.json"
    before = file.read_text()
    recipe = json.loads(before)
    recipe["train"]["lr"] = 1.0
    file.write_text(json.dumps(recipe))
    try:
        plan = dataclasses.replace(PLAN, methods=PLAN.methods[::-1])
        again = bench(plan, out, reporter=Reporter())
    finally:
        file.write_text(before)
    assert "was trained with other settings" in str(again[0].error)
    assert again[0].rows == ()
    # The rows of real data are those of the first method that does not fail.
    assert again[1] == results[0]


def test_the_command(finished, monkeypatch, capsys):
    out, _, results = finished
    argv = ["--method", "trigflow,diffusion", "--method", "trigflow,scd", "--data", "gmm"]
    argv += ["--seeds", "1", "--steps", "4", "--batch-size", "16", "--eval-steps", "1", "--n", "64"]
    argv += ["--metric", "energy-distance", "--out", str(out)]
    for key, value in TINY.items():
        argv += ["--set", f"{key}={value}"]
    monkeypatch.setattr(sys, "argv", ["scmkit", "bench", *argv])
    assert exit_code() == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "gmm"
    assert printed[1].split() == ["NFE", "energy-distance"]
    assert [line for line in printed if line.startswith("trigflow,scd: consistency, 1 step")]
    content = json.loads((out / "bench.json").read_text())
    assert {"command", "date", "device", "python", "versions"} == set(content["environment"])
    assert [row["method"] for row in content["table"]][-1] == "trigflow,scd"
    assert content["results"][1]["parameters"] == results[1].parameters
    page = (out / "bench.html").read_text()
    assert "trigflow,scd: consistency, 1 step" in page
    assert "http" not in page.replace("http-equiv", "")
    monkeypatch.setattr(sys, "argv", ["scmkit", "bench", "-m", "scd", "--eval-steps", "x"])
    assert exit_code() == 2
    assert "--eval-steps x: give positive whole numbers" in capsys.readouterr().err


def exit_code():
    try:
        main()
    except SystemExit as stop:
        return stop.code or 0
    return 0


def test_methods_with_the_same_model_share_a_teacher():
    recipes = Plan(("trigflow,scd", "trigflow,sct", "edm,scd"), seeds=2).checked()
    where = {cell: teacher_path(recipes, cell) for cell in recipes}
    one, two, other = (
        where[Cell("digits", m, 0)] for m in ("trigflow,scd", "trigflow,sct", "edm,scd")
    )
    assert one == two != other
    assert one.parts[0] == "digits"
    assert one.name.startswith("teacher-")
    assert where[Cell("digits", "trigflow,scd", 1)] != one


def test_the_budget_is_everyones():
    plan = Plan(("trigflow,scd", "edm,diffusion"), seeds=2, steps=7, batch_size=32)
    recipes = plan.checked()
    teachers = [r.teacher for r in recipes.values() if isinstance(r.teacher, Recipe)]
    assert len(recipes) == 4
    assert len(teachers) == 2
    assert {(r.train.steps, r.train.batch_size) for r in (*recipes.values(), *teachers)} == {
        (7, 32)
    }
    assert [cell.seed for cell in recipes] == [0, 0, 1, 1]
    assert [r.train.seed for r in recipes.values()] == [0, 0, 1, 1]


def test_settings_go_where_they_belong():
    given = {"sct.constant": 0.2, "scd.constant": 0.3, "mlp.width": 8}
    sct, scd = Plan(("sct", "scd"), seeds=1, settings=given).checked().values()
    assert sct.plugins["sct"].config["constant"] == 0.2
    assert scd.plugins["scd"].config["constant"] == 0.3
    assert sct.plugins["mlp"].config["width"] == scd.plugins["mlp"].config["width"] == 8


def test_settings_of_one_method():
    methods = ("trigflow,scd", "trigflow,scd,train.lr=2e-3,scd.constant=3,teacher.train.lr=0.5")
    usual, other = Plan(methods, seeds=1).checked().values()
    assert (other.train.lr, other.plugins["scd"].config["constant"]) == (2e-3, 3)
    assert usual.train.lr != 2e-3
    assert isinstance(other.teacher, Recipe)
    assert other.teacher.train.lr == 0.5
    assert other.teacher.train.steps == usual.train.steps
    assert claimed("trigflow,scd>sct", ("trigflow,scd", "sct,sct.constant=1"))[0][1].startswith(
        "sct"
    )


@pytest.mark.parametrize(
    ("plan", "error", "message"),
    [
        (Plan(()), UsageError, "a bench needs a method"),
        (Plan(("scd", "scd")), UsageError, "name each method and data set once"),
        (Plan(("trigflw,scd",)), PluginError, "did you mean 'trigflow'"),
        (Plan(("scd",), settings={"mlpp.width": 8}), OptionError, "did you mean 'mlp'"),
        (Plan(("scd",), settings={"mlp.widht": 8}), OptionError, "did you mean 'width'"),
        (Plan(("scd,mlpp.width=8",)), OptionError, "did you mean 'mlp'"),
        (Plan(("scd",), guidance=(1,)), UsageError, "no strength; add --set scd.guidance_range="),
        (
            Plan(("sct",), guidance=(1,)),
            UsageError,
            "'sct' makes a consistency model .* no strength$",
        ),
        (Plan(("diffusion",), ("gmm",), guidance=(1,)), UsageError, "'gmm' has no classes"),
        (
            Plan(("diffusion",), guidance=(1,), settings={"diffusion.label_dropout": 0}),
            UsageError,
            "trained with every label shown",
        ),
        (Plan(("diffusion",), guidance=(-1,)), UsageError, "guidance -1: give a finite strength"),
        (
            Plan(("x,a", "x,b"), metrics=("recall",), orders=("a>b in recal",)),
            UsageError,
            "'recall'",
        ),
    ],
)
def test_what_cannot_work_is_said_before_training(plan, error, message, tmp_path):
    with pytest.raises(error, match=message):
        bench(plan, tmp_path)
    assert not list(tmp_path.iterdir())


def test_names_of_files():
    assert plain("trigflow,scd") == "trigflow-scd"
    assert plain("./data/photos.store/") == "photos.store"
    assert plain("noise=pkg:edm,scd") == "noise-pkg-edm-scd"
    assert Cell("gmm", "trigflow,scd", 2).path == Path("gmm/trigflow-scd-2")


@pytest.fixture(scope="module")
def guided(tmp_path_factory):
    """A bench of a teacher and a student, sampled at two strengths of guidance."""
    out = tmp_path_factory.mktemp("guided")
    plan = dataclasses.replace(
        PLAN,
        data=("digits",),
        # Large steps, so that four of them move what the label and the strength do beyond rounding.
        settings={**TINY, "scd.guidance_range": (1, 3), "train.lr": 0.3},
        metrics=("recall", "diversity"),
        features="data",
        guidance=(1, 3),
    )
    return plan, out, bench(plan, out, reporter=Reporter())


def test_every_method_is_sampled_at_every_strength(guided):
    results = guided[2]
    assert [[row.guidance for row in result.rows] for result in results] == [
        [None, None, 1, 3],
        [1, 3],
    ]
    for result in results:
        one, three = result.rows[-2:]
        assert one.metrics["diversity"] != pytest.approx(three.metrics["diversity"], rel=1e-5)
    assert [result.rows[-1].nfe for result in results] == [4, 1]


def test_the_teacher_at_strength_one_is_not_guided(guided):
    plan, out, results = guided
    run = Run.load(out / results[0].cell.path)
    [plainly] = evaluate(
        run, steps=(1,), n=64, baselines=False, metrics=plan.metrics, features="data"
    )
    assert plainly.metrics == pytest.approx(results[0].rows[-2].metrics, rel=1e-4)
    [told] = evaluate(
        Run.load(out / results[1].cell.path),
        steps=(1,),
        n=64,
        baselines=False,
        metrics=plan.metrics,
        features="data",
        guidance=3,
    )
    assert told.metrics == results[1].rows[-1].metrics


def test_measurements_without_guidance_are_kept_beside(guided, monkeypatch):
    plan, out, results = guided
    monkeypatch.setattr("scmkit.reporting.trials.measuring.evaluate", None)
    assert bench(plan, out, reporter=Reporter()) == results
    fewer = bench(dataclasses.replace(plan, guidance=(3,)), out, reporter=Reporter())
    assert [row.guidance for result in fewer for row in result.rows] == [None, None, 3, 3]
    again = bench(dataclasses.replace(plan, guidance=(1, 2)), out, reporter=Reporter())
    assert all("not callable" in str(result.error) for result in again)


def test_the_page_and_the_table_are_over_strengths():
    plan = Plan(("x,a", "x,b"), data=("d",), guidance=(1, 3))
    rows = [Row("one", 1.0, {"m": 2.0}, guidance=strength) for strength in (1.0, 3.0)]
    results = [Result(Cell("d", method, 0), tuple(rows)) for method in plan.methods]
    head, *lines = table_of(summarise(results))
    assert head == ["", "NFE", "guidance", "m"]
    assert [line[:3] for line in lines] == [
        [f"{method}: one", "1", strength] for method in plan.methods for strength in ("1", "3")
    ]
    facts = {"versions": {}, "device": "cpu", "python": "3", "date": "today", "command": "scmkit"}
    page = bench_page(plan, results, facts)
    assert page.count('class="x label">guidance<') == 1
    assert page.count("x,b: one: 2 at ") == 2


def test_an_interval_is_students():
    """Of two values the half width is `tan(0.475 pi) |a - b| / 2`: t with one degree of freedom."""
    two = estimate([1.0, 3.0])
    assert two.mean == 2
    assert two.half == pytest.approx(math.tan(0.475 * math.pi))
    assert estimate([4.0]).half is None


def test_the_summary_averages_over_seeds():
    def result(seed, value):
        rows = (Row(REAL, None, {"m": 1.0}), Row("one", 1.0, {"m": value}))
        return Result(Cell("d", "a", seed), rows)

    failed = Result(Cell("d", "b", 0), error="why")
    lines = summarise([result(0, 2.0), failed, result(1, 4.0)])
    assert [(line.method, line.name, line.nfe) for line in lines] == [
        ("", REAL, None),
        ("a", "one", 1.0),
    ]
    assert lines[1].metrics["m"].each == (2.0, 4.0)
    assert table_of(lines)[2] == ["a: one", "1", "3.0000 ± 13 (3.00×)"]


def test_rows_go_through_json():
    row = Row(
        "r", 2.0, {"m": 1.0}, {"m": (0.5, 1.5)}, 0.1, {"f": {"digest": "x"}}, frozenset({"m"})
    )
    raw = json.dumps(dataclasses.asdict(row), default=sorted)
    assert row_of(json.loads(raw)) == row


def results_of(values: dict[str, list[float]], fit: float = 5.0) -> list[Result]:
    """Results of one data set, a value of the metric by method and seed, below a Gaussian fit."""
    baselines = (Row(REAL, None, {"m": 1.0}), Row(GAUSSIAN, None, {"m": fit}))
    return [
        Result(Cell("d", method, seed), (*baselines, Row("one", 1.0, {"m": value})))
        for method, each in values.items()
        for seed, value in enumerate(each)
    ]


def test_what_a_gaussian_fit_equals_is_said():
    plan = Plan(("x,good", "x,bad"), seeds=2)
    told = verdicts(plan, results_of({"x,good": [4.0, 5.0], "x,bad": [5.0, 6.0]}), "d")
    assert told == ["m no better than a Gaussian fit's 5: x,bad at NFE 1"]


@pytest.mark.parametrize(
    ("more", "less", "verdict"),
    [
        ([9.0, 2.0, 5.0], [8.0, 1.1, 3.9], "difference 1 ± 0.25, holds"),
        ([8.0, 1.1, 3.9], [9.0, 2.0, 5.0], "difference -1 ± 0.25, is reversed"),
        ([9.0, 2.0, 5.0], [8.0, 3.0, 5.0], "difference 0 ± 2.5, cannot be told"),
    ],
)
def test_an_order_is_judged_seed_by_seed(more, less, verdict):
    plan = Plan(("x,a", "x,b"), orders=("a > b",))
    told = verdicts(plan, results_of({"x,a": more, "x,b": less}), "d")
    assert told[1] == f"x,a > x,b in m at NFE 1: {verdict}"


def test_an_order_in_another_metric_is_judged_at_each_strength():
    def row(strength: float, value: float) -> Row:
        return Row("one", 1.0, {"m": 0.0, "other": value}, guidance=strength)

    results = [
        Result(Cell("d", method, seed), (row(1.0, first + seed), row(2.0, second + seed)))
        for method, first, second in (("x,a", 3.0, 1.0), ("x,b", 2.0, 2.0))
        for seed in (0, 1)
    ]
    plan = Plan(("x,a", "x,b"), orders=("a>b in other",))
    assert verdicts(plan, results, "d") == [
        "x,a > x,b in other at NFE 1 and guidance 1: difference 1 ± 0, holds",
        "x,a > x,b in other at NFE 1 and guidance 2: difference -1 ± 0, is reversed",
    ]


def test_a_claim_that_cannot_be_judged_is_told():
    results = results_of({"x,a": (3.0,), "x,b": (2.0,)})
    told = verdicts(Plan(("x,a", "x,b"), orders=("a>b in other",)), results, "d")
    assert told[-1] == "x,a > x,b in other: not judged, as the two share no evaluation with it"


@pytest.mark.parametrize(
    ("metric", "message"), [("recal", "did you mean 'recall'"), ("scd", "'scd' is no metric")]
)
def test_a_claim_on_what_is_no_metric_is_refused(metric, message):
    plan = Plan(("scd", "sct"), orders=(f"scd>sct in {metric}",))
    with pytest.raises(ScmkitError, match=message):
        plan.checked()


@pytest.mark.parametrize(
    ("order", "message"),
    [
        ("a>c", "'c' is no method here"),
        ("a", "two different methods"),
        ("x,a>a", "two different"),
        ("a>b", "means x,b and y,b"),
    ],
)
def test_an_order_of_no_methods_is_refused(order, message):
    with pytest.raises(UsageError, match=message):
        claimed(order, ("x,a", "x,b", "y,b"))
