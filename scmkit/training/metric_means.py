"""Means of metrics between two lines of `metrics.jsonl`."""

import math
from collections.abc import Mapping
from typing import Any

from scmkit.training.step import StepMetrics


class Window:
    """Sums of the metrics of the steps since the last line.

    Its state goes into checkpoints, so that a resumed run writes the very lines it would have written.
    """

    def __init__(self, state: Mapping[str, Any] | None = None) -> None:
        given = state or {}
        self._steps, self._skipped = given.get("steps", 0), given.get("skipped", 0)
        self._means = {name: float(total) for name, total in given.get("means", {}).items()}
        self._bins = {name: _numbers(totals) for name, totals in given.get("bins", {}).items()}
        self._counts = _numbers(given.get("counts", []))

    def add(self, metrics: StepMetrics) -> None:
        """Add the metrics of one step, already on the host."""
        self._steps += 1
        for name, value in metrics.means.items():
            self._means[name] = self._means.get(name, 0.0) + float(value)
        for name, values in metrics.sums.items():
            self._bins[name] = _plus(self._bins.get(name, []), values)
        self._counts = _plus(self._counts, metrics.counts)

    def skip(self) -> None:
        """Count a step whose batch was skipped; its metrics are in no mean."""
        self._skipped += 1

    def line(self, step: int) -> dict[str, Any]:
        """The means since the last line, overall and by noise bin (None for an empty bin)."""
        line: dict[str, Any] = {"step": step}
        if self._skipped:
            line["skipped"] = self._skipped
        line |= {name: total / self._steps for name, total in self._means.items()}
        for name, totals in self._bins.items():
            pairs = zip(totals, self._counts, strict=True)
            line[f"{name}_by_noise"] = [total / n if n else None for total, n in pairs]
        return line

    def state(self) -> dict[str, Any]:
        """The sums as JSON, in which those that are not finite are text: JSON has no such numbers."""
        state = {
            "steps": self._steps,
            "means": {name: _as_json(total) for name, total in self._means.items()},
            "bins": {name: [_as_json(t) for t in totals] for name, totals in self._bins.items()},
            "counts": self._counts,
        }
        return state | ({"skipped": self._skipped} if self._skipped else {})


def _plus(total: list[float], values: Any) -> list[float]:
    return [float(v) + t for v, t in zip(values, total or [0.0] * len(values), strict=True)]


def _numbers(values: list[Any]) -> list[float]:
    return [float(value) for value in values]


def _as_json(value: float) -> float | str:
    return value if math.isfinite(value) else repr(value)
