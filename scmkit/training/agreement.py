"""A request to stop that one process got, agreed on by all at the same step."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from scmkit.distribution.layout import Layout
from scmkit.errors import ScmkitError
from scmkit.training.signals import StopRequests


class Agreement:
    """What every process knows of requests to stop, through the steps that all of them take.

    Each step is given what every process wishes, and its metrics hold what the most of them is. Alone, a
    process need not ask.
    """

    def __init__(self, stop: StopRequests, layout: Layout) -> None:
        self._stop, self._layout = stop, layout
        self._alone = layout.part[1] == 1
        self._heard = 0

    @property
    def received(self) -> int | None:
        """The signal after which all processes stop at this step; None without one."""
        return self._stop.received if self._alone else self._heard or None

    def wish(self) -> Int[Array, " devices"] | None:
        """The signal that this process got, 0 for none, once for each device; None where it is alone."""
        if self._alone:
            return None
        own = self._layout.devices // self._layout.part[1]
        return self._layout.samples(jnp.full(own, self._stop.received or 0, jnp.int32))

    def heard(self, stop: Int[np.ndarray, ""] | None) -> None:
        """Take in what the metrics of a step say."""
        if stop is not None:
            self._heard = max(self._heard, int(stop))

    def error(self, message: str) -> ScmkitError:
        """The error that ends training after the signal that all agreed on."""
        if self._stop.received is None:
            self._stop.received = self.received
        return self._stop.error(message)


def most(wishes: Int[Array, " devices"] | None) -> Int[Array, ""] | None:
    """What is agreed on of the wishes of all processes."""
    return None if wishes is None else jnp.max(wishes)
