"""Softmax attention that every JAX transformation passes through, fused on GPUs."""
