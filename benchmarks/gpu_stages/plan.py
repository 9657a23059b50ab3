"""What there is to do on a GPU, in order of worth, with estimates from an H100 with 16 CPU cores.

The estimates are guesses until something has run; they are on the high side, since nothing is begun
that does not fit.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from gpu_stages.costs import METHODS

STARTUP = 12.0
"""Seconds until a stage's process has the card."""


@dataclass(frozen=True)
class Part:
    """What is run, timed, recorded and left out as one: some rows of a stage."""

    name: str
    seconds: float
    """The estimate, most of it for compiling."""
    rows: str
    """`module:function`, which yields rows."""
    given: dict[str, Any] = field(default_factory=dict)
    rehearsed: bool = True
    """Whether the rehearsal has it: one part of each kind does."""
    at_least: float = 0.0
    """Seconds it can make do with, for a part that takes what there is; 0 for one that cannot."""
    patience: float = 20.0
    """Seconds that it may take beyond twice its estimate."""
    after: str | None = None
    """The part of the same stage without whose results it cannot be done."""

    @property
    def needs(self) -> float:
        return self.at_least or self.seconds

    def limit(self, left: float) -> float:
        """Seconds after which it is stopped, of those `left`."""
        return min(left, self.seconds if self.at_least else 2 * self.seconds + self.patience)


@dataclass(frozen=True)
class Stage:
    """A process of its own."""

    letter: str
    title: str
    share: float
    """Of the budget, unless it is the last; what it leaves, later stages have."""
    parts: tuple[Part, ...]
    by_kernels: bool = True
    """Whether what it finds depends on the source of the attention kernels."""

    @property
    def seconds(self) -> float:
        return STARTUP + sum(part.seconds for part in self.parts)


def _timed(n: int, d: int, causal: bool, by: str, seconds: float) -> Part:
    given: dict[str, Any] = {"length": n, "head_dim": d, "causal": causal, "by": by}
    name = f"{n} tokens, head_dim {d}, {'causal' if causal else 'plain'}: {by}"
    first = (n, d, causal) == (4096, 64, False)
    return Part(name, seconds, "gpu_stages.timing:rows", given, rehearsed=first)


def _jax(n: int, d: int, causal: bool) -> Iterator[Part]:
    """Apart, so that a kernel which breaks its process breaks nothing else."""
    yield _timed(n, d, causal, "Mosaic", 22)
    yield _timed(n, d, causal, "Triton, cuDNN, XLA", 28)


def _peers(n: int, d: int, causal: bool) -> Part:
    return _timed(n, d, causal, "PyTorch", 35)


def _timings() -> Iterator[Part]:
    """The head dimension and the mode that most networks have come first, all else by its worth."""
    yield from _jax(4096, 64, False)
    yield from _jax(1024, 64, False)
    yield _peers(4096, 64, False)
    yield from _jax(4096, 128, False)
    yield from _jax(4096, 64, True)
    yield from _jax(1024, 128, False)
    yield from _jax(1024, 64, True)
    for n in (4096, 1024):
        yield from _jax(n, 128, True)
    yield _peers(1024, 64, False)
    for n in (16384, 256):
        for causal in (False, True):
            for d in (64, 128):
                yield from _jax(n, d, causal)
    yield _peers(16384, 64, False)
    for n, d, causal in (
        (4096, 64, True),
        (1024, 64, True),
        (4096, 128, False),
        (1024, 128, False),
    ):
        yield _peers(n, d, causal)


SECONDS = {"dit B/2": 45, "dit S/2": 40, "unet": 80, "edm2 xs": 120, "dit B/2, 1024 tokens": 50}


def _steps() -> Iterator[Part]:
    def part(network: str, precision: str, attention: str, rehearsed: bool = False) -> Part:
        given = {"network": network, "precision": precision, "attention": attention}
        name = f"{network}, {precision}, {attention}"
        return Part(
            name, SECONDS.get(network, 60), "gpu_stages.training_steps:rows", given, rehearsed
        )

    fused, plain = "pallas-attention", "xla-attention"
    yield part("dit B/2", "bfloat16", fused, rehearsed=True)
    yield part("dit B/2", "bfloat16", plain)
    yield part("dit B/2, 1024 tokens", "bfloat16", fused)
    yield part("unet", "bfloat16", fused, rehearsed=True)
    yield part("edm2 xs", "bfloat16", fused, rehearsed=True)
    yield part("dit B/2, 4096 tokens", "bfloat16", fused)
    yield part("dit S/2", "bfloat16", fused)
    for network in ("dit B/2", "edm2 xs", "unet", "dit S/2"):
        yield part(network, "float32", plain, rehearsed=network == "dit S/2")
    yield part("dit B/2, 1024 tokens", "bfloat16", plain)
    for network in ("edm2 xs", "unet", "dit S/2"):
        yield part(network, "bfloat16", plain)
    for network in ("dit B/2", "edm2 xs", "unet", "dit S/2"):
        yield part(network, "float32", fused)
    yield part("dit B/2, 4096 tokens", "bfloat16", plain)


