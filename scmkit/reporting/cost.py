"""The cost of a run and its samples."""

import sys

import jax

from scmkit.runs.run import Run


def training_seconds(run: Run) -> float:
    """How long training took, by the rates in its log; without checkpoints, pictures and what was redone."""
    seconds, before = 0.0, 0
    for line in run.metrics:
        seconds += (line["step"] - before) / line["steps_per_second"]
        before = line["step"]
    return seconds


def peak_memory() -> tuple[int, str] | None:
    """The most bytes held so far, and by what: the device where it counts, else this process."""
    device = jax.local_devices()[0]
    counted = (device.memory_stats() or {}).get("peak_bytes_in_use")
    if counted is not None:
        return int(counted), f"on the {device.device_kind}"
    try:
        import resource
    except ImportError:  # Windows counts none of it.
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit, "of this process"


def duration(seconds: float) -> str:
    """A time as people say it: `37 µs`, `1.5 ms`, `35 s`, `4 min 10 s`, `2 h 5 min`."""
    if 0 < seconds < 0.1:
        return f"{1e6 * seconds:.3g} µs" if seconds < 1e-4 else f"{1e3 * seconds:.3g} ms"
    if seconds < 100:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
