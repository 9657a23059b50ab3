"""The teacher that a recipe names: whether it is the one it was, and whether it fits the student."""

import equinox as eqx
import jax.random as jr

from scmkit.composing.build import build_model
from scmkit.composing.recipe import Recipe, TeacherRecord
from scmkit.errors import RunError, UsageError
from scmkit.plugin import MODEL_SLOTS, WITH_VELOCITY, Slot
from scmkit.runs.arrays import is_saved, named_leaves
from scmkit.runs.run import Run
from scmkit.training.data_record import compare_data
from scmkit.training.progress import Reporter


def given_teacher(run: Run, record: TeacherRecord, reporter: Reporter) -> Run:
    """The run of the teacher that a recipe names; its digest is noted in the recipe.

    Raises as `recorded_teacher` does. Where the run has not begun, lines say what of its data is not what the
    teacher was trained on.
    """
    teacher, digest = recorded_teacher(run, record)
    if not run.step:
        compare_data(run, teacher, reporter)
    run.write_recipe(run.recipe.replace(teacher=TeacherRecord(record.path, digest)))
    return teacher


def recorded_teacher(run: Run, record: TeacherRecord) -> tuple[Run, str]:
    """The teacher that a recipe names, and its digest.

    Raises `RunError` where the teacher has changed since it was recorded, and `UsageError` where it does not
    fit the recipe.
    """
    # A teacher inside the run is recorded relative to it, so that the run can be moved.
    teacher = Run.load(run.path / record.path)
    check_teacher(run.recipe, teacher)
    digest = teacher.digest()
    if record.digest not in (None, digest):
        raise RunError(
            f"teacher '{record.path}' has changed since this run began (its checkpoint's digest is "
            f"{digest[:12]}, the recipe says {record.digest[:12]}); restore it, or start a new run"
        )
    return teacher, digest


def check_teacher(recipe: Recipe, teacher: Run) -> None:
    """Raises `UsageError` where a teacher has no checkpoint, is a model of a kind from which there is nothing
    to learn for the recipe, or was trained on data of another kind."""
    ours, theirs = recipe.data, teacher.recipe.data
    if not teacher.step:
        raise UsageError(
            f"teacher '{teacher.path}' has no checkpoint yet; finish it with `scmkit resume {teacher.path}`"
        )
    _check_kind(recipe, teacher)
    _check_followers(recipe, teacher)
    for what in ("shape", "num_classes", "sigma_data", "shift", "scale"):
        mine, its = getattr(ours, what), getattr(theirs, what)
        if mine != its:
            raise UsageError(
                f"teacher '{teacher.path}' was trained on data of {what} {its}, this run's is {mine}; "
                f"use the data it was trained on ('{theirs.source}')"
            )
    if ours.digest and theirs.digest and ours.digest.class_names != theirs.digest.class_names:
        raise UsageError(
            f"teacher '{teacher.path}' was trained on data of other classes: "
            f"{next(theirs.digest.differences(ours.digest))}; use the data it was trained on "
            f"('{theirs.source}')"
        )


def _check_kind(recipe: Recipe, teacher: Run) -> None:
    """Raises `UsageError` where loss or tangent learn from another kind of model than the teacher."""
    made = teacher.recipe.makes
    for name in dict.fromkeys(recipe.slots[slot] for slot in (Slot.loss, Slot.tangent)):
        _, plugin, config = recipe.plugin(name)
        if plugin.starts_from != "teacher" or made in (kinds := plugin.taught_by(config)):
            continue
        lacks = "" if made in WITH_VELOCITY else ", which has no velocity to follow"
        own = teacher.teacher
        instead = "" if own is None else f"; it was taught by '{own}'"
        if "follow" in recipe.plugins[name].config:
            instead += f"; --set {name}.follow=RUN follows one and starts from another"
        raise UsageError(
            f"teacher '{teacher.path}' is a {made} model{lacks}; '{name}' needs a {' or '.join(kinds)} model "
            f"as its teacher{instead}"
        )


def _check_followers(recipe: Recipe, teacher: Run) -> None:
    """Raises `UsageError` where a follower starts as the teacher, and the two are not of one kind."""
    starting = [name for name, f in recipe.followers.items() if f.start == "teacher"]
    if not starting:
        return
    mine, its = (
        eqx.filter_eval_shape(build_model, r, key=jr.key(0)) for r in (recipe, teacher.recipe)
    )
    arrays = [[leaf for leaf in named_leaves(m) if is_saved(leaf[1])] for m in (mine, its)]
    if arrays[0] == arrays[1] and eqx.tree_equal(mine.parameterization, its.parameterization):
        return
    differing = [
        slot
        for slot in MODEL_SLOTS
        if (recipe.slots[slot], recipe.plugins[recipe.slots[slot]].config)
        != (teacher.recipe.slots[slot], teacher.recipe.plugins[teacher.recipe.slots[slot]].config)
    ]
    where = f" ({', '.join(differing)})" if differing else ""
    raise UsageError(
        f"'{recipe.slots[Slot.loss]}' starts its follower '{starting[0]}' as the teacher, and teacher "
        f"'{teacher.path}' is another model than this run's{where}; leave the slots to the teacher's plugins "
        "and options"
    )
