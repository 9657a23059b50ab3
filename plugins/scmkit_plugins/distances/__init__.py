"""Distances that losses compare samples by."""
