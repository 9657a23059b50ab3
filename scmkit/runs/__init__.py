"""Runs on disk: checkpoints, metrics, verification, and the way in and out."""
