"""Which plugin is at fault."""

import signal
from collections.abc import Collection, Iterator
from contextlib import contextmanager

from scmkit.composing.entries import Entry, entries, first_line
from scmkit.errors import InputError, PluginError, ScmkitError, Stopped

OWN = "scmkit"
"""The package whose plugins are suspected last: others call them, with whatever arguments."""

_loaded: set[Entry] = set()


def suspect(entry: Entry) -> None:
    """From now on a plugin may be at fault: it was imported."""
    _loaded.add(entry)


def is_signal(error: BaseException) -> bool:
    """Whether an exception stands for a signal, such as Ctrl-C, and so is nobody's fault.

    A `KeyboardInterrupt` does where Python's own handler is in place, which the command line replaces.
    """
    if isinstance(error, KeyboardInterrupt):
        return signal.getsignal(signal.SIGINT) is signal.default_int_handler
    return isinstance(error, Stopped)


@contextmanager
def blaming(suspects: Collection[Entry] | None = None) -> Iterator[None]:
    """Raises what comes out of a plugin's code as a `PluginError` that names it; decorates functions, too.

    The plugin is the one among `suspects` whose code is deepest in the traceback; by default, among those in
    use that are not scmkit's own, which users call with models and callbacks of theirs. What has a remedy in
    its message already, what comes from no plugin, and what stands for a signal is raised as it is; a plugin
    that asks the process to exit has failed like any other.
    """
    try:
        yield
    except BaseException as error:
        told = isinstance(error, ScmkitError) and not isinstance(error, InputError)
        if told or isinstance(error, GeneratorExit):
            raise
        found = _at_fault(error, _foreign() if suspects is None else suspects)
        if not found or is_signal(error):
            raise
        what = first_line(error)
        raise PluginError(
            f"{_named(found)} failed: {type(error).__name__}{': ' if what else ''}{what} "
            f"(try: pip install --upgrade {found[0].package}; --debug shows where)"
        ) from error


def misreturned(part: object, what: str, got: str, wanted: str) -> PluginError:
    """The error for a part of a plugin that returned `got` as its `what`, where `wanted` was due.

    Where the part's class is of no plugin, its name stands for one.
    """
    found = _owners(type(part).__module__, _in_use())
    name = _named(found) if found else f"{type(part).__module__}.{type(part).__qualname__}"
    remedy = f" (try: pip install --upgrade {found[0].package})" if found else ""
    return PluginError(f"{name} returned {got} from its {what}, which must be {wanted}{remedy}")


def _in_use() -> list[Entry]:
    return [entry for entry in entries() if entry in _loaded]


def _foreign() -> list[Entry]:
    return [entry for entry in _in_use() if entry.package != OWN]


def _at_fault(error: BaseException, suspects: Collection[Entry]) -> list[Entry]:
    """The owners of the deepest frame in the traceback that has any, of another package before our own."""
    deepest: dict[bool, list[Entry]] = {}
    trace = error.__traceback__
    while trace is not None:
        owners = _owners(str(trace.tb_frame.f_globals.get("__name__", "")), suspects)
        if owners:
            deepest[owners[0].package == OWN] = owners
        trace = trace.tb_next
    return deepest.get(False) or deepest.get(True) or []


def _owners(module: str, suspects: Collection[Entry]) -> list[Entry]:
    """The plugins that a module belongs to: those defined in it, else all of its package."""
    exact = [e for e in suspects if e.entry_point.module == module]
    top = module.partition(".")[0]
    return exact or [e for e in suspects if e.entry_point.module.partition(".")[0] == top]


def _named(found: list[Entry]) -> str:
    """The plugin, or the several of one package that share the code."""
    if len(found) == 1:
        return str(found[0])
    names = " or ".join(f"'{entry.name}'" for entry in found)
    return f"plugin {names} of {found[0].package} {found[0].version}"
