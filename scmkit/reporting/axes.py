"""Axes: from values to places, and where the ticks are."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

WIDE = 20.0
"""Positive values that span more than this factor are better seen on a logarithmic axis."""


@dataclass(frozen=True)
class Axis:
    """An interval, linear or logarithmic, with its ticks."""

    low: float
    high: float
    log: bool
    ticks: tuple[float, ...]

    def place(self, values: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        """Where values lie, 0 at the low and 1 at the high end."""
        low, high = (math.log(v) if self.log else v for v in (self.low, self.high))
        with np.errstate(divide="ignore", invalid="ignore"):
            values = np.log(values) if self.log else values
        return (values - low) / (high - low)


def axis_of(
    values: Float[np.ndarray, " n"],
    *,
    log: bool | None = None,
    ticks: Sequence[float] = (),
    margin: float = 0.05,
) -> Axis:
    """The axis that shows all finite values, with `margin` of its length on both sides.

    Logarithmic if `log` says so, or by default where the values call for it (see `WIDE`). `ticks` are found
    where none are given.
    """
    values = values[np.isfinite(values)]
    if log is None:
        log = len(values) > 0 and values.min() > 0 and values.max() > WIDE * values.min()
    if log:
        values = np.log(values[values > 0])
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
    if high - low <= 1e-9 * max(abs(low), abs(high), 1e-9):
        low, high = low - 0.5 * (abs(low) or 1.0), high + 0.5 * (abs(high) or 1.0)
    pad = margin * (high - low)
    low, high = low - pad, high + pad
    if log:
        low, high = math.exp(low), math.exp(high)
    found = tuple(ticks) or (_log_ticks(low, high) if log else _linear_ticks(low, high))
    slack = 1e-9 * (high - low)  # An end that is a tick may be off by rounding.
    kept = tuple(t for t in found if low - slack <= t <= high + slack)
    return Axis(low, high, bool(log), kept)


def _linear_ticks(low: float, high: float, count: int = 5) -> tuple[float, ...]:
    """About `count` multiples of 1, 2 or 5 times a power of ten."""
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.999)
    first, last = math.ceil(low / step), math.floor(high / step)
    return tuple(step * i for i in range(first, last + 1))


def _log_ticks(low: float, high: float) -> tuple[float, ...]:
    """Powers of ten, with 2 and 5 times them where few fit, and linear ticks where fewer do."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    stride = max(1, (last - first) // 6)
    decades = [10.0**k for k in range(first, last + 1, stride)]
    for multiples in ((1,), (1, 3), (1, 2, 5)):
        tried = [m * d for d in decades for m in multiples]
        inside = [t for t in tried if low * (1 - 1e-9) <= t <= high * (1 + 1e-9)]
        if len(inside) >= 3:
            return tuple(inside)
    return _linear_ticks(low, high)


def number(value: float, digits: int = 3) -> str:
    """A number as people write it: `0.012`, `35 k`, `2e-5`."""
    if not math.isfinite(value):
        return "–"
    if value == 0:
        return "0"
    size = abs(value)
    if size >= 1e3:
        power, unit = next(p for p in ((1e9, "G"), (1e6, "M"), (1e3, "k")) if size >= p[0])
        shown = f"{value / power:.{digits}g} {unit}".rstrip()
    elif size < 1e-3:
        mantissa, _, exponent = f"{value:.{digits - 1}e}".partition("e")
        mantissa = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
        shown = f"{mantissa}e{int(exponent)}"
    else:
        shown = f"{value:.{digits}g}"
    return shown.replace("-", "−")
