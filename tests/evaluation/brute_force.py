"""CTC by its definition: all V^T alignments of a few frames."""

import itertools

import numpy as np


def collapse(path, blank):
    merged = [symbol for symbol, _ in itertools.groupby(path)]
    return tuple(symbol for symbol in merged if symbol != blank)


def brute_force(log_probs, blank, log_add=True):
    """Every token sequence with its log-probability, over all V^T alignments."""
    frames, symbols = log_probs.shape
    scores = {}
    for path in itertools.product(range(symbols), repeat=frames):
        part = sum(float(log_probs[t, s]) for t, s in enumerate(path))
        tokens = collapse(path, blank)
        old = scores.get(tokens, -np.inf)
        scores[tokens] = np.logaddexp(old, part) if log_add else max(old, part)
    return scores


def random_log_probs(seed, frames, symbols, sharpness=0.6):
    rng = np.random.default_rng(seed)
    return np.log(rng.dirichlet(np.full(symbols, sharpness), size=frames)).astype(np.float32)
