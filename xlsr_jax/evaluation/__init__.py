"""Evaluation: decoding, error rates, reports. NumPy arrays and strings, never JAX."""
