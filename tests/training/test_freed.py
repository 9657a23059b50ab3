"""Memory that is freed goes back to the system."""

import ctypes
import sys
from pathlib import Path

import pytest

from scmkit.training.freed import return_freed_memory


def resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


@pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="glibc only"
)
def test_what_the_allocator_holds_is_given_back():
    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    pieces = [libc.malloc(ctypes.c_size_t(60_000)) for _ in range(2000)]
    for piece in pieces:
        ctypes.memset(piece, 1, 60_000)
    for piece in pieces[:-1]:  # The last one keeps the heap from shrinking by itself.
        libc.free(ctypes.c_void_p(piece))
    held = resident()
    return_freed_memory()
    assert held - resident() > 1e8
    libc.free(ctypes.c_void_p(pieces[-1]))
