"""Checks of importers: that they refuse other networks without a traceback."""

import numpy as np

from scmkit.interfaces import AbstractImporter
from scmkit.plugin import Slot
from scmkit.testing.check import require
from scmkit.testing.family import Family

FOREIGN = {
    "an empty file": {},
    "another network": {"layer.0.weight": np.zeros((3, 3), np.float32)},
    "numbers without an axis": {"step": np.zeros((), np.int64)},
}


def what_is_another_network_is_refused(importer: AbstractImporter) -> None:
    for what, arrays in FOREIGN.items():
        try:
            importer.read(arrays, {})
        except ValueError as error:
            require(len(str(error).split()) > 3, f"the error for {what} must say what it is")
            continue
        raise AssertionError(f"{what} must be refused with a ValueError")


FAMILY = Family(
    lambda bench: bench.build_free(Slot.importer), (what_is_another_network_is_refused,)
)
