"""The two commands of a comparison with another framework's code, each in an environment of its own."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any


def main(
    description: str | None,
    checkout: str | None,
    reference: Callable[..., None],
    compare: Callable[[Path], list[dict[str, Any]]],
) -> None:
    """`torch [--CHECKOUT DIR] FOLDER` runs `reference`, `compare FOLDER` compares and writes JSON."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawTextHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    theirs = commands.add_parser("torch")
    if checkout:
        theirs.add_argument(f"--{checkout}", dest="checkout", type=Path, required=True)
    theirs.add_argument("folder", type=Path)
    ours = commands.add_parser("compare")
    ours.add_argument("folder", type=Path)
    ours.add_argument("--out", type=Path)
    given = parser.parse_args()
    if given.command == "torch":
        reference(*([given.checkout] if checkout else []), given.folder)
        return
    # Here, since it imports jax, which the other environment need not have.
    from common import write

    write(given.out, compare(given.folder))
