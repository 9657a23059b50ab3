"""The command line: `scmkit COMMAND`."""

import signal
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from scmkit.composing.blame import blaming
from scmkit.errors import Interrupted, Preempted, ScmkitError, Stopped
from scmkit_cli import (
    bench,
    convert,
    data,
    diagnose,
    edit,
    evaluate,
    launch,
    likelihood,
    plan,
    plugins,
    replay,
    report,
    resume,
    run,
    sample,
    train,
    tune,
)
from scmkit_cli.mistyped import explained
from scmkit_cli.streams import prepared, stoppable
from scmkit_cli.terminal import say
from scmkit_cli.together import together


class _Commands(TyperGroup):
    """The commands; their errors are explained before typer makes boxes and exit codes of them."""

    def invoke(self, ctx: Any) -> Any:
        with blaming(), explained():
            return super().invoke(ctx)


app = typer.Typer(
    name="scmkit",
    cls=_Commands,
    help="Continuous-time consistency models (sCM, arXiv 2410.11081), composed from plugins.\n\n"
    "Start with: scmkit train --plugin trigflow --plugin scd",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("train")(train.train)
app.command("plan")(plan.plan)
app.command("resume")(resume.resume)
app.command("launch", context_settings=launch.PASSED_ON)(launch.launch)
app.command("replay")(replay.replay)
app.command("sample")(sample.sample)
app.command("eval")(evaluate.evaluate)
app.command("tune")(tune.tune)
app.command("likelihood")(likelihood.likelihood)
app.command("report")(report.report)
app.command("bench")(bench.bench)
app.command("diagnose")(diagnose.diagnose)
app.command("convert")(convert.convert)
app.command("export")(convert.export)
app.add_typer(edit.app, name="edit", help="Edit images, and walk between them.")
app.add_typer(plugins.app, name="plugins", help="List, describe and check plugins.")
app.add_typer(run.app, name="run", help="Look after runs.")
app.add_typer(data.app, name="data", help="Import data and look at it.")


def _version(wanted: bool) -> None:
    if wanted:
        from scmkit import __version__

        say(f"scmkit {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Options of every command."""


def main() -> None:
    """Run the command line; errors are one line on stderr and an exit code."""
    debug = "--debug" in sys.argv
    # Also accepted behind the command, where people put it after an error.
    argv = [a for a in sys.argv[1:] if a != "--debug"]
    try:
        with together(argv, debug, _explained), prepared(), stoppable():
            app(args=argv, prog_name="scmkit")
    except (Exception, Stopped) as error:
        if debug and not isinstance(error, Stopped | BrokenPipeError):
            raise
        code, line = _explained(error)
        if line is not None:
            say(line, err=True)
        sys.exit(code)


def _explained(error: BaseException) -> tuple[int, str | None]:
    """The exit code of an error, and the line that tells it."""
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else int(error.code is not None), None
    if isinstance(error, ScmkitError):
        return error.code, f"error: {error}"
    if isinstance(error, BrokenPipeError):
        return 1, None
    if isinstance(error, Stopped | KeyboardInterrupt):
        term = isinstance(error, Stopped) and error.number == signal.SIGTERM
        return (Preempted if term else Interrupted).code, (
            f"error: {'terminated' if term else 'interrupted'}"
        )
    first = str(error).strip().splitlines()
    return 1, (
        f"error: {type(error).__name__}: {first[0] if first else ''} "
        "(a bug in scmkit or a plugin; --debug shows where)"
    )
