"""Block shapes, by kernel and head_dim."""

from typing import Literal, NamedTuple

Kernel = Literal["attention_forward", "attention_dual", "attention_dq", "attention_dkv"]


class Tile(NamedTuple):
    """How one program of a kernel divides its work."""

    warpgroups: int
    """Warpgroups that compute, 64 rows each."""
    block: int
    """Rows of the other side (keys, or queries in dkv) that one step takes."""
    stages: int
    """Steps whose operands are in shared memory at a time."""
    resident: bool
    """Whether the left operands that stay for all steps are kept in registers."""
    registers: int
    """Registers of a thread that computes."""

    @property
    def loader_registers(self) -> int:
        """What is left for a thread that loads: a kernel of three warpgroups starts with 168 for each."""
        return 3 * 168 - self.warpgroups * self.registers


# Decided by ptxas for sm_90a, which spills nothing with them, and by 227 KB of shared memory. The loading
# warpgroup spills with 24 registers as soon as a compiler moves its addresses out of the loop, so it has
# 40 but in dual at 128, whose accumulators alone take 192 of the 240. Keys of dual in blocks of 128
# spill 344 bytes at 64; blocks of 32 are shorter than a swizzled operand of wgmma. Resident operands
# halve what a product with 64 columns reads from shared memory, which is otherwise all its bandwidth.
TILES: dict[tuple[Kernel, int], Tile] = {
    ("attention_forward", 64): Tile(2, 128, 4, True, 232),
    ("attention_forward", 128): Tile(2, 128, 2, False, 232),
    ("attention_dual", 64): Tile(2, 64, 4, True, 232),
    ("attention_dual", 128): Tile(2, 64, 2, False, 240),
    ("attention_dq", 64): Tile(2, 128, 4, False, 232),
    ("attention_dq", 128): Tile(2, 64, 4, False, 232),
    ("attention_dkv", 64): Tile(2, 64, 4, True, 232),
    ("attention_dkv", 128): Tile(2, 64, 2, False, 232),
}
