"""What is trained: each objective maps (params, batch, key, step) to sums over the batch."""
