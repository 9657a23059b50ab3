"""The rows of an evaluation."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

REAL, GAUSSIAN = "real data", "Gaussian (training mean and covariance)"
LEAVE_ONE_OUT = "training data, each against the others"


def real_name(fewer: int | None = None) -> str:
    """The name of the row of real data.

    It says how many there are where they are `fewer` than the samples of the other rows.
    """
    return REAL if fewer is None else f"{REAL}, {fewer} samples"


@dataclass(frozen=True)
class Row:
    """One line of an evaluation: some samples, and their scores against real data.

    **Attributes:**

    - `nfe`: network evaluations for one sample; None for samples that no model made.
    - `n`: the number of samples that the values are of.
    - `steps`: the number of sampling steps; None for samples that no model made.
    - `seeds`: the sampling seeds, of the Gaussian the draws, that the values are means of.
    - `missing`: the metrics that have no value, and why; they were asked for, or are usual in the space.
    - `metrics`: values by metric, and in `intervals` the 95% confidence interval of each that has one: over
        the sampling seeds, or of one by the bootstrap; for real data where 95% of random splits lie.
    - `seconds`: time it took to draw one sample, `scmkit.sampling.drawing.BATCH` at once and without
        compiling; None for samples that no model made.
    - `features`: by the plugin's name, the digest and the facts of each feature space that was used.
    - `larger_is_better`: the metrics whose larger values are better.
    - `guidance`: the guidance strength of the samples; None where none was given.
    """

    name: str
    nfe: float | None
    metrics: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    seconds: float | None = None
    features: Mapping[str, Mapping[str, float | str]] = field(default_factory=dict)
    larger_is_better: frozenset[str] = frozenset()
    n: int | None = None
    missing: Mapping[str, str] = field(default_factory=dict)
    guidance: float | None = None
    steps: int | None = None
    seeds: int = 1


def remarks(rows: Sequence[Row]) -> list[str]:
    """Notes below a table: the metrics that have no value for drawn samples, and rows of another `n`."""
    drawn = [row for row in rows if row.nfe is not None]
    without: dict[tuple[str, str], list[str]] = {}
    for row in drawn:
        for metric, why in row.missing.items():
            without.setdefault((metric, why), []).append(row.name)
    told = []
    for (metric, why), names in without.items():
        where = "" if len(names) == len(drawn) else f" for {', '.join(dict.fromkeys(names))}"
        told.append(f"{metric}: not computed{where}: {why}")
    counts = {row.n for row in drawn}
    fewer = [r.name for r in rows if r.nfe is None and r.n is not None and counts - {r.n}]
    if fewer:
        others = " or ".join(str(n) for n in sorted(n for n in counts if n is not None))
        told.append(
            f"{'; '.join(dict.fromkeys(fewer))}: all there are, where other rows have {others} samples: such "
            "values do not compare; --n makes them equal"
        )
    seeds = max((row.seeds for row in drawn), default=1)
    if seeds > 1:
        told.append(
            f"means over {seeds} sampling seeds, ± half of the 95% interval (Student's t); of "
            f"{REAL}: 1.96 standard deviations of random splits"
        )
    return list(dict.fromkeys(told))
