"""How fine a grid may be."""

FINEST = 2**17
"""Points of a grid, beyond which float32 hardly tells one from the next."""
