"""Layers that networks and norms share, and attention."""
