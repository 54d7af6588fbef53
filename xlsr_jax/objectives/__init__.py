"""What is trained: each objective maps (params, batch, key, step) to (numerator, denominator) sums."""
