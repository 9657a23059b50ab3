"""Bounds of whole numbers, in options and arguments alike."""

LARGEST = 2**31 - 1
"""What a counter of 32 bits holds: the largest number of steps or of samples."""

LAST_SEED = 2**32 - 1
"""The largest seed: jax would take a larger one for a smaller one."""
