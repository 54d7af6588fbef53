"""Text: speech from text, phonemes, number words. NumPy at most, never JAX."""
