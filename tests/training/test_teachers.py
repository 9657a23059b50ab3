"""Which models may teach, and what is said of those that may not."""

import pytest
from small_runs import go, recipe

from scmkit.errors import UsageError
from scmkit.plugin import Slot
from scmkit.training.teacher import check_teacher

ONE = {"train.steps": 1}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    return go(recipe("trigflow", "diffusion", **ONE), tmp_path_factory.mktemp("runs") / "t")


@pytest.fixture(scope="module")
def consistency(tmp_path_factory):
    return go(recipe("sct", teacher="none", **ONE), tmp_path_factory.mktemp("runs") / "c")


FOLLOWERS = ("scd", "cd", "dscd", "cmt", "ms-scd", "continuous-cd", "multistep-cd", "ayf", "ctm")


@pytest.mark.parametrize("method", [*FOLLOWERS, "tract", "pid", "boot", "dmd2"])
def test_a_method_that_follows_its_teacher_needs_a_velocity(consistency, method):
    composed = recipe(method, teacher=consistency.path)
    with pytest.raises(UsageError) as refused:
        check_teacher(composed, consistency)
    said = str(refused.value)
    assert said.startswith(f"teacher '{consistency.path}' is a consistency model, which has no")
    assert f"'{method}' needs a diffusion" in said
    assert "\n" not in said


def test_nothing_is_written_for_a_teacher_without_a_velocity(consistency, tmp_path):
    with pytest.raises(UsageError, match="which has no velocity to follow"):
        go(recipe("scd", teacher=consistency.path), tmp_path / "r")
    assert not (tmp_path / "r").exists()


def test_any_tangent_from_a_teacher_needs_a_velocity(consistency):
    composed = recipe("sct", "tangent=scd", teacher=consistency.path)
    assert composed.slots[Slot.loss] == "sct"
    with pytest.raises(UsageError, match="'scd' needs a diffusion or flow-map model"):
        check_teacher(composed, consistency)


def test_a_consistency_model_gives_its_weights(teacher, consistency):
    for method in ("sct", "ect", "tcm"):
        check_teacher(recipe(method, teacher=consistency.path), consistency)
    follow = {"scd.follow": str(teacher.path)}
    check_teacher(recipe("scd", teacher=consistency.path, **follow), consistency)


@pytest.mark.parametrize("option", ["follow", "guide"])
def test_what_is_followed_or_guides_needs_a_velocity_too(teacher, consistency, tmp_path, option):
    composed = recipe("scd", teacher=teacher.path, **{f"scd.{option}": str(consistency.path)})
    with pytest.raises(UsageError, match="is a consistency model, which has no probability-flow"):
        go(composed, tmp_path / "r")
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize("method", ["scd", "dmd2"])
def test_a_flow_map_has_a_velocity_to_follow(teacher, method):
    teacher.recipe, before = teacher.recipe.replace(makes="flow-map"), teacher.recipe
    try:
        check_teacher(recipe(method, teacher=teacher.path), teacher)
    finally:
        teacher.recipe = before


def test_a_follower_that_starts_as_the_teacher_is_alike(teacher, tmp_path):
    composed = recipe("progressive-distillation", teacher=teacher.path, **{"mlp.width": 32})
    with pytest.raises(UsageError) as refused:
        go(composed, tmp_path / "r")
    assert str(refused.value).startswith(
        "'progressive-distillation' starts its follower 'teacher' as the teacher, and teacher "
        f"'{teacher.path}' is another model than this run's (network); "
    )
    assert not (tmp_path / "r").exists()


@pytest.mark.slow
def test_what_is_no_array_of_a_teacher_may_differ_from_its_follower(tmp_path):
    """Here the record of whether training showed samples without their label."""
    shown = recipe("diffusion", data="digits", **ONE, **{"diffusion.label_dropout": 0.0})
    teacher = go(shown, tmp_path / "t")
    small = {"progressive-distillation.first": 2, "train.steps": 2}
    composed = recipe("progressive-distillation", data="digits", teacher=teacher.path, **small)
    assert go(composed, tmp_path / "r").step == 2
