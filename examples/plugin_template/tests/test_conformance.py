"""The checks that every plugin of scmkit has to pass, on what this package's entry points name."""

from importlib.metadata import distribution

import pytest

from scmkit.testing import Check, checks

PACKAGE = "scmkit-cosine"
ENTRIES = distribution(PACKAGE).entry_points.select(group="scmkit.plugins")
CHECKS = [(entry.name, check) for entry in ENTRIES for check in checks(entry.load())]


def test_entry_points_are_named_after_their_plugins() -> None:
    assert ENTRIES
    assert all(entry.load().name == entry.name for entry in ENTRIES)


@pytest.mark.parametrize("check", [c for _, c in CHECKS], ids=[f"{n}/{c.name}" for n, c in CHECKS])
def test_conformance(check: Check) -> None:
    check.run()
