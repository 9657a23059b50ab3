"""What a bench leaves behind and prints: numbers, page, tables and the picture of its curves."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scmkit.evaluation import remarks
from scmkit.reporting.trials import (
    Result,
    Setting,
    bench_page,
    curves_of,
    curves_png,
    in_markdown,
    markdown_of,
    notes_of,
    summarise,
    table_form,
    table_of,
    verdicts,
)
from scmkit.storage.containment import parse_json, read_bounded, to_json
from scmkit.storage.files import write_bytes, write_text
from scmkit_cli.tables import aligned
from scmkit_cli.terminal import say


@dataclass(frozen=True)
class View:
    """How a bench is shown: below the directory `out`, as a `table` of the paper if one is named.

    `pyplot` is matplotlib's, None for no picture of curves. `left` is the number of results that an earlier
    call of the command has left there.
    """

    out: Path
    setting: Setting
    table: str | None
    facts: Mapping[str, Any]
    pyplot: Any
    left: int = 0

    def update(self, results: list[Result]) -> None:
        """Writes what there is by now, unless an earlier call has left more."""
        if sum(result.error is None for result in results) > self.left:
            self.write(results)

    def write(self, results: list[Result]) -> None:
        """Writes numbers, page and tables anew."""
        plan, table = self.setting.plan, self.table
        content = {
            "environment": self.facts,
            "plan": dataclasses.asdict(plan),
            "table": [dataclasses.asdict(line) for line in summarise(results)],
            "results": [dataclasses.asdict(result) for result in results],
            "left_out": dict(self.setting.left_out),
        }
        write_text(self.out / "bench.json", to_json(content, indent=1) + "\n")
        form = None if table is None else lambda data: self._form(results, data)
        write_text(self.out / "bench.html", bench_page(plan, results, self.facts, form))
        parts = []
        for data in self._measured(results):
            parts.append(f"## {data}\n")
            if table is not None:
                notes = [f"- {line}" for line in notes_of(self.setting)]
                parts += [in_markdown(self._form(results, data)), *notes, ""]
            mine = [line for line in summarise(results) if line.data == data]
            parts += [
                markdown_of(mine),
                *(f"- {line}" for line in verdicts(plan, results, data)),
                "",
            ]
        write_text(self.out / "bench.md", "\n".join(parts))

    def draw(self, results: Sequence[Result]) -> None:
        """Writes the picture of curves, where there are any."""
        plan = self.setting.plan
        found = [curves_of(plan, results, data) for data in plan.data]
        drawn = [curves for curves in found if curves is not None and curves.panels]
        if drawn and self.pyplot is not None:
            write_bytes(self.out / "curve.png", curves_png(drawn, self.pyplot))
            say(f"curves          {self.out / 'curve.png'}", err=True)

    def tell(self, results: Sequence[Result]) -> None:
        """Prints the table of each data set, and what the numbers say below it."""
        for data in self._measured(results):
            mine = [line for line in summarise(results) if line.data == data]
            say(data)
            rows = table_of(mine) if self.table is None else self._form(results, data)
            for row in aligned(rows):
                say(row)
            for line in verdicts(self.setting.plan, results, data):
                say(line)
            for line in remarks([row for r in results if r.cell.data == data for row in r.rows]):
                say(line)
        for line in () if self.table is None else notes_of(self.setting):
            say(line)

    def _form(self, results: Sequence[Result], data: str) -> list[list[str]]:
        assert self.table is not None
        return table_form(self.table, self.setting, results, data)

    def _measured(self, results: Sequence[Result]) -> list[str]:
        """The data sets of which there is a row."""
        some = {r.cell.data for r in results if r.rows}
        return [data for data in self.setting.plan.data if data in some]


def results_left(out: Path) -> int:
    """How many results without error a bench has left below `out`; 0 where none can be read."""
    try:
        found = parse_json(read_bounded(out / "bench.json"))["results"]
        return sum(result["error"] is None for result in found)
    except (OSError, ValueError, LookupError, TypeError):
        return 0
