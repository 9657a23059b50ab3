"""The checks that a plugin must pass."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache, partial
from typing import Any

import jax

from scmkit.plugin import Plugin, Slot
from scmkit.testing import (
    attention,
    coupling,
    dataset,
    declaration,
    distance,
    embedding,
    encoder,
    features,
    importer,
    loss,
    metric,
    network,
    noise,
    norm,
    parameterization,
    proposal,
    sampler,
    tangent,
    tracker,
)
from scmkit.testing.check import Check
from scmkit.testing.family import Family
from scmkit.testing.workbench import Bench

FAMILIES: dict[Slot, Family] = {
    Slot.noise: noise.FAMILY,
    Slot.parameterization: parameterization.FAMILY,
    Slot.proposal: proposal.FAMILY,
    Slot.embedding: embedding.FAMILY,
    Slot.norm: norm.FAMILY,
    Slot.attention: attention.FAMILY,
    Slot.network: network.FAMILY,
    Slot.encoder: encoder.FAMILY,
    Slot.distance: distance.FAMILY,
    Slot.coupling: coupling.FAMILY,
    Slot.tangent: tangent.FAMILY,
    Slot.loss: loss.FAMILY,
    Slot.sampler: sampler.FAMILY,
    Slot.dataset: dataset.FAMILY,
    Slot.metric: metric.FAMILY,
    Slot.tracker: tracker.FAMILY,
    Slot.importer: importer.FAMILY,
    Slot.features: features.FAMILY,
}

CHOOSY = (Slot.parameterization, Slot.network, Slot.encoder, Slot.distance, Slot.coupling)
"""Slots whose parts may be for some processes or some data only."""


def checks(plugin: Plugin, *, config: Mapping[str, Any] | None = None) -> list[Check]:
    """The conformance checks of a plugin: on what it says of itself, and for each slot it fills.

    **Arguments:**

    - `plugin`: the plugin, as its entry point names it.
    - `config`: options to build its parts with, by name; defaults otherwise. Give a network small
        ones, checks compile it several times.

    Parts are built on small vectors and images, with and without classes; the default plugins fill the
    slots that this one leaves. A case that a part of a slot in `CHOOSY` turns down, with a `TypeError`,
    `ValueError` or `DataError` when it is built, is left out, unless it turns down all.
    """
    found = [_check(f"plugin/{f.__name__}", partial(f, plugin)) for f in declaration.CHECKS]
    for slot, family in FAMILIES.items():
        if slot not in plugin.provides:
            continue
        benches = [Bench(plugin, config or {}, case) for case in family.cases]
        if slot is Slot.parameterization and Slot.noise in plugin.provides:
            # The cases differ in the process alone, and it brings its own.
            benches = benches[:1]
        if slot in CHOOSY:
            benches = [b for b in benches if not b.refuses(slot)] or benches
        for bench in benches:
            several = len(family.cases) > 1 and bench.case.name
            where = f"{slot}[{bench.case.name}]" if several else str(slot)
            arranged = cache(partial(family.arrange, bench))
            found += [
                _check(f"{where}/{f.__name__}", lambda f=f, get=arranged: f(get()))
                for f in family.checks
            ]
    return found


def _check(name: str, function: Callable[[], None]) -> Check:
    def run() -> None:
        # An accelerator's default products carry ten bits, too few for finite differences.
        with _compiling_quickly(), jax.default_matmul_precision("highest"):
            function()

    return Check(name, run)


@contextmanager
def _compiling_quickly() -> Iterator[None]:
    """Without most optimizations: everything here is small and runs a few times at most."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    try:
        yield
    finally:
        jax.config.update("jax_disable_most_optimizations", before)
