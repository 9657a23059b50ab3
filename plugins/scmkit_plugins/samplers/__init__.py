"""Samplers: from noise to data."""
