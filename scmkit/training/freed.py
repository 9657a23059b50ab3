"""Memory that compiling has freed, given back to the system."""

import ctypes
import sys


def return_freed_memory() -> None:
    """Ask the allocator for what it holds and nobody uses; does nothing where it is not glibc's.

    XLA's compiler frees hundreds of megabytes in small pieces, which glibc keeps for the process: a training
    on a CPU would hold half a gigabyte more than it uses for as long as it lasts.
    """
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
