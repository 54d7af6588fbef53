import numpy as np
import pytest
from brute_force import brute_force, collapse, random_log_probs

from xlsr_jax.evaluation.ctc_score import acoustic_scores
from xlsr_jax.evaluation.decode import greedy, greedy_spans


@pytest.mark.parametrize("blank", [0, 2])
def test_greedy_is_argmax_collapsed(blank):
    for seed in range(30):
        log_probs = random_log_probs(seed, 12, 3)
        assert tuple(greedy(log_probs, blank)) == collapse(log_probs.argmax(1).tolist(), blank)
    assert greedy(np.zeros((0, 3), np.float32), blank) == []


def test_greedy_spans_by_hand():
    best = [0, 2, 2, 0, 2, 1, 1, 1, 0]
    spans = greedy_spans(np.log(np.eye(3, dtype=np.float32)[best] + 1e-6), blank=0)
    assert spans == [(2, 1, 3), (2, 4, 5), (1, 5, 8)]


@pytest.mark.parametrize("log_add", [True, False])
@pytest.mark.parametrize("blank", [0, 1])
def test_acoustic_scores_are_sums_over_alignments(log_add, blank):
    log_probs = random_log_probs(3, 6, 3)
    expected = brute_force(log_probs, blank, log_add)
    sequences = list(expected)
    scores = acoustic_scores(log_probs, sequences, blank, log_add)
    np.testing.assert_allclose(scores, [expected[s] for s in sequences], rtol=1e-10)
    other = 1 - blank
    assert acoustic_scores(log_probs, [(other,) * 4], blank)[0] == -np.inf  # needs 7 frames
    assert acoustic_scores(log_probs[:0], [(), (other,)], blank).tolist() == [0.0, -np.inf]
