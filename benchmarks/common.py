"""What every benchmark writes beside its figures."""

import datetime
import json
import platform
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax

PACKAGES = ("scmkit", "jax", "jaxlib", "equinox", "diffrax", "optax", "numpy")


def environment() -> dict[str, Any]:
    """Device, versions, date and the command that ran."""
    device = jax.devices()[0]
    return {
        "command": " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]]),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "device": f"{device.platform}: {device.device_kind}, {platform.machine()}",
        "python": platform.python_version(),
        "versions": {name: version(name) for name in PACKAGES},
    }


def write(out: Path | None, results: Any) -> None:
    """Write `results` with the environment as JSON, if a file was asked for."""
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(
            json.dumps({"environment": environment(), "results": results}, indent=2) + "\n"
        )
        print(f"wrote {out}")
