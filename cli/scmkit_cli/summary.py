"""What commands print about recipes and runs."""

import typer

from scmkit.plugin import Slot
from scmkit.recipe import Recipe, TeacherRecord
from scmkit.training import preview_path
from scmkit.training.run import Run


def print_recipe(recipe: Recipe) -> None:
    """Slots, data and teacher, on stderr."""
    data = recipe.data
    classes = f", {data.num_classes} classes" if data.num_classes else ""
    typer.echo(f"data            {data.source} {'x'.join(map(str, data.shape))}{classes}", err=True)
    for slot, name in recipe.slots.items():
        if slot is not Slot.dataset:
            typer.echo(f"{slot:<15} {name}", err=True)
    t = recipe.train
    plan = f"{t.steps} steps of {t.batch_size}, {t.optimizer} {t.lr:g} {t.schedule}, ema {t.ema}"
    typer.echo(f"{'training':<15} {plan}", err=True)
    if isinstance(recipe.teacher, TeacherRecord):
        typer.echo(f"{'teacher':<15} {recipe.teacher.path}", err=True)


def print_finished(run: Run) -> None:
    """Where everything went; the picture's path last, on stdout."""
    teacher = run.path / "teacher"
    typer.echo(f"run             {run.path}", err=True)
    if teacher.is_dir():
        typer.echo(f"teacher         {teacher}", err=True)
    typer.echo(f"checkpoints     {run.checkpoints}", err=True)
    typer.echo(f"metrics         {run.path / 'metrics.jsonl'}", err=True)
    typer.echo(f"next            scmkit eval {run.path}", err=True)
    typer.echo(f"                scmkit sample {run.path} --steps 2 --out samples.png", err=True)
    typer.echo(str(preview_path(run.path, run.step)))
