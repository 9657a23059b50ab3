"""Every installed plugin against the checks for the slots it fills."""

import pytest

from scmkit.discovery import entries
from scmkit.registry import load
from scmkit.testing import Check, checks

SMALL = {
    "dit": {"width": 16, "depth": 2, "heads": 2},
    "mlp": {"width": 16, "depth": 2, "embedding_dim": 16},
    "unet": {
        "channels": 8,
        "multipliers": (1, 2),
        "blocks": 1,
        "head_dim": 4,
        "attention_resolutions": (),
        "embedding_dim": 16,
    },
}
"""Options with which a network compiles in a second."""


def _all() -> list[Check]:
    # In sorted order, because xdist's workers must agree on it.
    return [
        pytest.param(check, id=f"{entry.name}/{check.name}")
        for entry in entries()
        if entry.package == "scmkit"
        for check in checks(load(entry), config=SMALL.get(entry.name))
    ]


@pytest.mark.parametrize("check", _all())
def test_conformance(check: Check) -> None:
    check.run()
