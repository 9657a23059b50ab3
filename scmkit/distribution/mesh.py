"""The mesh: all devices of all processes, between which samples and weights are divided."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh

from scmkit.errors import UsageError

DATA, FSDP = "data", "fsdp"
"""The axes of a mesh. Samples are divided along both, weights and what goes with them along the second."""

GATHER = "gather"


def parse_mesh(text: str | None, devices: int) -> tuple[int, int]:
    """The sides `(data, fsdp)` of `data=8,fsdp=8` on so many devices; all of them are for data by default.

    An axis that is not named takes the devices that are left, or 1 where the other is named and leaves none.
    Raises `UsageError`.
    """
    sides, gathered_as = _parts(text)
    fsdp = sides.get(FSDP, 1)
    if gathered_as is not None and fsdp == 1:
        raise UsageError(
            f"--mesh {text}: with {FSDP}=1 weights are whole on every device, and none is gathered; leave "
            f"{GATHER} out, or divide them by {FSDP}=M"
        )
    if DATA not in sides and devices % fsdp:
        raise UsageError(
            f"--mesh {text}: {fsdp} does not divide {devices} devices; what does: "
            f"{', '.join(map(str, _divisors(devices)))}"
        )
    data = sides.get(DATA, max(1, devices // fsdp))
    if data * fsdp != devices:
        fits = ", ".join(f"{DATA}={devices // m},{FSDP}={m}" for m in _divisors(devices))
        raise UsageError(
            f"--mesh {text}: that is {data * fsdp} devices, and there are {devices}; meshes of all of them: "
            f"{fits}"
        )
    return data, fsdp


def gather_dtype(text: str | None) -> Any:
    """The dtype in which weights are gathered, as `gather=bfloat16` says behind a mesh's sides.

    None, for their own, by default. Raises `UsageError`.
    """
    return _parts(text)[1]


def _parts(text: str | None) -> tuple[dict[str, int], Any]:
    sides: dict[str, int] = {}
    dtype = None
    for part in filter(None, (text or "").split(",")):
        name, _, value = (word.strip() for word in part.partition("="))
        if name == GATHER and dtype is None and value == "bfloat16":
            dtype = jnp.bfloat16
        elif name in (DATA, FSDP) and name not in sides and value.isdecimal() and int(value):
            sides[name] = int(value)
        else:
            raise UsageError(
                f"--mesh {text}: write it as {DATA}=N,{FSDP}=M with the devices along each axis, and "
                f"{GATHER}=bfloat16 behind them to gather weights in half the bytes"
            )
    return sides, dtype


def mesh_of(text: str | None, devices: Any = None) -> Mesh:
    """The mesh that a text such as `data=8,fsdp=8` describes, of all devices or of those given.

    Raises `UsageError` where it does not fit the devices.
    """
    if devices is None:
        devices = sorted(jax.devices(), key=lambda d: (d.process_index, d.id))
    sides = parse_mesh(text, len(devices))
    return Mesh(np.array(devices).reshape(sides), (DATA, FSDP), axis_types=(AxisType.Auto,) * 2)


def check_batch(batch_size: int, accumulate: int, devices: int) -> None:
    """Raises `UsageError` where a batch, or the micro-batches of one, cannot be divided among the devices."""
    unit = devices * accumulate
    if batch_size % unit == 0:
        return
    below = batch_size // unit * unit
    near = " and ".join(str(n) for n in (below, below + unit) if n)
    micro = f" and train.accumulate={accumulate}" if accumulate > 1 else ""
    raise UsageError(
        f"train.batch_size={batch_size}{micro} does not divide among {devices} devices; the nearest sizes "
        f"that do: {near}"
    )


def _divisors(n: int) -> list[int]:
    return [m for m in range(1, n + 1) if n % m == 0]
