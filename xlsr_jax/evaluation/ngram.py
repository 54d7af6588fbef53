"""Small n-gram language models in the ARPA format, for corpora of a demonstration's size.

Interpolated Witten-Bell smoothing: of the occasions on which history h was seen, as many again as
it has distinct continuations go to the shorter history,

    p(w | h) = (count(h w) + distinct(h) p(w | h')) / (count(h) + distinct(h)),

down to equal shares for all words, </s> and <unk>. It is proper for the smallest corpus, and a
backoff model states it exactly: an n-gram that was not seen gets distinct(h) / (count(h) +
distinct(h)) of its shorter probability. For web-sized text use KenLM's ``lmplz``.
"""

import math
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from xlsr_jax.schema import ConfigError

BEGIN, END, UNKNOWN = "<s>", "</s>", "<unk>"
_NEVER = -99.0  # log10, of <s> as a word: read by all tools as "not to be predicted"


def write_arpa(
    path: str | os.PathLike[str],
    sequences: Iterable[Sequence[str]],
    order: int = 3,
    words: Iterable[str] = (),
) -> Path:
    """Estimates an n-gram model and writes it, readable by KenLM.

    Args:
      path: of the ARPA file.
      sequences: sentences of words, or utterances of phonemes or characters.
      order: n, at least 2 (KenLM reads no unigram models).
      words: further words that are to be known, seen or not: the model's symbols.

    Raises:
      ConfigError: nothing to count, or a token that the format cannot hold.
    """
    sequences = [tuple(sequence) for sequence in sequences]
    vocabulary = sorted({token for sequence in sequences for token in sequence} | set(words))
    for token in vocabulary:
        if not token or token.split() != [token] or token in (BEGIN, END, UNKNOWN):
            raise ConfigError(
                f"{token!r} cannot be a word of an n-gram model: words have no "
                f"spaces and are not {BEGIN}, {END} or {UNKNOWN}"
            )
    if not any(sequences) or order < 2:
        raise ConfigError(
            f"an n-gram model needs text and an order of 2 or more; got order {order}"
            f" and {len(sequences)} sequences, {sum(map(bool, sequences))} not empty"
        )
    counts = _count(sequences, order)
    probabilities, backoffs = _witten_bell(counts, [*vocabulary, END, UNKNOWN])
    lines = ["\\data\\", *(f"ngram {n}={len(level)}" for n, level in enumerate(probabilities, 1))]
    for n, level in enumerate(probabilities, 1):
        lines += ["", f"\\{n}-grams:"]
        lines += [_line(ngram, level[ngram], backoffs.get(ngram)) for ngram in sorted(level)]
    path = Path(path)
    path.write_text("\n".join([*lines, "", "\\end\\", ""]), encoding="utf-8")
    return path


def _count(sequences: Iterable[tuple[str, ...]], order: int) -> list[Counter]:
    """Occurrences of each n-gram that predicts something, one counter for each n."""
    counts: list[Counter] = [Counter() for _ in range(order)]
    for sequence in sequences:
        padded = (BEGIN, *sequence, END)
        for end in range(2, len(padded) + 1):
            for n in range(1, min(order, end) + 1):
                counts[n - 1][padded[end - n : end]] += 1
    return counts


def _witten_bell(
    counts: Sequence[Counter], vocabulary: Sequence[str]
) -> tuple[list[dict[tuple[str, ...], float]], dict[tuple[str, ...], float]]:
    """Probabilities of the n-grams of each n, and backoff weights of the histories."""
    total, distinct = sum(counts[0].values()), len(counts[0])
    share = distinct / len(vocabulary)
    unigrams = {(w,): (counts[0][(w,)] + share) / (total + distinct) for w in vocabulary}
    levels, backoffs = [unigrams | {(BEGIN,): 0.0}], {}
    for seen in counts[1:]:
        totals: Counter = Counter()
        continuations: dict[tuple[str, ...], int] = defaultdict(int)
        for ngram, count in seen.items():
            totals[ngram[:-1]] += count
            continuations[ngram[:-1]] += 1
        shorter, level = levels[-1], {}
        for ngram, count in seen.items():
            history, types = ngram[:-1], continuations[ngram[:-1]]
            level[ngram] = (count + types * shorter[ngram[1:]]) / (totals[history] + types)
        backoffs |= {h: types / (totals[h] + types) for h, types in continuations.items()}
        levels.append(level)
    return levels, backoffs


def _line(ngram: tuple[str, ...], probability: float, backoff: float | None) -> str:
    logarithm = math.log10(probability) if probability else _NEVER
    line = f"{logarithm:.7f}\t{' '.join(ngram)}"
    return line if backoff is None else f"{line}\t{math.log10(backoff):.7f}"
