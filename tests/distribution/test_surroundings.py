"""What SLURM, Open MPI, a JobSet and our own variables say: who joins whom, where, and who is alone."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from jax._src.clusters import OmpiCluster, SlurmCluster
from job import Job

from scmkit.distribution.launch import free_port
from scmkit.distribution.surroundings import Place, place
from scmkit.errors import UsageError

CLUSTER = Path(__file__).parents[2] / "examples" / "cluster"


def slurm(index: int, count: int, nodes: str = "localhost", **more: str) -> dict[str, str]:
    """What `srun` sets."""
    return {
        "SLURM_JOB_ID": str(os.getpid()),
        "SLURM_STEP_NODELIST": nodes,
        "SLURM_STEP_NUM_NODES": "1",
        "SLURM_STEP_NUM_TASKS": str(count),
        "SLURM_NTASKS": str(count),
        "SLURM_PROCID": str(index),
        "SLURM_LOCALID": str(index),
        **more,
    }


def open_mpi(index: int, count: int, here: int, **more: str) -> dict[str, str]:
    """What `mpirun` sets."""
    return {
        "OMPI_COMM_WORLD_SIZE": str(count),
        "OMPI_COMM_WORLD_RANK": str(index),
        "OMPI_COMM_WORLD_LOCAL_RANK": str(index % here),
        "OMPI_COMM_WORLD_LOCAL_SIZE": str(here),
        **more,
    }


@pytest.mark.parametrize(
    "nodes", ["node001", "node001,host2", "node[001-0015],host2", "node[001,007-015],host2"]
)
def test_slurm_is_read_as_jax_reads_it(nodes: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given = slurm(3, 8, nodes)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    address = SlurmCluster.get_coordinator_address(None, None)
    assert place(given) == Place(3, 8, address, device=3)
    assert SlurmCluster.is_env_present()


@pytest.mark.parametrize(
    "uri",
    [
        "1531576320.0;tcp://10.96.0.1,10.148.0.1,10.108.0.1:34911",
        "1314521088.0;tcp6://[fe80::b9b:ac5d:9cf0:b858,2620:10d:c083:150e::3000:2]:43370",
    ],
)
def test_open_mpi_4_is_read_as_jax_reads_it(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMPI_MCA_orte_hnp_uri", uri)
    address = OmpiCluster.get_coordinator_address(None, None)
    found = place(open_mpi(5, 16, 8, OMPI_MCA_orte_hnp_uri=uri))
    assert found == Place(5, 16, address, device=5)


def test_open_mpi_5_meets_on_its_host_or_where_it_is_told() -> None:
    addresses = {place(open_mpi(i, 2, 2, PMIX_NAMESPACE="prterun-1")).address for i in range(2)}  # pyright: ignore
    assert len(addresses) == 1
    assert addresses.pop().startswith("127.0.0.1:6")
    with pytest.raises(UsageError, match="-x JAX_COORDINATOR_ADDRESS=HOST:PORT"):
        place(open_mpi(0, 16, 8))
    told = place(open_mpi(9, 16, 8, JAX_COORDINATOR_ADDRESS="node0:55527"))
    assert told == Place(9, 16, "node0:55527", device=1)


def test_a_jobset_meets_at_its_first_pod() -> None:
    kubernetes = {"JOBSET_NAME": "digits", "REPLICATED_JOB_NAME": "workers"}
    found = place({"SCMKIT_PROCESSES": "4", "JOB_COMPLETION_INDEX": "2", **kubernetes})
    assert found == Place(2, 4, "digits-workers-0-0.digits:55527")
    # A job of many trainings that are independent has an index, too.
    assert place({"JOB_COMPLETION_INDEX": "2", **kubernetes}) is None


@pytest.mark.parametrize(
    "environment",
    [
        {},
        slurm(0, 1),
        # A batch script outside of `srun`, and the shell of `salloc`.
        {k: v for k, v in slurm(0, 4).items() if "STEP" not in k},
        slurm(0, 4, SLURM_STEP_NUM_TASKS="1"),
        open_mpi(0, 1, 1),
        slurm(2, 4, SCMKIT_PROCESSES="1"),
    ],
)
def test_alone(environment: dict[str, str]) -> None:
    assert place(environment) is None


def test_gpus() -> None:
    def device(**more: str) -> int | None:
        found = place(slurm(3, 4, **more))
        assert found is not None
        return found.device

    assert device() == 3
    assert device(CUDA_VISIBLE_DEVICES="0,1,2,3") == 3
    # It is the only one of its host, or SLURM chose its GPU.
    assert device(SLURM_STEP_NUM_NODES="4", SLURM_LOCALID="0") is None
    assert device(CUDA_VISIBLE_DEVICES="0") is None


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"SCMKIT_PROCESSES": "two"}, "SCMKIT_PROCESSES is 'two'"),
        ({"SCMKIT_PROCESSES": "0"}, "SCMKIT_PROCESSES is '0'"),
        ({"SCMKIT_PROCESS": "2"}, "process 2 of 2"),
        ({"SCMKIT_PROCESS": ""}, "SCMKIT_PROCESS is not set"),
        ({"JAX_COORDINATOR_ADDRESS": "node0"}, "write it as HOST:PORT"),
    ],
)
def test_what_does_not_fit(more: dict[str, str], says: str) -> None:
    given = {
        "SCMKIT_PROCESSES": "2",
        "SCMKIT_PROCESS": "1",
        "JAX_COORDINATOR_ADDRESS": "node0:55527",
    }
    with pytest.raises(UsageError, match=says):
        place(given | more)


def joined(
    directory: Path, environments: list[dict[str, str]], prefix: tuple[str, ...] = ()
) -> str:
    ended = Job("end_well", directory, environments=environments, prefixes=[prefix] * 2).end()
    assert [code for code, _, _ in ended] == [0, 0], ended
    return ended[0][1]


def test_two_of_slurm_join(tmp_path: Path) -> None:
    assert joined(tmp_path, [slurm(i, 2) for i in range(2)]) == "result of 0 of 2\n"


@pytest.mark.slow
def test_two_of_open_mpi_join(tmp_path: Path) -> None:
    given = [open_mpi(i, 2, 2, PMIX_NAMESPACE=f"prterun-{os.getpid()}") for i in range(2)]
    assert joined(tmp_path, given) == "result of 0 of 2\n"


@pytest.mark.slow
def test_two_of_the_example_jobset_join(tmp_path: Path) -> None:
    text = (CLUSTER / "jobset.yaml").read_text()
    annotations = {"jobset-name": "digits", "replicatedjob-name": "workers"}
    given = dict(re.findall(r'- name: ([A-Z_]+)\n +value: "(.*)"', text))
    for name, path in re.findall(r"- name: ([A-Z_]+)\n.*\n.*\n +fieldPath: (.*)", text):
        given[name] = annotations[path.rpartition("/")[2].rstrip("']")]
    assert given["SCMKIT_PROCESSES"] == re.search(r"parallelism: (\d+)", text)[1]  # pyright: ignore
    given |= {"SCMKIT_PROCESSES": "2", "JAX_COORDINATOR_PORT": str(free_port())}
    hosts = tmp_path / "hosts"
    hosts.write_text("127.0.0.1 localhost digits-workers-0-0.digits\n")
    mounted = f"mount --bind {hosts} /etc/hosts && exec "
    own = ("unshare", "--mount", "sh", "-c", f'{mounted} "$@"', "sh")
    if shutil.which("unshare") is None or subprocess.run([*own, "true"], check=False).returncode:
        pytest.skip("no names of hosts of one's own here")
    given_to = [{**given, "JOB_COMPLETION_INDEX": str(i)} for i in range(2)]
    assert joined(tmp_path / "job", given_to, own) == "result of 0 of 2\n"


def test_the_scripts_are_shell() -> None:
    for script, shell in (("train.slurm", "bash"), ("mpirun.sh", "sh")):
        subprocess.run([shell, "-n", CLUSTER / script], check=True)
    assert os.access(CLUSTER / "mpirun.sh", os.X_OK)
