import math

import numpy as np
import pytest

from xlsr_jax.evaluation import error_rate
from xlsr_jax.evaluation.error_rate import Utterance


def levenshtein(reference, hypothesis):
    """Textbook dynamic programme, independent of the library in use."""
    row = list(range(len(hypothesis) + 1))
    for i, left in enumerate(reference, 1):
        last, row[0] = row[0], i
        for j, right in enumerate(hypothesis, 1):
            last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (left != right))
    return row[-1]


def utterances(count=60, seed=0):
    """Random ones over symbols that would break a join at spaces or a mapping to characters."""
    rng = np.random.default_rng(seed)
    symbols = np.array(["tʃ", "t", "ʃ", "aɪ", "|", "a|", "0", "1", "10", "ts.", "\u00a0", "-"])
    made = []
    for i in range(count):
        reference = tuple(rng.choice(symbols, rng.integers(0, 12)).tolist())
        hypothesis = [s for s in reference if rng.random() > 0.2]
        for _ in range(rng.integers(0, 4)):
            hypothesis.insert(int(rng.integers(len(hypothesis) + 1)), str(rng.choice(symbols)))
        made.append(Utterance(f"u{i}", ("es", "fr", "tt")[i % 3], reference, tuple(hypothesis)))
    return made


def test_errors_are_the_least_edits():
    for utterance, alignment in zip(
        utterances(), error_rate.align(utterances(), "phoneme"), strict=True
    ):
        assert alignment.errors == levenshtein(utterance.reference, utterance.hypothesis)
        assert alignment.length == len(utterance.reference)
        nothing = error_rate.NOTHING
        assert tuple(r for r, _ in alignment.pairs if r != nothing) == utterance.reference
        assert tuple(h for _, h in alignment.pairs if h != nothing) == utterance.hypothesis
        kinds = [("I" if not r else "D" if not h else "S") for r, h in alignment.pairs if r != h]
        counts = alignment.substitutions, alignment.deletions, alignment.insertions
        assert counts == tuple(kinds.count(kind) for kind in "SDI")


def test_the_two_statistics_by_hand():
    score = error_rate.score(
        error_rate.align(
            [
                Utterance("long", "es", tuple("abcdefgh"), tuple("abcdefgx")),  # 1 of 8
                Utterance("short", "es", ("a", "b"), ("b",)),  # 1 of 2
                Utterance("silent", "es", (), ("a", "b", "c")),  # 3 insertions of no length
            ]
        )
    )
    assert (score.substitutions, score.deletions, score.insertions) == (1, 1, 3)
    assert (score.utterances, score.empty_references, score.reference_length) == (3, 1, 10)
    assert score.corpus_rate == pytest.approx(5 / 10)
    assert score.utterance_mean == pytest.approx((1 / 8 + 1 / 2) / 2)


def test_words_are_split_at_white_space():
    utterance = Utterance("u", "en", ("h", "i"), ("h", "i"), "the  cat sat\n", "the cat\tsat on")
    assert error_rate.score(error_rate.align([utterance], "word")).corpus_rate == 1 / 3
    assert error_rate.score(error_rate.align([utterance], "character")).corpus_rate == 0
    with pytest.raises(ValueError, match="phoneme, character, word"):
        error_rate.align([utterance], "letter")


def test_languages_count_alike_in_the_average():
    made = [Utterance("a", "tt", tuple("aaaa"), tuple("bbbb"))]  # 4 of 4
    made += [Utterance(f"b{i}", "es", tuple("aaaa"), tuple("aaab")) for i in range(99)]  # 1 of 4
    made += [Utterance("c", "zz", (), ())]
    scores = error_rate.by_language(error_rate.align(made))
    assert list(scores) == ["es", "tt", "zz"]
    assert math.isnan(scores["zz"].corpus_rate) and math.isnan(scores["zz"].low)
    assert error_rate.language_average(scores.values()) == pytest.approx((0.625, 0.625))
    assert all(map(math.isnan, error_rate.language_average([scores["zz"]])))


def test_confusions():
    made = [
        Utterance("a", "es", ("tʃ", "a", "t"), ("t", "a")),  # tʃ>t, t deleted
        Utterance("b", "es", ("tʃ",), ("t",)),
        Utterance("c", "es", ("e",), ("e", "i")),
    ]
    found = error_rate.confusions(error_rate.align(made))
    assert found == [("tʃ", "t", 2), ("", "i", 1), ("t", "", 1)]
    assert error_rate.confusions(error_rate.align(made), most=1) == [("tʃ", "t", 2)]


def test_the_interval_covers_as_often_as_it_says():
    """Utterances of known error probability: 95 % of the intervals hold it, give or take 3 sd."""
    rng = np.random.default_rng(1)
    rate, sets, held = 0.2, 200, 0
    for seed in range(sets):
        lengths = rng.integers(5, 40, size=150)
        wrong = rng.binomial(lengths, rate)
        low, high = error_rate._interval(wrong, lengths, 400, seed)
        held += low <= rate <= high
    assert 0.95 - 3 * 0.0154 - 0.01 < held / sets < 1  # 0.01: what the percentile method lacks


def test_the_interval_is_seeded_and_agrees_with_theory():
    made = error_rate.align(utterances(400))
    first, again, other = (error_rate.score(made, seed=seed) for seed in (0, 0, 1))
    assert first == again and first.low != other.low
    errors = np.array([a.errors for a in made])
    lengths = np.array([a.length for a in made])
    residuals = errors - first.corpus_rate * lengths  # delta method for a ratio of means
    deviation = np.sqrt(np.sum(residuals**2)) / lengths.sum()
    assert first.high - first.low == pytest.approx(2 * 1.96 * deviation, rel=0.1)
    assert first.low < first.corpus_rate < first.high


def test_large_sets_draw_in_blocks(monkeypatch):
    made = error_rate.align(utterances(50))
    whole = error_rate.score(made)
    monkeypatch.setattr(error_rate, "_DRAWS_AT_ONCE", 120)
    assert error_rate.score(made).low == pytest.approx(whole.low, rel=1e-12)
