"""Table one from what the visits to a GPU brought back of stage g of `gpu.py`.

    python benchmarks/gpu_table.py gpu gpu2 --out benchmarks/results/table-one-gpu.json

Prints the table in Markdown, in the form of the paper's, and keeps every row. Nothing is trained or measured,
and the data is not needed. All methods must have had one budget, the same data and one classifier.
"""

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common import write
from gpu_stages.costs import METHODS
from gpu_stages.results import DONE, merged, read

from scmkit.errors import ScmkitError
from scmkit.reporting.trials import (
    Cell,
    Plan,
    Result,
    Setting,
    in_markdown,
    notes_of,
    summarise,
    table_form,
)
from scmkit.reporting.trials.measuring import row_of

DATA = "digits"
"""The groups of a table are those of recipes, for which any data does; these come with scmkit."""

DIFFUSION = next(iter(METHODS))


def collected(contents: Sequence[dict[str, Any]]) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """The row of each method that is done, and why others are not.

    Raises `ValueError` where rows do not compare, and where there is none of the teacher.
    """
    parts = merged(entry for content in contents for entry in content["parts"])
    entries = {part: entry for (stage, part), entry in parts.items() if stage == "g"}
    done = [entries[m]["rows"][0] for m in METHODS if entries.get(m, {}).get("status") == DONE]
    if not done or done[0]["method"] != DIFFUSION:
        raise ValueError(
            f"no results of stage g's '{DIFFUSION}', which the others are held against"
        )
    for what, of in COMMON.items():
        for row in done[1:]:
            if of(row) != of(done[0]):
                raise ValueError(f"'{row['method']}' has had {what} than '{DIFFUSION}'")
    undone = {m: _why(entries.get(m)) for m in METHODS if m not in {row["method"] for row in done}}
    return done, undone


COMMON = {
    "another budget": lambda row: row["plan"],
    "other data": lambda row: row["data"]["digest"],
    "another teacher": lambda row: row["teacher"],
    "other features": lambda row: row["result"]["rows"][0]["features"],
}
"""What all rows share."""


def _why(entry: dict[str, Any] | None) -> str:
    """The reason why a part is not done."""
    if entry is None or "seconds" not in entry:
        return "not trained yet"
    return entry["reason"].splitlines()[0]


def assembled(
    done: Sequence[dict[str, Any]], undone: dict[str, str]
) -> tuple[Setting, list[Result]]:
    """A bench's setting and results."""
    seconds = done[0]["result"]["seconds"]
    results = []
    for row in done:
        raw = row["result"]
        results.append(
            Result(
                Cell(DATA, raw["cell"]["method"], raw["cell"]["seed"]),
                tuple(map(row_of, raw["rows"])),
                raw["parameters"],
                raw["seconds"],
                raw["teacher"],
                0.0 if raw["teacher"] is None else seconds,
            )
        )
    methods = [result.cell.method for result in results]
    plan = Plan(**done[0]["plan"] | {"methods": methods, "data": (DATA,), "settings": {}})
    return Setting(plan, undone, {}), results


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "visits",
        type=Path,
        nargs="+",
        help="what gpu.py wrote to, the newest last, or results.json",
    )
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    try:
        contents = [read(path)[1] for path in args.visits]
        done, undone = collected(contents)
        setting, results = assembled(done, undone)
        table = table_form("one", setting, results, DATA)
    except (OSError, ValueError, LookupError, TypeError, ScmkitError) as error:
        print(f"gpu_table.py: {error}", file=sys.stderr)
        return 1
    cards = list(dict.fromkeys(content["card"] for content in contents if "card" in content))
    plan, data = done[0]["plan"], done[0]["data"]
    shape = "x".join(map(str, data["shape"]))
    print(
        f"{data['name']}, {shape}: {plan['steps']} steps of {plan['batch_size']}, "
        f"{len(done)} of {len(METHODS)} methods, on {', '.join(cards)}\n"
    )
    print(in_markdown(table))
    print("\n".join(f"- {note}" for note in notes_of(setting)))
    visits = [{k: c.get(k) for k in ("card", "date", "command", "environment")} for c in contents]
    lines = [dataclasses.asdict(line) for line in summarise(results)]
    content = {"visits": visits, "plan": plan, "data": data, "table": lines, "methods": done}
    write(args.out, json.loads(json.dumps(content | {"left_out": undone}, default=sorted)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
