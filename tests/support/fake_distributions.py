"""Real distributions of broken and foreign plugins, written where Python finds them."""

import importlib
import sys
import textwrap
from pathlib import Path

import pytest

EMPTY = "plugin = None"


def metric_module(name: str, **fields: str) -> str:
    """Source of a module with a metric plugin `name`; `fields` are further arguments as source."""
    given = {"name": repr(name), "summary": repr("the number of samples")} | fields
    arguments = ", ".join(f"{key}={value}" for key, value in given.items())
    return f"""
from scmkit.interfaces import AbstractMetric, Evaluation
from scmkit.plugin import API_VERSION, NoOptions, Plugin, Slot


class Spread(AbstractMetric):
    def applies(self, evaluation: Evaluation) -> bool:
        return True

    def __call__(self, evaluation: Evaluation) -> float:
        return float(abs(evaluation.samples.std() - evaluation.reference.std()))


def build(config: NoOptions) -> Spread:
    return Spread()


plugin = Plugin({arguments}, provides={{Slot.metric: build}})
"""


class Installer:
    """Installs distributions below a directory that is put on `sys.path`."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        monkeypatch.syspath_prepend(directory)

    def __call__(
        self, package: str, plugins: dict[str, str], *, version: str = "1.0", source: str = EMPTY
    ) -> None:
        """Writes `PACKAGE` with entry points `plugins` (name -> object in its one module).

        An object is `ATTRIBUTE` of that module, or `MODULE:ATTRIBUTE` of any other.
        """
        module = package.replace("-", "_")
        (self.directory / f"{module}.py").write_text(textwrap.dedent(source))
        info = self.directory / f"{module}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n"
        )
        lines = [
            f"{name} = {target if ':' in target else f'{module}:{target}'}"
            for name, target in plugins.items()
        ]
        (info / "entry_points.txt").write_text("\n".join(["[scmkit.plugins]", *lines, ""]))
        # A module of that name may be there from an earlier test.
        sys.modules.pop(module, None)
        importlib.invalidate_caches()
