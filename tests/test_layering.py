"""Which layer may import which, and what a cheap command must not load."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest
import scmkit_cli
import scmkit_plugins

import scmkit
from scmkit.testing import assert_abstract_or_final

LAYERS = [
    {"telling"},
    {"terminal"},
    {"types", "bounds", "errors", "kinds"},
    {"storage", "distribution"},
    {"interfaces", "settings"},
    {"arguments", "weights", "players"},
    {"models"},
    {"losses", "plugin", "data"},
    {"composing"},
    {"sampling"},
    {"runs"},
    {"training"},
    {"evaluation", "editing"},
    {"reporting"},
    {"testing"},
]
"""The rooms and modules of scmkit; each imports only from the lines above it, and its own."""

NARROW = {
    "interfaces": {"types"},
    "models": {"types", "errors", "arguments", "interfaces"},
    "losses": {"types", "interfaces", "models"},
    "data": {"types", "terminal", "errors", "interfaces", "storage", "weights"},
}
"""Those that import even less than their line would let them."""


def imported(file: Path) -> set[str]:
    """The names of the modules a file imports, and of what it takes from them."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} has a relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def typing_only(file: Path) -> set[str]:
    """What is imported under `if TYPE_CHECKING:`, which no layer minds."""
    tree = ast.parse(file.read_text())
    guarded = [
        child
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for child in node.body
        if isinstance(child, ast.ImportFrom)
    ]
    return {f"{node.module}.{alias.name}" for node in guarded for alias in node.names}


def files(package: object) -> list[Path]:
    return sorted(Path(package.__path__[0]).rglob("*.py"))  # pyright: ignore


def part(file: Path) -> str:
    """The module or package of scmkit that a file belongs to."""
    return file.relative_to(Path(scmkit.__path__[0])).parts[0].removesuffix(".py")


@pytest.mark.parametrize("file", files(scmkit), ids=lambda f: str(f.relative_to(f.parents[2])))
def test_core_modules_import_only_what_lies_below(file: Path) -> None:
    names = imported(file) - typing_only(file)
    tops = {name.partition(".")[0] for name in names}
    assert not tops & {"scmkit_plugins", "scmkit_cli", "typer", "plugins", "cli"}
    here = part(file)
    if here in ("__init__", "__main__"):
        return
    height = next((i for i, layer in enumerate(LAYERS) if here in layer), None)
    assert height is not None, f"add '{here}' to LAYERS"
    below = {here} | NARROW.get(here, set().union(*LAYERS[:height]))
    used = {name.split(".")[1] for name in names if name.startswith("scmkit.")}
    assert used <= below, f"{here} must not import {sorted(used - below)}"


@pytest.mark.parametrize("package", [scmkit_plugins, scmkit_cli], ids=lambda p: p.__name__)
def test_plugins_and_cli_use_public_names_only(package: object) -> None:
    for file in files(package):
        for name in imported(file):
            top, *rest = name.split(".")
            if top == "scmkit":
                assert not [n for n in rest if n.startswith("_") and n != "__version__"], (
                    f"{file} imports {name}"
                )
            other = {"scmkit_plugins", "scmkit_cli", "plugins", "cli"} - {package.__name__}  # pyright: ignore
            assert top not in other, f"{file} imports {name}"


@pytest.mark.parametrize("package", [scmkit, scmkit_plugins], ids=lambda p: p.__name__)
def test_modules_are_abstract_or_final(package: object) -> None:
    assert_abstract_or_final(package)  # pyright: ignore


@pytest.mark.parametrize("command", [["--help"], ["plugins", "list"], ["train", "--help"]])
def test_cheap_commands_load_no_jax(command: list[str]) -> None:
    code = (
        f"import json, sys; sys.argv = ['scmkit', *{command!r}]\n"
        "from scmkit_cli.main import main\n"
        "try: main()\n"
        "finally: print(json.dumps(sorted(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = json.loads(done.stderr.splitlines()[-1])
    assert "scmkit_cli.main" in loaded
    assert not {"jax", "equinox", "numpy", "scmkit_plugins"} & set(loaded)
