"""How plugins are loaded: imported on use, and checked."""

from scmkit.composing.blame import is_signal, suspect
from scmkit.composing.entries import Entry, first_line, has_module
from scmkit.composing.environment import require_jax
from scmkit.errors import PluginError
from scmkit.plugin import API_VERSION, Plugin


def load(entry: Entry) -> Plugin:
    """Import a plugin and check it.

    Raises `PluginError` naming plugin, package and version if it cannot be imported, is not a
    `Plugin`, speaks another API, or lacks an optional dependency; `UsageError` where jax is set up so that no
    plugin can work.
    """
    require_jax()
    if entry.broken:
        raise PluginError(
            f"{entry} is broken: {entry.broken} (try: pip install --force-reinstall {entry.package})"
        )
    try:
        plugin = entry.entry_point.load()
    # A module that exits while it is imported is broken like any other.
    except BaseException as error:
        if is_signal(error):
            raise
        raise PluginError(
            f"{entry} is broken: {type(error).__name__}: {first_line(error)} "
            f"(try: pip install --upgrade {entry.package})"
        ) from error
    if not isinstance(plugin, Plugin):
        raise PluginError(
            f"{entry} is a {type(plugin).__name__}, not a scmkit.Plugin: its entry point "
            f"'{entry.entry_point.value}' must name a Plugin instance"
        )
    if plugin.api != API_VERSION:
        newer = "scmkit" if plugin.api > API_VERSION else entry.package
        raise PluginError(
            f"{entry} was written for plugin API {plugin.api}, this scmkit speaks {API_VERSION}; "
            f"try: pip install --upgrade {newer}"
        )
    if plugin.name != entry.name:
        raise PluginError(
            f"{entry} calls itself '{plugin.name}'; its package must make the two agree"
        )
    for module, command in plugin.requires.items():
        if not has_module(module):
            raise PluginError(f"{entry} needs the module '{module}'; install it with: {command}")
    suspect(entry)
    return plugin
