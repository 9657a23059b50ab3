"""What commands print about recipes and runs."""

from scmkit.composing.build import build_free
from scmkit.composing.recipe import Recipe, TeacherRecord
from scmkit.plugin import Slot
from scmkit.runs.run import Run
from scmkit.training import preview_path
from scmkit_cli.terminal import say


def print_recipe(recipe: Recipe) -> None:
    """Data, slots, plan of training and teacher, on stderr."""
    print_model(recipe)
    t = recipe.train
    plan = f"{t.steps} steps of {t.batch_size}, {t.optimizer} {t.lr:g} {t.schedule}, ema {t.ema}"
    say(f"{'training':<15} {plan}", err=True)
    if isinstance(recipe.teacher, TeacherRecord):
        say(f"{'teacher':<15} {recipe.teacher.path}", err=True)


def print_model(recipe: Recipe) -> None:
    """Data and slots, on stderr."""
    data = recipe.data
    classes = f", {data.num_classes} classes" if data.num_classes else ""
    say(f"data            {data.source} {'x'.join(map(str, data.shape))}{classes}", err=True)
    for slot, name in recipe.slots.items():
        if slot is not Slot.dataset:
            say(f"{slot:<15} {name}", err=True)


def print_finished(run: Run) -> None:
    """Where everything went; the picture's path last, on stdout."""
    teacher = run.path / "teacher"
    say(f"run             {run.path}", err=True)
    if teacher.is_dir():
        say(f"teacher         {teacher}", err=True)
    say(f"checkpoints     {run.checkpoints}", err=True)
    say(f"metrics         {run.path / 'metrics.jsonl'}", err=True)
    say(f"next            scmkit eval {run.path}", err=True)
    sampler = build_free(Slot.sampler, *run.recipe.recorded(run.recipe.sampler))
    steps = sampler.usual_steps[-1]
    say(f"                scmkit sample {run.path} --steps {steps} --out samples.png", err=True)
    say(str(preview_path(run.path, run.step)))
