"""The CTC log-probability of given token sequences: what a beam search only bounds from below."""

from collections.abc import Sequence

import numpy as np


def acoustic_scores(
    log_probs: np.ndarray, sequences: Sequence[Sequence[int]], blank: int, log_add: bool = True
) -> np.ndarray:
    """[C] float64: log-probability of each of C token sequences.

    Args:
      log_probs: [T, V] natural logarithms; -inf is fine.
      sequences: symbol ids without blanks; repeats are tokens of their own.
      blank: its symbol id.
      log_add: sums over all alignments (Graves et al. 2006); False takes the best one.

    A sequence that does not fit into T frames has -inf.
    """
    add = np.logaddexp if log_add else np.maximum
    longest = max(map(len, sequences))
    # States of a sequence: blank, token, blank, token .. blank; those past its end stay blank.
    states = np.full((len(sequences), 2 * longest + 1), blank)
    for row, sequence in zip(states, sequences, strict=True):
        row[1 : 2 * len(sequence) : 2] = sequence
    # A blank between two tokens may be skipped unless they are the same.
    skips = np.zeros(states.shape, bool)
    skips[:, 3::2] = states[:, 3::2] != states[:, 1:-2:2]
    reached = np.full(states.shape, -np.inf)
    reached[:, 0] = 0.0  # before the first frame, as if a blank had been
    for frame in np.asarray(log_probs, np.float64):
        stepped = add(reached[:, 1:], reached[:, :-1])
        skipped = np.where(skips[:, 2:], reached[:, :-2], -np.inf)
        reached[:, 2:] = add(stepped[:, 1:], skipped)
        reached[:, 1:2] = stepped[:, :1]
        reached += frame[states]
    ends = np.array([2 * len(sequence) for sequence in sequences])
    rows = np.arange(len(sequences))
    last_token = np.where(ends > 0, reached[rows, ends - 1], -np.inf)
    return add(reached[rows, ends], last_token)
