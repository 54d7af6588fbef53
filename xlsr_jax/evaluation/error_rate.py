"""Error rates over phonemes (PER), characters (CER) and words (WER), with both statistics in use.

Two numbers go by the name of error rate, and published tables differ by which they print:

    corpus rate      sum of errors / sum of reference lengths    wav2vec 2.0, XLSR, UniSpeech
    utterance mean   mean over utterances of errors / length     m-CPC

Both are always computed and never called just "rate" in what is written. A table's "avg." column is
the unweighted mean over languages of either.
"""

import dataclasses
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

RATES = {"phoneme": "PER", "character": "CER", "word": "WER"}  # name of the rate by unit
NOTHING = ""  # the side of an insertion or a deletion where no token is
_DRAWS_AT_ONCE = 1 << 20  # utterances drawn in one block of the bootstrap, 16 MB


@dataclasses.dataclass(frozen=True)
class Utterance:
    """What was said and what was recognized.

    Attributes:
      id: unique within the evaluation.
      language: language code.
      reference, hypothesis: phonemes or characters; a character model's word delimiter "|" is a
        token like any other, and counted.
      reference_text, hypothesis_text: words separated by spaces, for the WER; "" without words.
    """

    id: str
    language: str
    reference: tuple[str, ...]
    hypothesis: tuple[str, ...]
    reference_text: str = ""
    hypothesis_text: str = ""

    def tokens(self, unit: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Reference and hypothesis in one unit; words are what stands between white space."""
        if unit == "word":
            return tuple(self.reference_text.split()), tuple(self.hypothesis_text.split())
        if unit not in RATES:
            raise ValueError(f"unknown unit {unit!r}; use {', '.join(RATES)}")
        return self.reference, self.hypothesis


@dataclasses.dataclass(frozen=True)
class Alignment:
    """One utterance's reference and hypothesis side by side, with as few errors as can be.

    Attributes:
      pairs: (reference token, hypothesis token), ``NOTHING`` for the side that has none.
      substitutions, deletions, insertions: counts.
      length: tokens of the reference.
    """

    utterance: Utterance
    pairs: tuple[tuple[str, str], ...]
    substitutions: int
    deletions: int
    insertions: int
    length: int

    @property
    def errors(self) -> int:
        return self.substitutions + self.deletions + self.insertions

    @property
    def rate(self) -> float:
        """Errors / length; nan for an empty reference."""
        return self.errors / self.length if self.length else float("nan")


@dataclasses.dataclass(frozen=True)
class Score:
    """Error figures of a set of utterances; rates are fractions, 0.25 for 25 %.

    Attributes:
      utterances: all of them; ``empty_references`` of these have no reference token: their
        insertions count in the corpus rate, and they are left out of the utterance mean.
      corpus_rate: sum of errors / sum of reference lengths; nan without any reference token.
      low, high: 95 % confidence interval of the corpus rate, bootstrapped over utterances.
      utterance_mean: mean of errors / reference length; nan likewise.
    """

    utterances: int
    empty_references: int
    reference_length: int
    substitutions: int
    deletions: int
    insertions: int
    corpus_rate: float
    low: float
    high: float
    utterance_mean: float

    @property
    def errors(self) -> int:
        return self.substitutions + self.deletions + self.insertions


def align(utterances: Iterable[Utterance], unit: str = "phoneme") -> list[Alignment]:
    """Aligns each utterance by least edit distance; every edit costs 1."""
    import jiwer

    utterances = list(utterances)
    if not utterances:
        return []
    numbers: dict[str, str] = {}  # tokens may hold anything; jiwer splits text at spaces
    sides = [utterance.tokens(unit) for utterance in utterances]

    def numbered(tokens: Sequence[str]) -> str:
        return " ".join(numbers.setdefault(token, str(len(numbers))) for token in tokens)

    references = [numbered(reference) for reference, _ in sides]
    hypotheses = [numbered(hypothesis) for _, hypothesis in sides]
    edits = jiwer.process_words(references, hypotheses).alignments
    return [
        _alignment(utterance, *side, chunks)
        for utterance, side, chunks in zip(utterances, sides, edits, strict=True)
    ]


def score(alignments: Sequence[Alignment], draws: int = 1000, seed: int = 0) -> Score:
    """Figures of a set of alignments, of one language or of many."""
    errors = np.array([alignment.errors for alignment in alignments], np.int64)
    lengths = np.array([alignment.length for alignment in alignments], np.int64)
    spoken = lengths > 0
    low, high = _interval(errors, lengths, draws, seed)
    rates = errors[spoken] / lengths[spoken]
    return Score(
        utterances=len(alignments),
        empty_references=int(np.sum(~spoken)),
        reference_length=int(lengths.sum()),
        substitutions=sum(alignment.substitutions for alignment in alignments),
        deletions=sum(alignment.deletions for alignment in alignments),
        insertions=sum(alignment.insertions for alignment in alignments),
        corpus_rate=float(errors.sum() / lengths.sum()) if len(rates) else float("nan"),
        low=low,
        high=high,
        utterance_mean=float(np.mean(rates)) if len(rates) else float("nan"),
    )


def by_language(
    alignments: Sequence[Alignment], draws: int = 1000, seed: int = 0
) -> dict[str, Score]:
    """The figures of each language, languages sorted by code."""
    groups: dict[str, list[Alignment]] = {}
    for alignment in alignments:
        groups.setdefault(alignment.utterance.language, []).append(alignment)
    return {language: score(groups[language], draws, seed) for language in sorted(groups)}


def language_average(scores: Iterable[Score]) -> tuple[float, float]:
    """Unweighted means over languages of (corpus rate, utterance mean), as in the papers' tables.

    Languages without any reference token have no rate and are left out; nan where all are.
    """
    rates = [(s.corpus_rate, s.utterance_mean) for s in scores if s.reference_length]
    corpus, utterance = np.mean(rates, axis=0) if rates else (np.nan, np.nan)
    return float(corpus), float(utterance)


def confusions(alignments: Iterable[Alignment], most: int = 20) -> list[tuple[str, str, int]]:
    """The most frequent (reference token, hypothesis token, count) that differ.

    Deletions and insertions have ``NOTHING`` on their empty side. Ties are in order of the tokens.
    """
    counts = Counter(pair for a in alignments for pair in a.pairs if pair[0] != pair[1])
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return [(reference, hypothesis, n) for (reference, hypothesis), n in ranked[:most]]


def _alignment(
    utterance: Utterance, reference: Sequence[str], hypothesis: Sequence[str], chunks: Iterable
) -> Alignment:
    pairs: list[tuple[str, str]] = []
    counts: Counter[str] = Counter()
    for chunk in chunks:
        left = reference[chunk.ref_start_idx : chunk.ref_end_idx]
        right = hypothesis[chunk.hyp_start_idx : chunk.hyp_end_idx]
        span = max(len(left), len(right))
        counts[chunk.type] += span
        left, right = ((*side, *[NOTHING] * (span - len(side))) for side in (left, right))
        pairs += zip(left, right, strict=True)
    return Alignment(
        utterance,
        tuple(pairs),
        counts["substitute"],
        counts["delete"],
        counts["insert"],
        len(reference),
    )


def _interval(
    errors: np.ndarray, lengths: np.ndarray, draws: int, seed: int
) -> tuple[float, float]:
    """The 2.5 and 97.5 percentiles of the corpus rate of sets drawn with replacement."""
    if not lengths.any():
        return float("nan"), float("nan")
    rng = np.random.default_rng(seed)
    block = max(1, _DRAWS_AT_ONCE // len(errors))
    rates = []
    for start in range(0, draws, block):
        drawn = rng.integers(len(errors), size=(min(block, draws - start), len(errors)))
        total = lengths[drawn].sum(axis=1)
        rates.append(errors[drawn].sum(axis=1)[total > 0] / total[total > 0])
    low, high = np.percentile(np.concatenate(rates), [2.5, 97.5])
    return float(low), float(high)
