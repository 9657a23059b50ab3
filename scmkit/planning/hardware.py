"""The machines that a plan may be for, as their makers describe them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scmkit.errors import UsageError, did_you_mean


@dataclass(frozen=True)
class Target:
    """A kind of device, and how many of them are joined.

    **Attributes:**

    - `name`: what it is called.
    - `products`: FLOPs a second of dense matrix products, by the dtype of the training. Products of float32
        are those of JAX's default precision: TF32 on GPUs, bfloat16 on TPUs.
    - `memory`: bytes of a device.
    - `bandwidth`: bytes a second between a device and its memory.
    - `node`: how many devices are joined most closely.
    - `near`: bytes a second that a device sends to others of its node, and as many it receives meanwhile.
    - `far`: the same to devices of other nodes, on the network.
    """

    name: str
    products: Mapping[str, float]
    memory: float
    bandwidth: float
    node: int
    near: float
    far: float

    def between(self, group: Sequence[int]) -> float:
        """Bytes a second along a ring of devices, given by their numbers, consecutive within a node.

        Between nodes there are as many rings as a node has devices of the group, each with its own way out.
        """
        nodes = {device // self.node for device in group}
        if len(nodes) == 1:
            return self.near
        return min(self.near, self.far * len(group) / len(nodes))


GB, TB, TFLOPS = 1e9, 1e12, 1e12

TARGETS = {
    target.name: target
    for target in (
        # NVIDIA A100 80GB SXM data sheet (dense); NVLink 3: 600 GB/s both ways together. DGX A100 data
        # sheet: 8 of them, each with 200 Gb/s of InfiniBand.
        Target(
            name="a100-80gb",
            products={"bfloat16": 312 * TFLOPS, "float32": 156 * TFLOPS},
            memory=80 * GB,
            bandwidth=2.039 * TB,
            node=8,
            near=300 * GB,
            far=25 * GB,
        ),
        # NVIDIA H100 SXM data sheet (half of the figures with sparsity); NVLink 4: 900 GB/s both ways
        # together. DGX H100 data sheet: 8 of them, each with 400 Gb/s of InfiniBand.
        Target(
            name="h100",
            products={"bfloat16": 989.4 * TFLOPS, "float32": 494.7 * TFLOPS},
            memory=80 * GB,
            bandwidth=3.35 * TB,
            node=8,
            near=450 * GB,
            far=50 * GB,
        ),
        # NVIDIA H200 SXM data sheet: an H100 with other memory. DGX H200 data sheet for the network.
        Target(
            name="h200",
            products={"bfloat16": 989.4 * TFLOPS, "float32": 494.7 * TFLOPS},
            memory=141 * GB,
            bandwidth=4.8 * TB,
            node=8,
            near=450 * GB,
            far=50 * GB,
        ),
        # NVIDIA HGX B200 data sheet, an eighth of the board's figures (dense); NVLink 5: 1.8 TB/s both
        # ways together. DGX B200 data sheet: 400 Gb/s for each.
        Target(
            name="b200",
            products={"bfloat16": 2250 * TFLOPS, "float32": 1125 * TFLOPS},
            memory=180 * GB,
            bandwidth=7.7 * TB,
            node=8,
            near=900 * GB,
            far=50 * GB,
        ),
        # Google Cloud's page "TPU v5p": 95 GiB; 1200 GB/s both ways together within a pod of 8960 chips,
        # 50 Gb/s between pods.
        Target(
            name="tpu-v5p",
            products={"bfloat16": 459 * TFLOPS, "float32": 459 * TFLOPS},
            memory=95 * 2**30,
            bandwidth=2.765 * TB,
            node=8960,
            near=600 * GB,
            far=6.25 * GB,
        ),
    )
}
"""The targets by name."""


def target_of(name: str) -> Target:
    """The target of a name; raises `UsageError` where there is none."""
    if name not in TARGETS:
        raise UsageError(
            f"--target {name}: there is no such device{did_you_mean(name, TARGETS)} "
            f"(devices: {', '.join(TARGETS)})"
        )
    return TARGETS[name]
