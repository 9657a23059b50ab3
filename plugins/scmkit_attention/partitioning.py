"""Kernels under `jit` with sharded arrays: each device runs its own samples and heads.

XLA cannot look into a kernel and would gather its operands on every device. `custom_partitioning`
says that samples are independent, and key heads with the query heads that read them.
"""

from collections.abc import Callable, Sequence
from typing import Any

from jax._src import dispatch  # of which JAX makes nothing public
from jax.experimental.custom_partitioning import custom_partitioning
from jax.extend.core import Primitive
from jax.sharding import NamedSharding, PartitionSpec

INDEPENDENT = {"b": 0, "h": 2, "g": 2}
"""What is shared out, and which dimension of `q` says how."""


def lowers_for_devices(primitive: Primitive) -> None:
    """Have `jit` tell the lowering of `primitive` its devices, which `partitioned` asks for."""
    dispatch.prim_requires_devices_during_lowering.add(primitive)


def partitioned(
    run: Callable[..., tuple[Any, ...]],
    args: Sequence[Any],
    ins: Sequence[str],
    outs: Sequence[str],
) -> tuple[Any, ...]:
    """`run(*args)`, each device with its own part.

    `ins` and `outs` name the dimensions of the arguments and results in a word each, as in `bnhd`;
    the first argument is `q`, the second `k`.
    """
    call = custom_partitioning(lambda *args: run(*args))
    heads, groups = args[0].shape[2], args[1].shape[2]

    def partition(mesh: Any, arg_types: Any, result_types: Any) -> Any:
        q, k = ((*a.sharding.spec, *[None] * 4) for a in arg_types[:2])
        if q[2] != k[2]:
            q = (q[0], None, None, None)

        def sharding(dims: str) -> NamedSharding:
            axes = (q[INDEPENDENT[d]] if d in INDEPENDENT else None for d in dims)
            return NamedSharding(mesh, PartitionSpec(*axes))

        return mesh, run, tuple(map(sharding, outs)), tuple(map(sharding, ins))

    def factors(dims: str, index: int) -> str:
        # A dimension of size one, as of a mask, is a factor of its own.
        names = {"h": "(g r)" if heads != groups else "g"}
        return " ".join(
            names.get(d, d if d != "1" else f"one{index}{i}") for i, d in enumerate(dims)
        )

    rule = ", ".join(map(factors, ins, range(len(ins))))
    rule += " -> " + ", ".join(factors(dims, 0) for dims in outs)
    # Rules want the sizes of those factors only that never are a whole dimension.
    sizes = {"r": heads // groups} if heads != groups else {}
    call.def_partition(partition=partition, sharding_rule=rule, **sizes)
    return call(*args)
