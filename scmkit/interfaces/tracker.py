"""Trackers: where the curves and pictures of a run go besides `metrics.jsonl`."""

import abc
from collections.abc import Mapping

import numpy as np
from jaxtyping import UInt8


class AbstractTracker(abc.ABC):
    """A sink for a run's metrics."""

    @abc.abstractmethod
    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Record scalars at a step."""

    @abc.abstractmethod
    def image(self, step: int, name: str, pixels: UInt8[np.ndarray, "h w 3"]) -> None:
        """Record a picture at a step."""

    @abc.abstractmethod
    def close(self) -> None:
        """Flush and release what the tracker holds."""
