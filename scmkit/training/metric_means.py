"""Metrics between two lines of `metrics.jsonl`."""

import time
from typing import Any

from scmkit.training.step import StepMetrics


class Window:
    """Sums of the metrics of steps, as plain floats.

    `state` goes into checkpoints, so that a resumed run writes the very lines it would have written.
    """

    def __init__(self, state: dict[str, Any] | None = None) -> None:
        self._sums: dict[str, Any] = dict(
            state or {"steps": 0, "means": {}, "bins": {}, "counts": []}
        )
        self._timed, self._since = 0, time.perf_counter()

    def add(self, metrics: StepMetrics) -> None:
        """Add the metrics of one step, already on the host."""
        sums = self._sums
        sums["steps"] += 1
        self._timed += 1
        for name, value in metrics.means.items():
            sums["means"][name] = sums["means"].get(name, 0.0) + float(value)
        for name, values in metrics.sums.items():
            sums["bins"][name] = _plus(sums["bins"].get(name), values)
        sums["counts"] = _plus(sums["counts"], metrics.counts)

    def skip(self) -> None:
        """Count a step whose batch was skipped; its metrics are in no mean."""
        self._sums["skipped"] = self._sums.get("skipped", 0) + 1

    def line(self, step: int) -> dict[str, Any]:
        """Means over the window, overall and by noise bin (None for an empty bin)."""
        sums = self._sums
        line: dict[str, Any] = {"step": step}
        if sums.get("skipped"):
            line["skipped"] = sums["skipped"]
        line |= {name: total / sums["steps"] for name, total in sums["means"].items()}
        for name, totals in sums["bins"].items():
            pairs = zip(totals, sums["counts"], strict=True)
            line[f"{name}_by_noise"] = [total / n if n else None for total, n in pairs]
        line["steps_per_second"] = self._timed / max(time.perf_counter() - self._since, 1e-9)
        return line

    def state(self) -> dict[str, Any]:
        """The sums as JSON values; the clock is no part of them."""
        return self._sums


def _plus(total: list[float] | None, values: Any) -> list[float]:
    return [float(v) + t for v, t in zip(values, total or [0.0] * len(values), strict=True)]
