"""Facts about the runs, and their recipes as pictures."""

from collections.abc import Sequence

from scmkit.composing.footprint import Footprint, footprint
from scmkit.composing.recipe import TeacherRecord
from scmkit.errors import ScmkitError
from scmkit.reporting.axes import number
from scmkit.reporting.cost import duration, training_seconds
from scmkit.reporting.markup import element, join, table
from scmkit.reporting.recipe_picture import recipe_picture
from scmkit.reporting.section import Section
from scmkit.reporting.subjects import Asked, Subject, with_teachers

LEDE = (
    "Each box is a slot and the plugin that fills it, with the options that differ from the plugin's "
    "defaults. FLOPs are those of one network evaluation on one sample."
)


def section(subjects: Sequence[Subject], asked: Asked) -> Section:
    """A column of facts for each run, and its recipe."""
    listed = with_teachers(subjects)
    columns = [_facts(subject) for subject in listed]
    rows = [[fact, *(c.get(fact, "") for c in columns)] for fact in columns[0]]
    pictures = [
        join(element("h3", s.name) if len(subjects) > 1 else None, recipe_picture(s.run.recipe))
        for s in subjects
    ]
    facts = table(["", *(s.name for s in listed)], rows, class_="facts")
    return Section("Recipe", LEDE, join(*pictures, facts))


def _facts(subject: Subject) -> dict[str, str]:
    run, data = subject.run, subject.data
    train, teacher = run.recipe.train, run.recipe.teacher
    size = _footprint(subject)
    seconds = training_seconds(run)
    classes = f", {data.num_classes} classes" if data.num_classes else ""
    return {
        "directory": str(run.path),
        "data": f"{data.source}, {'×'.join(map(str, data.shape))}{classes}",
        "step": f"{run.step} of {train.steps}, batches of {train.batch_size}",
        "parameters": "–" if size is None else f"{size.parameters:,}",
        "FLOPs": "–" if size is None else number(size.flops),
        "training time": duration(seconds) if seconds else "not in its log",
        "seed": str(train.seed),
        "starts from": teacher.path if isinstance(teacher, TeacherRecord) else "fresh weights",
        "digest": run.digest()[:8],
    }


def _footprint(subject: Subject) -> Footprint | None:
    try:
        return footprint(subject.run.recipe)
    except ScmkitError:
        return None
