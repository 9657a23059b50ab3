"""A family of checks, to run on the parts that fill one slot."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from scmkit.testing.workbench import Bench, Case

ANY = (Case(),)
PROCESSES = (
    Case("trigflow"),
    Case("edm", noise="edm"),
    Case("flow-matching", noise="flow-matching"),
)


@dataclass(frozen=True)
class Family:
    """Checks of what `arrange` builds on a bench, in each case that the plugin does not refuse."""

    arrange: Callable[[Bench], Any]
    checks: tuple[Callable[[Any], None], ...]
    cases: tuple[Case, ...] = ANY
