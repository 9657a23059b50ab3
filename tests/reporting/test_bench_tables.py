"""The talk's tables and curves as views of a bench, and what of a finished run is measured again."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scmkit import Run
from scmkit.errors import UsageError
from scmkit.evaluation import GAUSSIAN, LEAVE_ONE_OUT, REAL, Row
from scmkit.reporting.trials import (
    PRESETS,
    Cell,
    Result,
    Setting,
    bench_page,
    curves_of,
    measuring,
    notes_of,
    setting,
    summarise,
    table_form,
)
from scmkit.reporting.trials.presets import every_method
from scmkit.reporting.trials.published import GROUPS, PUBLISHED, SIZES
from scmkit.reporting.trials.tables import _beside, group_of, short

SCD, SCT, DIFFUSION = "trigflow,scd", "trigflow,sct", "trigflow,diffusion"


def some(seeds: int = 2) -> tuple[Setting, list[Result]]:
    """Table one with three methods, and results of it."""
    plan = replace(PRESETS["one"], methods=(DIFFUSION, SCT, SCD), seeds=seeds, curve=(1, 2))
    results = []
    for seed in range(seeds):
        real = Row(REAL, None, {"m": 1.0}, {"m": (0.5, 1.5)})
        told = {"parameters": 1200, "seconds": 3.0}
        teacher = (real, Row("pf-ode, 18 steps", 36.0, {"m": 2.0 + seed}))
        results.append(Result(Cell("digits", DIFFUSION, seed), teacher, **told))
        for method, value in ((SCT, 4.0), (SCD, 3.0)):
            rows = tuple(Row(f"{n} steps", float(n), {"m": value / n + seed}) for n in (1, 2))
            cell = Cell("digits", method, seed)
            results.append(Result(cell, rows, **told, teacher="t", teacher_seconds=2.0))
    return Setting(plan, {"trigflow,reflow": "it needs pairs"}, {}), results


def test_the_form_of_the_table():
    chosen, results = some()
    head, real, *rows = table_form("one", chosen, results, "digits")
    assert head == [
        *("method", "NFE", "m", "parameters", "training"),
        *("FID, CIFAR-10 ‡", "FID, ImageNet 64 ‡"),
    ]
    # Seeds share the data: what is told is the spread of random splits.
    assert real[:3] == [REAL, "", "1 ± 0.5"]
    assert [row[:2] for row in rows] == [
        ["Diffusion models & fast samplers", ""],
        ["diffusion", "36"],
        ["Diffusion distillation", ""],
        ["scd", "1"],
        ["", "2"],
        ["Consistency training", ""],
        ["sct", "1"],
        ["", "2"],
    ]
    assert [row[-2:] for row in rows[3:5]] == [["3.66", "2.44"], ["2.52", "1.66"]]
    assert rows[1][-4:] == ["1.2 k", "3 s", "2.01 at 35", "1.33 at 63"]
    assert rows[3][-3] == "3 s + 2 s"
    assert list(notes_of(chosen))[-1] == "not in the table: reflow: it needs pairs"


def test_the_page_has_table_and_curves():
    chosen, results = some()
    facts = {"versions": {}, "device": "cpu", "python": "3", "date": "today", "command": "scmkit"}
    form = lambda data: table_form("one", chosen, results, data)  # noqa: E731
    page = bench_page(chosen.plan, results, facts, form)
    assert "FID, CIFAR-10 ‡" in page
    assert "Consistency training: m" in page
    curves = curves_of(chosen.plan, results, "digits")
    assert curves is not None
    assert {k: list(v) for k, v in curves.panels.items()} == {
        "Consistency training": ["sct"],
        "Diffusion distillation": ["scd"],
    }
    assert {k: v.mean for k, v in curves.levels.items()} == {REAL: 1, "diffusion, NFE 36": 2.5}
    assert curves.evaluations == [1, 2]


def test_methods_of_one_name_and_strengths_of_guidance_are_told_apart():
    chosen, results = some(1)
    other = "edm,scd"
    cell = Cell("digits", other, 0)
    rows = tuple(Row("1 step", 1.0, {"m": 7.0 + s}, guidance=s) for s in (1.0, 3.0))
    plan = replace(chosen.plan, methods=(*chosen.plan.methods, other))
    results.append(Result(cell, rows))
    head, real, *table = table_form("one", replace(chosen, plan=plan), results, "digits")
    assert head[:3] == ["method", "NFE", "guidance"]
    assert {len(row) for row in (head, real, *table)} == {len(head)}
    assert [row[:4] for row in table[3:7]] == [
        [SCD, "1", "", "3"],
        ["", "2", "", "1.5"],
        [other, "1", "1", "8"],
        ["", "1", "3", "10"],
    ]
    curves = curves_of(plan, results, "digits")
    assert curves is not None
    names = [SCD, f"{other}, guidance 1", f"{other}, guidance 3"]
    assert list(curves.panels["Diffusion distillation"]) == names


def test_every_method_is_what_is_installed():
    methods, _ = every_method()
    assert methods[0] == DIFFUSION
    assert {f"trigflow,{name}" for name in PUBLISHED} <= set(methods)
    assert {known.group for known in PUBLISHED.values()} <= set(GROUPS)


def test_a_method_that_cannot_stand_in_the_setting_is_named(monkeypatch):
    asked = ([SCD, "trigflow,reflow", "trigflow,nonsense"], {})
    monkeypatch.setattr("scmkit.reporting.trials.presets.every_method", lambda: asked)
    chosen = setting("one", PRESETS["one"])
    assert chosen.plan.methods == (SCD,)
    assert "no noise stored" in chosen.left_out["trigflow,reflow"]
    assert "no plugin 'nonsense'" in chosen.left_out["trigflow,nonsense"]
    monkeypatch.setattr(
        "scmkit.reporting.trials.presets.every_method", lambda: (["trigflow,reflow"], {})
    )
    with pytest.raises(
        UsageError, match="--table one: no method can stand in it; 'trigflow,reflow'"
    ):
        setting("one", PRESETS["one"])


def test_table_two_has_the_sizes_of_the_datas_network():
    chosen = setting("two", replace(PRESETS["two"], data=("digits",)))
    assert list(chosen.sizes.values()) == ["S", "M", "L"] * 3
    recipe = chosen.plan.recipe(Cell("digits", chosen.plan.methods[-1], 0))
    assert recipe.plugins["mlp"].config["width"] == recipe.teacher.plugins["mlp"].config["width"]
    assert short(chosen.plan.methods[3]) == "sct, width 160"
    assert {size for own in SIZES.values() for size in own} == {"S", "M", "L"}


@pytest.mark.parametrize(
    ("method", "group"), [("meanflow", 4), ("drifting", 5), ("ladd", 1), ("dscd", 2), ("ct", 3)]
)
def test_the_group_of_a_method_that_the_paper_has_not(method, group):
    assert method not in PUBLISHED
    recipe = PRESETS["one"].recipe(Cell("digits", f"trigflow,{method}", 0))
    assert group_of(recipe) == GROUPS[group]


@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=5),
    st.dictionaries(st.integers(1, 40), st.floats(1, 9)),
)
def test_every_published_figure_of_a_method_is_at_its_nfe_or_says_its_own(nfe, fid):
    shown = _beside(nfe, fid)
    assert len(shown) == len(nfe)
    if {*nfe} & {*fid}:
        assert shown == [f"{fid[n]:.2f}" if n in fid else "" for n in nfe]
    else:
        assert shown[0].count(" at ") == len(fid)


def test_what_is_new_is_measured_and_added(tmp_path, monkeypatch):
    """A stub evaluates: each value is the number of the call that it came from."""
    calls = []

    def evaluate(run, *, steps, metrics, baselines, guidance, **rest):
        calls.append((tuple(steps), metrics, baselines))
        values = dict.fromkeys(metrics, float(len(calls)))
        first = [Row(REAL, None, values), Row(GAUSSIAN, None, values)] if baselines else []
        if baselines and "near-copies" in metrics:
            first.insert(1, Row(LEAVE_ONE_OUT, None, {"near-copies": 0.1}))
        return first + [Row(f"{k} steps", k, values, steps=k, guidance=guidance) for k in steps]

    monkeypatch.setattr(measuring, "evaluate", evaluate)
    monkeypatch.setattr(measuring, "dataset_of", lambda recipe: None)
    monkeypatch.setattr(measuring, "guided", lambda run, strength: None)
    monkeypatch.setattr(Run, "digest", lambda self: "x")
    plan = replace(PRESETS["one"], methods=(SCD,), features="data", sampling=(1, 2), metrics=("a",))
    run = Run.create(tmp_path / "run", plan.recipe(Cell("digits", SCD, 0)))

    def rows(**changes):
        asked = replace(plan, **changes)
        found = measuring.measured(
            asked, Cell("digits", SCD, 0), run, lambda line: None, baselines=True
        )
        return [(row.name, dict(row.metrics)) for row in found]

    once = [(name, {"a": 1.0}) for name in (REAL, GAUSSIAN, "1 steps", "2 steps")]
    assert rows() == rows() == once
    assert calls == [((1, 2), ("a",), True)]
    assert rows(sampling=(2, 4))[2:] == [("2 steps", {"a": 1.0}), ("4 steps", {"a": 2.0})]
    assert calls[1:] == [((4,), ("a",), False)]
    found = rows(metrics=("near-copies", "a"))
    assert calls[2:] == [((1, 2), ("near-copies",), True)]
    assert found[:2] == [
        (REAL, {"near-copies": 3.0, "a": 1.0}),
        (LEAVE_ONE_OUT, {"near-copies": 0.1}),
    ]
    assert rows() == once
    assert len(calls) == 3
    rows(sampling_seeds=2)
    assert calls[3:] == [((1, 2), ("a",), True)]


def test_real_data_have_the_spread_of_splits_in_a_bench():
    _, results = some(3)
    real = next(line for line in summarise(results) if line.name == REAL)
    assert (real.metrics["m"].mean, real.metrics["m"].half) == (1.0, 0.5)


def test_a_picture_of_curves(tmp_path: Path):
    mpl = pytest.importorskip("matplotlib")
    mpl.use("agg")
    from matplotlib import pyplot

    from scmkit.reporting.trials import curves_png

    chosen, results = some()
    curves = curves_of(chosen.plan, results, "digits")
    assert curves is not None
    assert curves_png([curves], pyplot).startswith(b"\x89PNG")
