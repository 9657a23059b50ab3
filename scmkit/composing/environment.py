"""What jax runs on, and what measured figures depend on: device, versions, date."""

import datetime
import os
import platform
from importlib.metadata import version
from typing import Any

import jax
import numpy as np

from scmkit.errors import UsageError

PACKAGES = ("scmkit", "jax", "jaxlib", "equinox", "diffrax", "optax", "numpy")


def environment(command: str) -> dict[str, Any]:
    """Device, versions, date and the command that ran, as JSON values."""
    device = jax.devices()[0]
    return {
        "command": command,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "device": f"{device.platform}: {device.device_kind}, {platform.machine()}",
        "python": platform.python_version(),
        "versions": {name: version(name) for name in PACKAGES},
    }


def require_jax() -> None:
    """Raises `UsageError` where jax is told to compute in float64, or on devices that are not here.

    Else plugins would be blamed for what they then return, or fail at.
    """
    if jax.dtypes.canonicalize_dtype(np.float64) == np.float64:
        raise UsageError("JAX_ENABLE_X64 is on, and scmkit computes in float32: switch it off")
    platforms = os.environ.get("JAX_PLATFORMS")
    if platforms:
        try:
            jax.devices()
        # Without its plugin for the platform, jax fails an assertion that says nothing.
        except (RuntimeError, AssertionError) as error:
            why = str(error).strip().partition("\n")[0]
            raise UsageError(
                f"JAX_PLATFORMS={platforms}: jax can use no such device here{f' ({why})' if why else ''}; "
                "unset it, or name another, such as cpu"
            ) from None