def _kernels() -> Iterator[Part]:
    yield Part("mosaic, small", 30, "gpu_stages.kernels:small", {"backend": "mosaic"})
    yield Part(
        "mosaic, real", 30, "gpu_stages.kernels:real", {"backend": "mosaic"}, rehearsed=False
    )
    yield Part("transformations", 40, "gpu_stages.transformations:rows")
    yield Part("triton, small", 30, "gpu_stages.kernels:small", {"backend": "triton"})
    yield Part("triton, real", 30, "gpu_stages.kernels:real", {"backend": "triton"})


TABLE_STEPS = 3000
"""Of every training of stage g."""

DIFFUSION_STEP = 0.014
"""Seconds of stage g's: half a teraflop in float32."""

MEASURING = 60.0
"""Seconds of compiling, sampling and measuring; metrics are computed on the CPU."""

BASELINES = 40.0
"""Seconds of the classifier's training and of what real data scores, which the first part has besides."""


def _table() -> Iterator[Part]:
    first = next(iter(METHODS))
    for method, cost in METHODS.items():
        seconds = MEASURING + TABLE_STEPS * DIFFUSION_STEP * cost
        yield Part(
            method,
            round(seconds + BASELINES if method == first else seconds),
            "gpu_stages.table:rows",
            {"method": method},
            rehearsed=method in (first, "scd"),
            after=None if method == first else first,
        )


STAGES = (
    Stage(
        "a",
        "the card, versions, and its ceilings",
        0.1,
        (
            # Nothing runs without it, and on a fresh machine all libraries are read for the first time.
            Part("card", 5, "gpu_stages.card:card", patience=100),
            Part("ceilings", 20, "gpu_stages.card:ceilings"),
        ),
    ),
    Stage("b", "every kernel and transformation against float64", 0.36, (*_kernels(),)),
    Stage("c", "attention timed, beside its peers", 0.3, (*_timings(),)),
    Stage("d", "whole sCM steps over diffusion steps", 0.4, (*_steps(),)),
    Stage(
        "e",
        "what the guard against faulty steps costs",
        0.2,
        tuple(
            Part(n, 55, "gpu_stages.guard_cost:rows", {"network": n}, rehearsed=n == "dit")
            for n in ("dit", "unet")
        ),
    ),
    Stage(
        "f",
        "a teacher and its sCD student, trained, with 10,000 samples of each",
        1.0,
        (Part("training", 465, "gpu_stages.train:rows", at_least=170),),
    ),
    Stage(
        "g",
        "table one: every method trained under one budget, and what its samples score",
        1.0,
        (*_table(),),
        by_kernels=False,
    ),
)


def chosen(letters: str | None) -> list[Stage]:
    """The stages of `a,c`, in order; all of them for None. Raises `ValueError` for another letter."""
    known = [stage.letter for stage in STAGES]
    wanted = known if letters is None else letters.replace(",", " ").split()
    for letter in wanted:
        if letter not in known:
            raise ValueError(f"no stage {letter!r}; there are {', '.join(known)}")
    return [stage for stage in STAGES if stage.letter in wanted]


def schedule(stages: list[Stage], budget: float) -> list[tuple[Stage, list[Part], float]]:
    """What is begun in so many seconds if every estimate is right: parts, and when the stage ends."""
    now, found = 0.0, []
    for i, stage in enumerate(stages):
        end = stage_end(stage, now, budget, last=i == len(stages) - 1)
        at, begun = now + STARTUP, []
        for part in stage.parts:
            possible = part.after is None or part.after in [other.name for other in begun]
            if possible and at + part.needs <= end:
                begun.append(part)
                at += min(part.seconds, end - at)
        now = at if begun else now
        found.append((stage, begun, now))
    return found


def stage_end(stage: Stage, now: float, budget: float, *, last: bool) -> float:
    """When a stage that starts now has to leave the rest of a budget to the later ones."""
    return budget if last else min(budget, now + stage.share * budget)
