"""Which plugin an exception came from."""

from types import TracebackType

from scmkit.discovery import Entry, first_line
from scmkit.errors import PluginError


def blamed(error: BaseException, entries: list[Entry]) -> PluginError | None:
    """The error that names the plugin among `entries` whose code is deepest in the traceback, if any.

    A frame belongs to the plugin whose module it runs; else to one whose package's it is in, where that
    package has a single plugin among `entries`.
    """
    found, trace = None, error.__traceback__
    while trace is not None:
        found = _owner(trace, entries) or found
        trace = trace.tb_next
    if found is None:
        return None
    what = first_line(error)
    return PluginError(
        f"{found} failed: {type(error).__name__}{': ' if what else ''}{what} "
        f"(try: pip install --upgrade {found.package}; --debug shows where)"
    )


def _owner(trace: TracebackType, entries: list[Entry]) -> Entry | None:
    module = str(trace.tb_frame.f_globals.get("__name__", ""))
    exact = [e for e in entries if e.entry_point.module == module]
    within = [
        e for e in entries if e.entry_point.module.partition(".")[0] == module.partition(".")[0]
    ]
    return next(iter(exact or within[: len(within) == 1]), None)
