"""Couplings of noise and data."""
