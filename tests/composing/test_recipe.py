"""Composing recipes, their options, and their way through JSON."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import equinox as eqx
import jax
import jax.random as jr
import pytest
from annotated_types import Ge, Gt
from hypothesis import given, settings
from hypothesis import strategies as st
from scmkit_cli.options import by_plugin, parse_settings
from scmkit_plugins.datasets import digits

from scmkit import Recipe, Run, build, build_model, compose
from scmkit.composing.datasets import dataset_of
from scmkit.composing.entries import entries, find
from scmkit.composing.loading import load
from scmkit.composing.options import settings_of
from scmkit.composing.recipe import TeacherRecord
from scmkit.composing.recipe_file import override, read_recipe
from scmkit.composing.slots import RECIPE_SLOTS, SLOTS, default_network
from scmkit.errors import OptionError, PluginError, UsageError, brief
from scmkit.interfaces import DataSpec
from scmkit.plugin import API_VERSION, MODEL_SLOTS, OPTIONAL_SLOTS, Plugin, Slot
from scmkit.settings import TrainingSettings, configure, option_help
from scmkit.training.rehearsal import rehearse

TINY = {"mlp.width": 8, "mlp.depth": 1, "mlp.embedding_dim": 8}


def tiny(*plugins: str, data: str | DataSpec = "gmm", **changes: Any) -> Recipe:
    return compose(plugins, TINY | changes.pop("given", {}), data=data, **changes)


def stored(recipe: Recipe) -> Recipe:
    return Recipe.from_json(json.loads(json.dumps(recipe.to_json())))


def same_arrays(one: Any, other: Any) -> bool:
    return bool(eqx.tree_equal(eqx.filter(one, eqx.is_array), eqx.filter(other, eqx.is_array)))


# Which plugin fills which slot.


def test_defaults_are_trigflow_sct_on_digits() -> None:
    recipe = compose()
    assert recipe.data.source == "digits"
    assert recipe.slots == {
        Slot.noise: "trigflow",
        Slot.parameterization: "trigflow",
        Slot.proposal: "log-normal",
        Slot.embedding: "positional",
        Slot.norm: "adaptive-double-norm",
        Slot.attention: "xla-attention",
        Slot.network: default_network((1, 8, 8)),
        Slot.tangent: "sct",
        Slot.loss: "sct",
        Slot.dataset: "digits",
    }
    assert recipe.sampler == "consistency"
    assert (recipe.starts_from, recipe.makes) == ("weights", "consistency")


@pytest.mark.parametrize(
    "name", [entry.name for entry in entries() if Slot.loss in load(entry).provides]
)
def test_every_method_trains_by_its_name_alone(name: str) -> None:
    suggested = load(find(name)).suggests
    paired = suggested.get(Slot.coupling) == "stored"
    trajectories = dataclasses.replace(
        tiny().data, paired=True, times=(3.0, 1.0, 0.1) if name == "dfno" else ()
    )
    network = suggested.get(Slot.network, "mlp")
    small = {f"{network}.{key.partition('.')[2]}": value for key, value in TINY.items()}
    recipe = compose([name], small, data=trajectories if paired else "gmm")
    rehearse(recipe)
    assert recipe.slots[Slot.loss] == name
    assert recipe.sampler == suggested.get(Slot.sampler, recipe.sampler)


def test_every_slot_has_a_row() -> None:
    assert list(SLOTS) == [slot for row in SLOTS.values() for slot in [row.slot]]
    assert set(SLOTS) == set(Slot)
    assert [slot for slot in SLOTS if SLOTS[slot].stage in ("model", "training")] == [*RECIPE_SLOTS]
    for slot in RECIPE_SLOTS:
        assert SLOTS[slot].default_for((2,)) or SLOTS[slot].optional
        assert SLOTS[slot].asked is None


def test_the_network_suits_the_data() -> None:
    assert default_network((2,)) == "mlp"
    assert default_network((3, 64, 64)) == "unet"


def test_plugins_fill_their_slots_and_suggest_others() -> None:
    recipe = tiny("edm", "scd")
    assert recipe.slots[Slot.noise] == recipe.slots[Slot.parameterization] == "edm"
    assert recipe.slots[Slot.loss] == recipe.slots[Slot.tangent] == "scd"
    assert recipe.sampler == "consistency"
    assert tiny("diffusion").sampler == "pf-ode"


def test_one_slot_of_a_plugin() -> None:
    recipe = tiny("noise=edm", "parameterization=preconditioned", "sct")
    assert recipe.slots[Slot.noise] == "edm"
    assert recipe.slots[Slot.parameterization] == "preconditioned"
    assert tiny("edm", "parameterization=preconditioned").slots[Slot.noise] == "edm"
    assert tiny("noise=scmkit:vp", "preconditioned").slots[Slot.noise] == "vp"


def test_naming_a_plugin_twice_is_naming_it_once() -> None:
    assert tiny("edm", "edm") == tiny("edm")


def test_samplers_and_trackers_are_named_like_others() -> None:
    assert tiny("sct", "flow-map").sampler == "flow-map"
    assert tiny("sct", "sampler=flow-map").sampler == "flow-map"
    assert tiny("tensorboard").trackers == ("tensorboard",)
    assert tiny("tracker=tensorboard").trackers == ("tensorboard",)


@pytest.mark.parametrize(
    ("plugins", "said"),
    [
        (["edm", "trigflow"], "'edm' and 'trigflow' both fill the slot 'noise'"),
        (["edm", "trigflow"], "--plugin noise=edm"),
        (["sct", "scd"], "both fill the slot 'tangent'"),
        (["mlp", "unet"], "both fill the slot 'network'"),
        (["pf-ode", "consistency"], "both fill the slot 'sampler'"),
        (["loss=sct", "loss=scd"], "slot 'loss' is given to both 'sct' and 'scd'"),
        (["noise=edm", "parameterization=edm", "edm"], None),
        (["noise=edm", "parameterization=edm", "trigflow"], "'trigflow' has nothing left to fill"),
        (["nois=edm"], "no slot 'nois'; did you mean 'noise'?"),
        (["noise=mlp"], "'mlp' does not fill the slot 'noise' (it fills: network)"),
        (["noise=edmm"], "no plugin 'edmm'; did you mean 'edm'?"),
        (["mmd"], "'mmd' is a metric; ask for it with `scmkit eval RUN --metric mmd`"),
        (["gmm"], "'gmm' is a dataset; ask for it with --data gmm"),
        (["dataset=gmm"], "ask for it with --data gmm"),
        (["trigflow="], "no slot 'trigflow'"),
        ([""], "no plugin ''"),
    ],
)
def test_conflicts_are_refused(plugins: list[str], said: str | None) -> None:
    if said is None:
        said = "'edm' has nothing left to fill"
    with pytest.raises(PluginError) as caught:
        compose(plugins, data="gmm")
    assert said in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_data_set_that_is_none() -> None:
    with pytest.raises(PluginError, match=r"did you mean 'digits'.*no store"):
        compose(data="digts")
    with pytest.raises(PluginError, match="is no dataset"):
        compose(data="edm")


# Options.


@dataclass(frozen=True)
class Options:
    """One of each kind."""

    count: Annotated[int, Ge(1)] = 3
    """A whole number,
    in words that go on."""
    rate: Annotated[float, Gt(0)] = 0.5
    """A number."""
    sizes: tuple[int, ...] = (1, 2)
    """Several."""
    names: tuple[str, ...] = ()
    """Several words."""
    flag: bool = False
    """Yes or no."""
    kind: Literal["l2", "rms"] = "l2"
    """One of two."""
    version: Literal["1", "2"] = "1"
    """One of two that look like numbers."""
    name: str = "x"
    """A word."""
    label: str | None = None
    """A word or nothing."""
    limit: int | None = 4
    """A number or nothing."""

    def __post_init__(self) -> None:
        if self.count > 100:
            raise ValueError(f"count={self.count} is too many")


@pytest.mark.parametrize(
    ("option", "text", "value"),
    [
        ("count", "12", 12),
        ("count", " 12 ", 12),
        ("count", "2.0", 2),
        ("rate", "1e-3", 1e-3),
        ("rate", "2", 2.0),
        ("sizes", "4,5,6", (4, 5, 6)),
        ("sizes", "4", (4,)),
        ("sizes", "", ()),
        ("sizes", "[4, 5]", (4, 5)),
        ("names", "a, b", ("a", "b")),
        ("names", '["a,b"]', ("a,b",)),
        ("flag", "true", True),
        ("flag", "False", False),
        ("flag", "1", True),
        ("flag", "no", False),
        ("kind", "rms", "rms"),
        ("version", "2", "2"),
        ("name", "12", "12"),
        ("name", "", ""),
        ("name", "a=b.c", "a=b.c"),
        ("label", "blue", "blue"),
        ("label", "12", "12"),
        ("label", "null", None),
        ("limit", "null", None),
        ("limit", "7", 7),
    ],
)
def test_text_is_read_as_the_options_type(option: str, text: str, value: Any) -> None:
    found = getattr(configure(Options, {option: text}, "odd"), option)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("option", "bad"),
    [
        ("count", "0"),
        ("count", "1.5"),
        ("count", "many"),
        ("count", "true"),
        ("count", True),
        ("count", None),
        ("count", "9" * 5000),
        ("rate", "0"),
        ("rate", "nan"),
        ("rate", "NaN"),
        ("rate", "1e999"),
        ("rate", float("inf")),
        ("sizes", "1,x"),
        ("sizes", "[[[["),
        ("sizes", 3),
        ("flag", "maybe"),
        ("kind", "l3"),
        ("version", "3"),
        ("limit", "none"),
        ("count", "[" * 100_000),
    ],
)
def test_bad_values_name_option_and_value(option: str, bad: Any) -> None:
    with pytest.raises(OptionError) as caught:
        configure(Options, {option: bad}, "odd")
    assert f"option 'odd.{option}': bad value {brief(bad)}: " in str(caught.value)


@pytest.mark.parametrize(
    "option",
    [
        "cd.points",
        "ct.s1",
        "ict.s1",
        "dscd.points",
        "cmt.steps",
        "consistency-fm.segments",
        "ms-scd.segments",
        "multistep-cd.last",
        "pid.points",
        "ctm.points",
        "ctm.longest",
        "shortcut.finest",
        "progressive-distillation.first",
        "tract.schedule",
    ],
)
def test_grids_that_float32_cannot_resolve_are_refused(option):
    value = [2**40, 1] if option == "tract.schedule" else 2**40
    with pytest.raises(OptionError, match="should be less than or equal to 131072"):
        compose([option.partition(".")[0]], {option: value}, data="gmm")


def test_unknown_options_get_a_suggestion() -> None:
    with pytest.raises(OptionError) as caught:
        configure(Options, {"cuont": 1}, "odd")
    assert "'odd' has no option 'cuont'; did you mean 'count'? (its options: count, rate" in str(
        caught.value
    )
    with pytest.raises(OptionError, match="'sct' has no option 'warmup_step'; did you mean"):
        tiny("sct", given={"sct.warmup_step": 3})
    with pytest.raises(OptionError, match=r"'adaln' has no option 'x' \(it has none\)"):
        tiny("adaln", given={"adaln.x": 3})


def test_options_that_contradict_each_other() -> None:
    with pytest.raises(OptionError, match="options of 'odd': count=101 is too many"):
        configure(Options, {"count": "101"}, "odd")
    with pytest.raises(OptionError, match="accumulate=3 does not divide batch_size=128"):
        configure(TrainingSettings, {"accumulate": 3, "batch_size": 128}, "train")


def test_help_has_types_defaults_and_docstrings() -> None:
    shown = {o.name: o for o in option_help(Options)}
    assert shown["kind"].type == "l2 | rms"
    assert shown["count"].default == 3
    assert shown["count"].summary == "A whole number, in words that go on."
    assert all(o.summary for o in option_help(TrainingSettings))


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("edm.ratio_max", "'edm' is not part of this recipe"),
        ("sctt.constant", "did you mean 'sct'"),
        ("sct", "write it as PLUGIN.OPTION=VALUE"),
        ("train.stpes", "'train' has no option 'stpes'; did you mean 'steps'?"),
        ("data.sigma", "'data' has no option 'sigma'"),
        ("gmm.sizes", "'gmm' has no option 'sizes'; did you mean 'size'?"),
        ("teacher.mlp.widht", "did you mean 'width'"),
        ("teacher.sct.constant", "'sct' is not part of this recipe"),
    ],
)
def test_settings_for_what_is_not_there(key: str, said: str) -> None:
    with pytest.raises(OptionError) as caught:
        tiny("sct", given={key: 1})
    assert said in str(caught.value)


def test_settings_reach_their_parts() -> None:
    given = {"sct.warmup_steps": "7", "train.lr": "1e-4", "data.sigma_data": "1", "gmm.size": "99"}
    recipe = tiny("sct", given=given)
    assert recipe.plugins["sct"].config["warmup_steps"] == 7
    assert recipe.train.lr == 1e-4
    assert recipe.data.sigma_data == 1
    assert recipe.plugins["gmm"].config["size"] == 99
    assert dataset_of(recipe).size("train") == 99


def test_recommended_settings_give_way_to_given_ones() -> None:
    assert tiny("diffusion").plugins["log-normal"].config["mean"] == -0.8
    recipe = tiny("diffusion", given={"log-normal.mean": "0.5"})
    assert recipe.plugins["log-normal"].config["mean"] == 0.5


def test_what_data_recommend_for_a_method_wins_over_what_they_do_for_its_kind() -> None:
    for method, kind in {"scd": "scd", "ect": "consistency"}.items():
        recipe = compose(["trigflow", method], data="digits")
        expected = digits.plugin.settings_for["consistency"] | digits.plugin.settings_for[kind]
        assert recipe.train.lr == expected["train.lr"]
        assert recipe.plugins["log-normal"].config["mean"] == expected["log-normal.mean"]
    lr = {name: layer.get("train.lr") for name, layer in digits.plugin.settings_for.items()}
    assert lr["scd"] != lr["consistency"]


TEXT = st.text(max_size=12)
VALUES = st.one_of(
    TEXT,
    st.integers(),
    st.floats(),
    st.booleans(),
    st.none(),
    st.lists(st.integers(), max_size=3),
    st.dictionaries(TEXT, st.integers(), max_size=2),
    st.integers().map(str),
    st.floats().map(str),
    st.text("[]{},:\"'.-+eE0123456789 \n", max_size=12),
)
OPTION_NAMES = st.sampled_from([f.name for f in dataclasses.fields(Options)]) | TEXT


@settings(max_examples=150)
@given(st.dictionaries(OPTION_NAMES, VALUES, max_size=3))
def test_configure_raises_nothing_but_option_errors(chosen: dict[str, Any]) -> None:
    try:
        found = configure(Options, chosen, "odd")
    except OptionError:
        return
    again = json.loads(json.dumps(dataclasses.asdict(found), allow_nan=False))
    assert isinstance(found, Options)
    assert found.count >= 1
    assert again["count"] == found.count


@settings(max_examples=100)
@given(st.lists(st.text(max_size=8) | st.from_regex(r"\w+\.\w+=\w*", fullmatch=True), max_size=3))
def test_the_command_lines_settings_raise_nothing_but_option_errors(texts: list[str]) -> None:
    try:
        nested = by_plugin(parse_settings(texts))
    except OptionError:
        assert not all("=" in t and "." in t.partition("=")[0] for t in texts)
        return
    assert sum(map(len, nested.values())) <= len(texts)


# Teachers.


def test_a_teacher_to_train_is_a_recipe_of_its_own() -> None:
    given = {"train.steps": 9, "train.batch_size": 4, "teacher.train.steps": 5, "sct.constant": 0.2}
    recipe = tiny("edm", "sct", given=given)
    teacher = recipe.teacher
    assert isinstance(teacher, Recipe)
    assert teacher.slots[Slot.loss] == "diffusion"
    assert teacher.slots[Slot.noise] == "edm"
    assert teacher.plugins["mlp"] == recipe.plugins["mlp"]
    assert teacher.train.steps == 5
    assert teacher.train.batch_size == 4
    assert teacher.data == recipe.data
    assert teacher.teacher is None
    assert tiny("sct", given={"train.steps": 9}).teacher.train.steps == 9  # pyright: ignore


def test_a_named_teacher_is_recorded(tmp_path: Path) -> None:
    path = run_of(tiny("diffusion"), tmp_path)
    assert tiny("scd", teacher=path).teacher == TeacherRecord(path=str(path.resolve()))
    with pytest.raises(OptionError, match=r"'teacher.train.steps': this run trains no teacher"):
        tiny("scd", teacher=path, given={"teacher.train.steps": 3})
    with pytest.raises(UsageError, match="nowhere' is not a run: no such directory"):
        tiny("scd", teacher=tmp_path / "nowhere")


def test_what_nobody_named_is_the_teachers(tmp_path: Path) -> None:
    theirs = tiny(
        *("edm", "fourier", "adagn", "diffusion"),
        given={"fourier.scale": 0.5, "mlp.depth": 3, "data.sigma_data": 0.7, "train.lr": 7e-3},
    )
    path = run_of(theirs, tmp_path)
    recipe = compose(["scd"], {"mlp.dropout": 0.1}, data="gmm", teacher=path)
    assert {s: recipe.slots[s] for s in MODEL_SLOTS} == {s: theirs.slots[s] for s in MODEL_SLOTS}
    assert recipe.plugins["fourier"].config == theirs.plugins["fourier"].config
    assert recipe.plugins["mlp"].config == {**theirs.plugins["mlp"].config, "dropout": 0.1}
    assert (recipe.data, recipe.train.lr) == (theirs.data, 1e-4)
    # A parameterization may be for its own process only.
    named = compose(["vp", "scd"], data="gmm", teacher=path)
    assert (named.slots[Slot.parameterization], named.slots[Slot.norm]) == (
        "preconditioned",
        "adagn",
    )


def run_of(recipe: Recipe, folder: Path) -> Path:
    return Run.create(folder / "run", recipe).path


def test_no_teacher() -> None:
    assert tiny("sct", teacher="none").teacher is None
    assert tiny("diffusion").teacher is None
    with pytest.raises(OptionError, match="--teacher none: 'scd' learns from a teacher"):
        tiny("scd", teacher="none")
    with pytest.raises(PluginError, match="'scd' needs a teacher: pass one"):
        build(tiny("scd"), key=jr.key(0))


# JSON.


@pytest.mark.parametrize(
    "plugins",
    [
        (),
        ("edm", "scd"),
        ("diffusion", "uniform", "tensorboard"),
        ("unet",),
        ("scmkit:vp", "fourier"),
    ],
)
def test_recipes_survive_json(plugins: tuple[str, ...]) -> None:
    recipe = compose(plugins, data="digits")
    assert stored(recipe) == recipe
    with_teacher = recipe.replace(teacher=TeacherRecord("teacher", "abc"))
    assert stored(with_teacher) == with_teacher


def test_rebuilding_from_json_is_exact() -> None:
    recipe = tiny("edm", "sct", "fourier", given={"mlp.depth": 2}, data="two-moons")
    first, second = (build(r, key=jr.key(3)) for r in (recipe, stored(recipe)))
    assert jax.tree.leaves(eqx.filter(first, eqx.is_array))
    assert eqx.tree_equal(first, second)


def test_each_slot_has_a_key_of_its_own() -> None:
    key = jr.key(0)
    base = build_model(tiny("sct"), key=key)
    assert same_arrays(base, build_model(tiny("diffusion"), key=key))
    assert same_arrays(base, build_model(tiny("sct", "uniform"), key=key))
    assert same_arrays(base.network, build_model(tiny("edm"), key=key).network)
    assert not same_arrays(base, build_model(tiny("sct"), key=jr.key(1)))


def test_a_recipe_is_written_whole() -> None:
    raw = tiny("sct").to_json()
    assert raw["api"] == API_VERSION
    assert set(raw["slots"]) == {*RECIPE_SLOTS, "dataset"} - {*OPTIONAL_SLOTS}
    assert set(raw["plugins"]["mlp"]) == {"package", "version", "config"}
    assert raw["teacher"]["recipe"]["slots"]["loss"] == "diffusion"


def changed(**changes: Any) -> Any:
    return tiny("diffusion").to_json() | changes


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (dict, "not a recipe: 'api' is missing"),
        (lambda: changed(api=API_VERSION + 1), f"plugin API {API_VERSION + 1}"),
        (lambda: changed(slots={"loss": "sct"}), "not a recipe"),
        (lambda: changed(plugins={}), "'trigflow' of slot 'noise' is not among its plugins"),
        (
            lambda: changed(plugins={"trigflow": {"package": "x"}}),
            "'plugins.trigflow.version' is missing",
        ),
        (
            lambda: changed(train={"steps": "5"}),
            "train.steps: input should be a valid integer, not '5'",
        ),
        (lambda: changed(train={"lr": float("nan")}), "train.lr: input should be a finite number"),
        (lambda: changed(train={"lr": 10**400}), "train.lr: input should be a finite number"),
        (lambda: changed(train={"lr": 10**5000}), "not a recipe: "),
        (lambda: changed(trackers=["x" * 9_999]), "'xxx"),
        (lambda: changed(teacher={"recipe": changed(sampler=None)}), "teacher.recipe.sampler: "),
        (lambda: changed(teacher={"recipe": {}}), "'teacher.recipe.api' is missing"),
        (lambda: changed(teacher=changed()), "'teacher.path' is missing"),
        (lambda: changed(plugins={"x": {1: object()}}), "not a recipe: it is no JSON"),
        (lambda: changed(data=dict.fromkeys(map(str, range(200_000)))), "more than 100000 values"),
        (
            lambda: changed(slots={"mouth": "sct"}),
            "not a recipe: slots.mouth: input should be 'noise', ",
        ),
        (lambda: changed(train={"stpes": 1}), "there is no 'train.stpes'; did you mean 'steps'?"),
        (lambda: changed(data={"source": "gmm"}), "not a recipe: 'data.shape' is missing"),
        (
            lambda: changed(teacher="run"),
            "not a recipe: teacher: input should be an object, not 'run'",
        ),
    ],
)
def test_what_is_no_recipe_is_refused(raw: Any, said: str) -> None:
    with pytest.raises(OptionError) as caught:
        Recipe.from_json(raw())
    assert said in str(caught.value)
    assert len(str(caught.value)) < 400
    assert len(str(caught.value).splitlines()) == 1


def test_recipes_nested_without_end_are_refused() -> None:
    raw, deep = changed(), []
    for _ in range(100_000):
        deep = [deep]
    for _ in range(5_000):
        raw = changed_of(raw)
    for hostile in (raw, changed(sampler=deep), changed(api=deep), deep):
        with pytest.raises(OptionError, match=r"not a recipe: |plugin API"):
            Recipe.from_json(hostile)  # pyright: ignore


def changed_of(teacher: Any) -> Any:
    return {"api": API_VERSION, "teacher": {"recipe": teacher}}


def test_options_of_lists_in_lists_survive_json() -> None:
    recipe = tiny("sct")
    record = dataclasses.replace(recipe.plugins["mlp"], config={"pairs": ((1, 2), (3, 4))})
    odd = recipe.replace(plugins={**recipe.plugins, "mlp": record})
    assert stored(odd) == odd


# Recipe files.


def test_toml_and_json_files_say_the_same(tmp_path: Path) -> None:
    toml, plain = tmp_path / "r.toml", tmp_path / "r.json"
    toml.write_text(
        'plugins = ["edm", "sct"]\ndata = "gmm"\n[settings.mlp]\nwidth = 8\n'
        "[settings.teacher.train]\nsteps = 3\n"
    )
    plain.write_text(
        '{"plugins": ["edm", "sct"], "data": "gmm", '
        '"settings": {"mlp": {"width": 8}, "teacher": {"train": {"steps": 3}}}}'
    )
    file = read_recipe(toml)
    assert file == read_recipe(plain)
    assert file.data is not None
    recipe = compose(file.plugins, file.settings, data=file.data)
    assert recipe.plugins["mlp"].config["width"] == 8
    assert isinstance(recipe.teacher, Recipe)
    assert recipe.teacher.train.steps == 3


def test_a_runs_recipe_composes_again(tmp_path: Path) -> None:
    recipe = tiny(
        "edm", "diffusion", "pf-ode", "tensorboard", given={"train.steps": 4, "gmm.size": 70}
    )
    file = tmp_path / "recipe.json"
    file.write_text(json.dumps(recipe.to_json()))
    read = read_recipe(file)
    assert read.data == "gmm"
    assert compose(read.plugins, read.settings, data=read.data) == recipe


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("gone.toml", None, "cannot be read"),
        ("r.toml", "plugins = [", "cannot be read"),
        ("r.json", "{", "cannot be read"),
        ("r.json", "[1]", "must hold a table, not a list"),
        ("r.json", '{"plugin": []}', "unknown key 'plugin' (keys: plugins, settings, data)"),
        ("r.json", '{"plugins": "edm"}', "plugins must be a list and settings a table"),
        ("r.json", '{"settings": [1]}', "plugins must be a list and settings a table"),
        ("r.json", '{"data": 3}', "data must be a name or a path, not 3"),
        ("r.json", '{"slots": {}}', "r.json': not a recipe"),
        ("r.json", '{"slots": {}, "api": 99}', "plugin API 99"),
    ],
)
def test_bad_recipe_files_are_named(
    name: str, content: str | None, said: str, tmp_path: Path
) -> None:
    file = tmp_path / name
    if content is not None:
        file.write_text(content)
    with pytest.raises(OptionError) as caught:
        read_recipe(file)
    assert said in str(caught.value)
    assert name in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_runs_recipe_composes_again_with_players_and_data_options(tmp_path):
    recipe = compose(
        ["mlp", "ctm", "flow-map"],
        {
            "ctm.gan": "hinge",
            "critic.lr": 2e-6,
            "critic.ema": "power:0.1",
            "data.clip": False,
            "mlp.width": 24,
        },
    )
    file = tmp_path / "recipe.json"
    file.write_text(json.dumps(recipe.to_json()))
    asked = override(read_recipe(file), [])
    again = compose(asked.plugins, data=asked.data, base=asked.settings)
    assert again.replace(teacher=None) == recipe.replace(teacher=None)
    # A loss without that player, and with a sampler of its own.
    asked = override(read_recipe(file), ["sct"])
    other = compose(asked.plugins, data=asked.data, base=asked.settings)
    assert (other.players_train, other.sampler) == ({}, "consistency")
    assert not other.data.clip


def test_what_a_changed_option_recommends_is_recommended_anew(tmp_path):
    file = tmp_path / "recipe.json"

    def again(recipe, given):
        file.write_text(json.dumps(recipe.to_json()))
        asked = override(read_recipe(file), [])
        composed = compose(asked.plugins, given, data=asked.data, base=asked.settings)
        return composed.plugins["flow-map"].config["steps"]

    method = "progressive-distillation"
    first = compose([method])
    assert first.plugins["flow-map"].config["steps"] == (1,)
    assert again(first, {f"{method}.last": 2}) == (2,)
    assert again(first, {f"{method}.last": 2, "flow-map.steps": (4,)}) == (4,)
    # The user's own stay.
    assert again(compose([method], {"flow-map.steps": (3,)}), {f"{method}.last": 2}) == (3,)


def test_a_player_that_a_recipe_lacks_has_its_plugins_settings():
    recipe = compose(["mlp", "dmd2"])
    older = recipe.replace(players_train={})
    assert older.settings_of("fake") == recipe.settings_of("fake")


@pytest.mark.parametrize("name", ["train", "fake"])
def test_an_unknown_average_is_refused_where_options_are_read(name):
    with pytest.raises(OptionError) as refused:
        compose(["mlp", "dmd2"], {f"{name}.ema": "powr:0.1"})
    said = f"options of '{name}': unknown EMA 'powr:0.1'; did you mean 'power'?"
    assert str(refused.value).startswith(said)


@pytest.mark.parametrize(
    ("recommends", "said"),
    [
        (lambda config: None, "'odd' recommends a NoneType as its settings"),
        (
            lambda config: {"lr": 1.0},
            "recommends the setting 'lr', which must be named PLUGIN.OPTION",
        ),
    ],
)
def test_recommendations_that_are_no_settings(recommends, said):
    odd = Plugin("odd", "a sampler", {Slot.sampler: lambda config: None}, settings=recommends)
    with pytest.raises(PluginError, match=said):
        settings_of(odd, {})


def test_what_served_a_runs_loss_goes_with_it(tmp_path):
    file = tmp_path / "recipe.json"
    file.write_text(json.dumps(compose(["ect", "l1", "minibatch-ot"]).to_json()))
    for loss, kept in (("sct", {Slot.coupling}), ("dmd2", set()), ("meanflow", {Slot.coupling})):
        asked = override(read_recipe(file), [loss])
        other = compose(asked.plugins, data=asked.data, base=asked.settings)
        assert {Slot.distance, Slot.coupling}.intersection(other.slots) == kept


def test_a_runs_recipe_with_another_plugin(tmp_path):
    """`--recipe RUN/recipe.json --plugin edm`: what is named takes its slots over, the rest stays."""
    first = compose(
        ["trigflow", "scd"], {"mlp.width": 24, "trigflow.ratio_max": 50.0, "train.lr": 2e-4}
    )
    file = tmp_path / "recipe.json"
    file.write_text(json.dumps(first.to_json()))
    asked = override(read_recipe(file), ["edm"])
    second = compose(asked.plugins, data=asked.data, base=asked.settings)
    assert second.slots == {**first.slots, Slot.noise: "edm", Slot.parameterization: "edm"}
    assert second.plugins["mlp"].config["width"] == 24
    assert second.train.lr == 2e-4
    assert isinstance(second.teacher, Recipe)
    assert second.teacher.plugins["mlp"].config["width"] == 24
    same = override(read_recipe(file), [])
    again = compose(same.plugins, data=same.data, base=same.settings)
    assert again.replace(teacher=None) == first.replace(teacher=None)


def test_a_recipe_whose_data_is_not_its_plugins_is_refused():
    raw = tiny("trigflow", "sct").to_json()
    raw["data"]["source"] = "elsewhere.store"
    with pytest.raises(
        OptionError, match=r"its data is 'elsewhere\.store', and 'gmm' in its slots"
    ):
        Recipe.from_json(raw)
