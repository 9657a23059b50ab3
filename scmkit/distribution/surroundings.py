"""What the environment of a process says of the others it was started with. Nothing here loads JAX."""

import os
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

from scmkit.errors import UsageError, brief

COUNT, INDEX, ADDRESS = "SCMKIT_PROCESSES", "SCMKIT_PROCESS", "JAX_COORDINATOR_ADDRESS"
"""The variables with which anybody can start processes that train together; the first wins over all else."""

_JOBSET_PORT = 55527  # The one that JAX takes in Kubernetes.
_DYNAMIC_PORTS = 2**16 - 2**12  # Where JAX places the port that follows from a job's number.


@dataclass(frozen=True)
class Place:
    """The place of a process among those it was started with.

    **Attributes:**

    - `index`, `count`: the number of this process from 0 on, and how many there are.
    - `address`: the host and port of the coordinator, which is in process 0.
    - `device`: the number of the GPU that is this process's own; None for all that it sees.
    """

    index: int
    count: int
    address: str
    device: int | None = None

    @property
    def coordinator(self) -> tuple[str, int]:
        """The host and the port of the address."""
        host, _, port = self.address.rpartition(":")
        return host.strip("[]"), int(port)


def place(environment: Mapping[str, str] = os.environ) -> Place | None:
    """The place of this process among those it was started with; None where it is alone.

    Raises `UsageError` where the environment tells of others and not where they meet.
    """
    for look in (_named, _open_mpi, _slurm):
        found = look(environment)
        if found is not None:
            return _checked(found) if found.count > 1 else None
    return None


def _named(env: Mapping[str, str]) -> Place | None:
    """By our own variables; in a JobSet the index and the address follow from those of Kubernetes."""
    if COUNT not in env:
        return None
    count = _number(env, COUNT)
    if count == 1:
        return Place(0, 1, "")
    address = env.get(ADDRESS)
    if address is None and "JOBSET_NAME" in env:
        jobset, job = env["JOBSET_NAME"], env.get("REPLICATED_JOB_NAME", "workers")
        address = f"{jobset}-{job}-0-0.{jobset}:{env.get('JAX_COORDINATOR_PORT', _JOBSET_PORT)}"
    if address is None:
        raise UsageError(f"{COUNT}={count} without {ADDRESS}: set it to HOST:PORT of process 0")
    name = INDEX if INDEX in env or "JOB_COMPLETION_INDEX" not in env else "JOB_COMPLETION_INDEX"
    return Place(_number(env, name), count, address)


def _slurm(env: Mapping[str, str]) -> Place | None:
    """By the variables of a step that `srun` started; a batch script outside of one has no list of nodes."""
    count = env.get("SLURM_STEP_NUM_TASKS", env.get("SLURM_NTASKS"))
    nodes = re.match(r"([^,\[]+)(?:\[([^,\-\]]+))?", env.get("SLURM_STEP_NODELIST", ""))
    if count in (None, "1") or nodes is None or "SLURM_PROCID" not in env:
        return None
    address = f"{''.join(nodes.groups(''))}:{_port(env, _number(env, 'SLURM_JOB_ID'))}"
    alone = env.get("SLURM_STEP_NUM_NODES") == count
    index = _number(env, "SLURM_PROCID")
    return Place(index, int(count), env.get(ADDRESS, address), _device(env, "SLURM_LOCALID", alone))


def _open_mpi(env: Mapping[str, str]) -> Place | None:
    """By the variables of `mpirun`; since Open MPI 5 they tell no address."""
    if "OMPI_COMM_WORLD_SIZE" not in env:
        return None
    count = _number(env, "OMPI_COMM_WORLD_SIZE")
    if count == 1:
        return Place(0, 1, "")
    address, uri = env.get(ADDRESS), env.get("OMPI_MCA_orte_hnp_uri", "")
    launcher = re.match(r"(\d+)\..*?(?:tcp://([^,:]+)|tcp6://\[([^,\]]+))", uri)
    here = env.get("OMPI_COMM_WORLD_LOCAL_SIZE") == str(count)
    if address is None and launcher is not None:
        address = f"{launcher[2] or launcher[3]}:{_port(env, int(launcher[1]) // 2**12)}"
    elif address is None and here:
        job = zlib.crc32(env.get("PMIX_NAMESPACE", "").encode())
        address = f"127.0.0.1:{_port(env, job)}"
    elif address is None:
        raise UsageError(
            f"this Open MPI does not tell where its processes meet; add `-x {ADDRESS}=HOST:PORT` to mpirun, "
            "with the host of process 0"
        )
    alone = env.get("OMPI_COMM_WORLD_LOCAL_SIZE") == "1"
    index = _number(env, "OMPI_COMM_WORLD_RANK")
    return Place(index, count, address, _device(env, "OMPI_COMM_WORLD_LOCAL_RANK", alone))


def _port(env: Mapping[str, str], job: int) -> int:
    """The port that JAX takes for a job of such a number."""
    if "JAX_COORDINATOR_PORT" in env:
        return _number(env, "JAX_COORDINATOR_PORT")
    return _DYNAMIC_PORTS + job % 2**12


def _device(env: Mapping[str, str], name: str, alone: bool) -> int | None:
    """One GPU for each process of a host, unless it is alone there or was given one already."""
    given = [one for one in env.get("CUDA_VISIBLE_DEVICES", "").split(",") if one]
    return None if alone or len(given) == 1 or name not in env else _number(env, name)


def _number(env: Mapping[str, str], name: str) -> int:
    text = env.get(name, "")
    if not text.isdecimal() or (name == COUNT and not int(text)):
        told = f"is {brief(text)}, which is no number of processes" if text else "is not set"
        raise UsageError(f"the environment variable {name} {told}")
    return int(text)


def _checked(found: Place) -> Place:
    host, _, port = found.address.rpartition(":")
    if not host or not port.isdecimal():
        raise UsageError(f"{ADDRESS}={brief(found.address)}: write it as HOST:PORT")
    if found.index >= found.count:
        raise UsageError(
            f"process {found.index} of {found.count}: they are counted from 0, in {INDEX}"
        )
    return found
