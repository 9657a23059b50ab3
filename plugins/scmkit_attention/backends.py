"""Which backend runs a call: the first of the platform's that supports it."""

import functools
import importlib
import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

import jax

from scmkit_attention import blockwise, dense
from scmkit_attention.problem import Differentials, LogSumExp, Operands, Output, Spec

logger = logging.getLogger("scmkit.attention")


@runtime_checkable
class Backend(Protocol):
    """A module with the three functions of attention. See `dense` for what they compute."""

    def unsupported(self, x: Operands, spec: Spec) -> str | None:
        """Why this backend cannot run the call, or None."""
        ...

    def forward(self, x: Operands, spec: Spec) -> tuple[Output, LogSumExp]: ...

    def dual(
        self, x: Operands, t: Differentials, spec: Spec
    ) -> tuple[Output, LogSumExp, Output]: ...

    def backward(
        self, x: Operands, o: Output, lse: LogSumExp, do: Output, spec: Spec
    ) -> Differentials: ...


def xla_backend(x: Operands, spec: Spec) -> Backend:
    """All scores at once where they are few, block by block where they are many."""
    return blockwise if dense.unsupported(x, spec) else dense


def cuda_kernel(x: Operands, spec: Spec) -> Backend | None:
    """The kernel asked for, or the fastest that supports the call; None for XLA.

    Raises `ValueError` where the kernel asked for does not support the call.
    """
    if spec.implementation == "xla":
        return None
    reasons = []
    for name in (spec.implementation,) if spec.implementation else ("mosaic", "triton"):
        if name == "mosaic" and spec.implementation is None and not _on_hopper():
            continue
        module: Any = importlib.import_module(f"scmkit_attention.{name}")
        kernel: Backend = module
        reason = kernel.unsupported(x, spec)
        if reason is None:
            _log_once(tuple(reasons), f"the {name} kernel")
            return kernel
        reasons.append(f"the {name} kernel does not support {reason}")
    if spec.implementation is not None:
        raise ValueError(
            f"attention: {reasons[0]}; leave out implementation={spec.implementation!r} to use "
            f"the fastest that does"
        )
    _log_once(tuple(reasons), "XLA")
    return None


@contextmanager
def deprecation_ignored() -> Iterator[None]:
    """Lower Triton kernels in here: jax >= 0.11 warns at each, of what users cannot change."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The Pallas Triton backend", DeprecationWarning)
        yield


@functools.cache
def _log_once(reasons: tuple[str, ...], instead: str) -> None:
    if reasons:
        logger.warning("attention: %s; using %s", ", ".join(reasons), instead)


def _on_hopper() -> bool:
    """Whether the GPU that is compiled for has wgmma and TMA as compute capability 9.0 has them."""
    abstract = jax.sharding.get_abstract_mesh().abstract_device
    if abstract is not None:
        return re.search(r"\bG?H(\d{3}|20)\b", abstract.device_kind) is not None
    try:
        devices = jax.devices("cuda")
    except RuntimeError:  # compiling for a GPU on a machine without one
        return False
    return devices[0].compute_capability == "9.0"
