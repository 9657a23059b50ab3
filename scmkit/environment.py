"""What measured figures depend on: device, versions, date."""

import datetime
import platform
from importlib.metadata import version
from typing import Any

import jax

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
