"""TensorBoard as a tracker."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from scmkit.interfaces import AbstractTracker
from scmkit.plugin import NoOptions, Plugin, Slot


class TensorBoard(AbstractTracker):
    """Writes event files to `tensorboard/` in the run's directory."""

    def __init__(self, directory: Path) -> None:
        from tensorboardX import SummaryWriter

        self._writer = SummaryWriter(str(directory / "tensorboard"))

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)

    def image(self, step: int, name: str, pixels: UInt8[np.ndarray, "h w 3"]) -> None:
        self._writer.add_image(name, pixels, step, dataformats="HWC")

    def close(self) -> None:
        self._writer.close()


def build(config: NoOptions, directory: Path) -> TensorBoard:
    return TensorBoard(directory)


plugin = Plugin(
    name="tensorboard",
    summary="curves and pictures for TensorBoard",
    provides={Slot.tracker: build},
    requires={"tensorboardX": "pip install 'scmkit[tensorboard]'"},
)
