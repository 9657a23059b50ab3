"""How training opens a run's directory: locked, cleared of what a crash left, its recipe checked."""

import contextlib
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from scmkit.distribution import processes
from scmkit.errors import UsageError
from scmkit.runs import recovery
from scmkit.runs.provenance import standing
from scmkit.runs.run import Run
from scmkit.storage.files import make_directory, refuse_links
from scmkit.storage.locks import DirectoryLock
from scmkit.training.progress import Reporter


@contextlib.contextmanager
def opened(
    path: Path, reporter: Reporter, prepare: Callable[[Path], None], read: Collection[str] = ()
) -> Iterator[None]:
    """Keep other trainings from a run's directory, and have it prepared before anything is read in it.

    Of several processes the first one locks and prepares, and the others wait for it; its errors are raised
    in all. Raises `RunError` as `locked` does.
    """
    with contextlib.ExitStack() as held:

        def lock() -> str:
            held.enter_context(locked(path, reporter, read))
            prepare(path)
            return ""

        processes.by_first("open", lock)
        yield


@contextlib.contextmanager
def locked(path: Path, reporter: Reporter, read: Collection[str] = ()) -> Iterator[None]:
    """Keep other processes from working in a run's directory, which is made if need be.

    Raises `RunError` where an entry of it is a link out of it; names in `read`, which are only read from, may
    be such links.
    """
    refuse_links(path, but=read)
    make_directory(path)
    with DirectoryLock(path) as lock:
        if not lock.held:
            reporter.message(
                f"the file system of '{path}' has no locks: see that no other process trains there"
            )
        yield


def recover(run: Run, reporter: Reporter) -> None:
    """Remove the files that a crash left half written, and set damaged checkpoints aside."""
    for name in ("recipe.json", "metrics.jsonl", "samples/[0-9]*.png", "nonfinite/[0-9]*.json"):
        for path in run.path.glob(f"{name}.*.tmp"):
            with contextlib.suppress(OSError):
                path.unlink()
    for line in recovery.recover(run.checkpoints, keep=run.recipe.train.keep):
        reporter.message(line)


def check_recipe(run: Run, edited: bool, reporter: Reporter, *, whole: Path) -> None:
    """Raises `UsageError` for a recipe that somebody has edited, unless `edited` says it was on purpose.

    Where training goes on with a recipe that was edited, or that differs from the newest checkpoint's, a line
    names the differences. `whole` is the run to resume.
    """
    found, file = standing(run.path), run.path / "recipe.json"
    if found.edited and not edited:
        raise UsageError(
            f"'{file}' was {found.how}; if that is meant, `scmkit resume {whole} --edited`, else restore it"
        )
    if found.edited:
        reporter.message(f"'{file}' is used as it is, but was {found.how}")
    elif found.told:
        reporter.message(f"'{file}' differs from the newest checkpoint's recipe: {found.told}")
    if not found.sealed:
        run.write_recipe(run.recipe)
