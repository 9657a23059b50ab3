"""Running where nothing is installed: wheels and the checkout's own metadata, in a temporary folder."""

import importlib.metadata
import os
import re
import sys
import tomllib
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]


def environment(wheels: Path, folder: Path) -> dict[str, str]:
    """The environment of a stage's process; `folder` is filled with what this Python lacks.

    Raises `FileNotFoundError` where something is lacking and there are no wheels, `ValueError` where a wheel
    is for another Python.
    """
    files = sorted(wheels.glob("*.whl")) if wheels.is_dir() else []
    for wheel in files:
        if _older(wheel):
            _check_tags(wheel)
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(folder)
    names = map(_name, _requirements())
    missing = [n for n in names if not (_installed(n) or _unpacked(folder, n))]
    if missing:
        raise FileNotFoundError(
            f"{', '.join(missing)} cannot be imported by {sys.executable}; install scmkit there (pip install "
            f"-e '.[cuda]'), or bring the wheels that benchmarks/gpu_wheels.sh downloads, in {wheels}"
        )
    _describe(folder)
    # The checkout first: what is measured is what lies here, whatever is installed.
    paths = [folder, ROOT, ROOT / "plugins", ROOT / "cli", ROOT / "benchmarks"]
    inherited = os.environ.get("PYTHONPATH")
    return {
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # PyTorch's processes need room on the same card
        "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.85",
        **os.environ,
        "PYTHONPATH": os.pathsep.join([*map(str, paths), *([inherited] if inherited else [])]),
        "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def outdated(folder: Path) -> list[str]:
    """Of what scmkit needs, what is older than it asks for, each in words."""
    found = []
    for requirement, name in ((r, _name(r)) for r in _requirements()):
        _, _, asked = requirement.partition(">=")
        here = _unpacked(folder, name) or _installed(name)
        if here and asked and _numbers(here) < _numbers(asked):
            found.append(f"{name} {here} is older than the {asked} that scmkit needs")
    return found


def _describe(folder: Path) -> None:
    """Name, version and entry points of the checkout, as an installation would have written them."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    info = folder / f"{project['name']}-{project['version']}.dist-info"
    info.mkdir()
    head = f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    (info / "METADATA").write_text(head)
    groups = project["entry-points"].items()
    lines = [f"[{g}]\n" + "".join(f"{k} = {v}\n" for k, v in named.items()) for g, named in groups]
    # Where scmkit is installed, too, the first description on the path is the one that counts.
    (info / "entry_points.txt").write_text("\n".join(lines))


def _requirements() -> list[str]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]


def _name(requirement: str) -> str:
    return re.split(r"[^A-Za-z0-9_.-]", requirement)[0]


def _installed(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _unpacked(folder: Path, name: str) -> str | None:
    found = importlib.metadata.distributions(name=name, path=[str(folder)])
    return next((distribution.version for distribution in found), None)


def _older(wheel: Path) -> bool:
    """Whether this Python has the wheel's distribution not at all, or in an older version."""
    name, version, *_ = wheel.name.split("-")
    here = _installed(name)
    return here is None or _numbers(here) < _numbers(version)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", version)))


def _check_tags(wheel: Path) -> None:
    python, abi = wheel.stem.split("-")[-3:-1]
    mine = f"cp{sys.version_info.major}{sys.version_info.minor}"
    if python.startswith("cp") and abi != "abi3" and mine not in python.split("."):
        raise ValueError(
            f"{wheel.name} is for {python} and this is {mine}; run benchmarks/gpu_wheels.sh {mine[2:]}"
        )
