"""Weight files that come inside installed packages, and what a file is known by."""

import hashlib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path


def packaged(package: str, file: str) -> Path | None:
    """The path of a file of an installed package, of which nothing is imported; None where it is not there.

    `file` is relative to where the package is installed.
    """
    try:
        path = Path(str(distribution(package).locate_file(file)))
    except PackageNotFoundError:
        return None
    return path if path.is_file() else None


def named_digest(path: Path) -> str:
    """A file's name and the first digits of its SHA-256, which published files carry in their names."""
    return f"{path.name}, SHA-256 {hashlib.sha256(path.read_bytes()).hexdigest()[:8]}"
