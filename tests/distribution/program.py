"""A program of several processes, which does one thing as `scmkit train` would: `program.py THING DIR`."""

import os
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from scmkit_cli.main import _explained
from scmkit_cli.streams import prepared, stoppable
from scmkit_cli.together import together

from scmkit.distribution import pulse
from scmkit.distribution.processes import count, index, meet
from scmkit.errors import Preempted, RunError, UsageError


def reduce_for_ever() -> None:
    """Sums over all processes, one after another, so that each waits for the others within XLA."""
    mesh = Mesh(np.array(jax.devices()), ("data",))
    place = NamedSharding(mesh, PartitionSpec("data"))
    ones = jax.make_array_from_callback((len(mesh.devices),), place, lambda at: np.ones(1))
    total = jax.jit(jnp.sum, out_shardings=NamedSharding(mesh, PartitionSpec()))
    for step in range(10**6):
        pulse.at(step)
        assert float(total(ones)) == len(mesh.devices)
        if step == 3:
            tell_that_ready()
        time.sleep(0.05)


def tell_that_ready() -> None:
    """Write this process's number into the directory, where the test looks for it."""
    file = Path(sys.argv[2]) / f"{index()}.pid"
    file.with_suffix(".new").write_text(str(os.getpid()))
    file.with_suffix(".new").rename(file)


def wait_for_ever() -> None:
    tell_that_ready()
    meet("that nobody else comes to" if index() else "that the others do not come to")


def be_stuck() -> None:
    pulse.resumable(Path("runs/x"))
    tell_that_ready()
    for step in range(10**6 if index() != 1 else 3):
        pulse.at(min(step, 4))  # The others wait at the next step.
        time.sleep(0.1)
    time.sleep(1000)


def be_apart() -> None:
    """Process 1 falls behind for longer than it may, but with a reason."""
    for step in range(3):
        pulse.at(step + (index() == 0))
    if index() == 1:
        with pulse.apart():
            time.sleep(4)
    pulse.at(5)


def fail_alone() -> None:
    if index() == 1:
        raise UsageError("no such option: --plugn")
    wait_for_ever()


def fail_together() -> None:
    raise UsageError("no such option: --plugn")


def fail_differently() -> None:
    raise UsageError(f"this host lacks the file {index()}")


def have_a_bug() -> None:
    if index() == 0:
        raise ZeroDivisionError("division by zero")
    wait_for_ever()


def fail_at_a_meeting() -> None:
    meet("the disk", RunError("the disk is full") if index() == 1 else None)


def stop_together() -> None:
    raise Preempted("preempted at step 7")


def end_well() -> None:
    sys.stdout.write(f"result of {index()} of {count()}\n")
    sys.stderr.write("progress\n")
    time.sleep(index())


def be_told() -> None:
    """Ends by a signal."""
    tell_that_ready()
    time.sleep(1000)


if __name__ == "__main__":
    with together(["train"], False, _explained), prepared(), stoppable():
        globals()[sys.argv[1]]()
        sys.exit(0)
