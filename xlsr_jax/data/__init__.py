"""From audio files to batches. NumPy only, never JAX, so that worker processes stay light."""
