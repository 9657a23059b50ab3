"""Option sets that several plugins share."""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Gt


@dataclass(frozen=True)
class NoiseOptions:
    """Options of a noise process."""

    ratio_max: Annotated[float, Gt(0)] = 80.0
    """Noise-to-signal ratio at which sampling starts."""
