"""Compile for an H100 on a machine without a GPU, and read what ptxas says of each kernel.

Import this before jax. It needs jax's CUDA plugin and ptxas, but no driver, cuDNN or cuBLAS:

    JAX=$(python -c 'import jax; print(jax.__version__)')
    pip install --no-deps "jax-cuda13-plugin==$JAX" "jax-cuda13-pjrt==$JAX" \\
        nvidia-cuda-nvcc nvidia-nvvm nvidia-cuda-crt
"""

import os

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_SKIP_CUDA_CONSTRAINTS_CHECK"] = "1"
# XLA runs `ptxas -v` and logs its output only when its own log is this verbose.
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "0"
os.environ["TF_CPP_VMODULE"] = "subprocess_compilation=2"
os.environ["MOSAIC_GPU_DUMP_PTXAS"] = "1"
os.environ["MOSAIC_GPU_DUMP_RESOURCES"] = "1"

import importlib.util
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from typing import Any

import jax
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

H100 = """
gpu_device_info {
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: 233472
  shared_memory_per_block_optin: 232448
  threads_per_core_limit: 2048
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  core_count: 132
  fpus_per_core: 128
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: 3352320000000
  l2_cache_size: 52428800
  clock_rate_ghz: 1.98
  device_memory_size: 84942979072
  cuda_compute_capability { major: 9 }
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 10 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""
"""XLA's description of the target, a GpuTargetConfigProto."""

INSTALL = (
    'pip install --no-deps "jax-cuda13-plugin=={0}" "jax-cuda13-pjrt=={0}" '
    "nvidia-cuda-nvcc nvidia-nvvm nvidia-cuda-crt"
)


# XLA finds the wheel's ptxas by itself, Mosaic takes the first on the path.
_nvidia = importlib.util.find_spec("nvidia")
_folders = [] if _nvidia is None else _nvidia.submodule_search_locations or []
os.environ["PATH"] = os.pathsep.join(
    [*(f"{folder}/cu13/bin" for folder in _folders), os.environ.get("PATH", "")]
)


@dataclass(frozen=True)
class Kernel:
    """What a compiled kernel uses. None where the compiler did not say."""

    registers: int
    """Per thread, at launch."""
    spill_bytes: int
    """Bytes per thread that are stored to and loaded from memory for want of registers."""
    stack_bytes: int
    static_shared: int
    dynamic_shared: int | None


@dataclass(frozen=True)
class Compiled:
    """A program compiled for H100s."""

    text: str
    """The optimized HLO."""
    temp_bytes: int
    kernels: dict[str, Kernel]
    """By their names in the machine code; XLA's own fusions among them."""

    def calls(self) -> dict[str, int]:
        """How often each Pallas kernel is called, by the name that its caller gave it."""
        calls = re.findall(
            r'custom_call_target="(?:__gpu\$xla\.gpu\.triton|mosaic_gpu\w*)".*?op_name="([^"]*)"',
            self.text,
        )
        return dict(Counter(name.split("/")[-2] for name in calls))

    def gathers(self) -> int:
        """Number of all-gathers: copies of whole arrays on every device."""
        return len(re.findall(r" all-gather(?:-start)?\(", self.text))


def mesh(devices: int = 1) -> Mesh:
    """So many H100s of one machine; raises `SystemExit` with what to install."""
    try:
        ptxas()
        with _captured():
            topology = topologies.get_topology_desc(
                "", "cuda", target_config=H100, topology=f"1x1x{devices}"
            )
    except Exception:
        raise SystemExit(
            f"this needs the CUDA compiler: {INSTALL.format(jax.__version__)}"
        ) from None
    return Mesh(np.array(topology.devices[:devices]), ("batch",))


def ptxas() -> str:
    """The version of the assembler, on which registers and spills depend."""
    done = subprocess.run(["ptxas", "--version"], capture_output=True, text=True, check=True)
    found = re.search(r"V([\d.]+)", done.stdout)
    return found[1] if found else done.stdout


def compiled(f: Callable[..., Any], *args: Any, mesh: Mesh) -> Compiled:
    """Compile `f` for `jax.ShapeDtypeStruct`s whose first dimension is shared out over `mesh`."""
    sharding = NamedSharding(mesh, PartitionSpec("batch"))
    args = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding), args)
    with TemporaryDirectory() as folder:
        with _captured() as output, jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            lowered = jax.jit(f).trace(*args).lower(lowering_platforms=("cuda",))
            program = lowered.compile(compiler_options={"xla_dump_to": folder})
        thunks = "".join(p.read_text() for p in Path(folder).glob("*thunk_sequence.txt"))
    memory = program.memory_analysis()
    assert memory is not None
    kernels = _kernels("".join(output), thunks)
    return Compiled(program.as_text() or "", memory.temp_size_in_bytes, kernels)


def _kernels(output: str, thunks: str) -> dict[str, Kernel]:
    found = {}
    # Without a file to write to, Mosaic prints the resources of each kernel it lowers, in order.
    scratch = [_mosaic_shared(line) for line in re.findall(r"Resources\((.*)\)", output)]
    pattern = (
        r"entry function '(\w+)'.*?(\d+) bytes stack frame, (\d+) bytes spill stores, "
        r"(\d+) bytes spill loads.*?Used (\d+) registers([^\n]*)"
    )
    for name, stack, stores, loads, registers, rest in re.findall(pattern, output, re.DOTALL):
        static = re.search(r"(\d+) bytes smem", rest)
        launch = re.search(rf" {name} grid: .*shared_memory: (\d+) bytes", thunks)
        dynamic = int(launch[1]) if launch else None
        if name.endswith("mosaic_gpu_kernel") and len(scratch) == 1:
            dynamic = scratch[0]
        found[name] = Kernel(
            registers=int(registers),
            spill_bytes=int(stores) + int(loads),
            stack_bytes=int(stack),
            static_shared=int(static[1]) if static else 0,
            dynamic_shared=dynamic,
        )
    return found


def _mosaic_shared(resources: str) -> int:
    """Shared memory of a Mosaic kernel: its arrays, and eight bytes for each barrier."""
    size = re.search(r"smem_scratch_bytes=(\d+)", resources)
    barriers = re.findall(r"num_barriers=(\d+)[^)]*\): (\d+)", resources)
    return (int(size[1]) if size else 0) + 8 * sum(int(n) * int(m) for n, m in barriers)


@contextmanager
def _captured() -> Iterator[list[str]]:
    """What anyone, compilers included, writes to stdout and stderr, once the block is done."""
    output: list[str] = []
    sys.stdout.flush()
    sys.stderr.flush()
    with TemporaryFile() as file:
        kept = [os.dup(1), os.dup(2)]
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        try:
            yield output
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for descriptor, copy in zip((1, 2), kept, strict=True):
                os.dup2(copy, descriptor)
                os.close(copy)
            file.seek(0)
            output.append(file.read().decode(errors="replace"))
