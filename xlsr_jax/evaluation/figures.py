"""The figures of an evaluation in one unit, and the cells of their table."""

import dataclasses
import math
from collections.abc import Iterable, Mapping

from xlsr_jax.evaluation.error_rate import (
    RATES,
    Alignment,
    Score,
    Utterance,
    align,
    by_language,
    confusions,
    language_average,
    score,
)

AVERAGE, TOGETHER = "average of languages", "all utterances"
HEADINGS = (
    "language",
    "utterances",
    "tokens",
    "{rate} corpus %",
    "95 % interval",
    "{rate} utterance mean %",
    "substituted",
    "deleted",
    "inserted",
)


@dataclasses.dataclass(frozen=True)
class Figures:
    """All figures in one unit.

    Attributes:
      rate: "PER", "CER" or "WER".
      languages: by language code.
      together: of all utterances as one set.
      average: unweighted means over languages of (corpus rate, utterance mean).
      confusions: (reference token, hypothesis token, count), the most frequent first.
    """

    unit: str
    rate: str
    alignments: tuple[Alignment, ...]
    languages: Mapping[str, Score]
    together: Score
    average: tuple[float, float]
    confusions: tuple[tuple[str, str, int], ...]


def figures(utterances: Iterable[Utterance], unit: str) -> Figures:
    """Aligns and counts."""
    alignments = tuple(align(utterances, unit))
    languages = by_language(alignments)
    return Figures(
        unit,
        RATES[unit],
        alignments,
        languages,
        score(alignments),
        language_average(languages.values()),
        tuple(confusions(alignments, most=30)),
    )


def rows(found: Figures) -> list[tuple[str, ...]]:
    """The table's cells: a row a language, the average over them, all utterances as one set."""
    table = [_row(language, each) for language, each in found.languages.items()]
    corpus, utterance = map(percent, found.average)
    if len(table) > 1:
        table.append((AVERAGE, "", "", corpus, "", utterance, "", "", ""))
        table.append(_row(TOGETHER, found.together))
    return table


def percent(rate: float) -> str:
    """0.1234 as "12.3"; a rate that is not defined as a dash."""
    return f"{100 * rate:.1f}" if math.isfinite(rate) else "–"


def note(found: Figures) -> str:
    """What the two statistics are, and which utterances one of them leaves out."""
    text = (
        "Corpus: all errors / all reference tokens, 95 % interval by bootstrap over utterances. "
        f"Utterance mean: the mean of each utterance's own {found.rate}."
    )
    if found.together.empty_references:
        text += (
            f" Utterances with an empty reference ({found.together.empty_references}) count in the "
            "corpus rate by their insertions, and are left out of the utterance mean."
        )
    return text


def _row(name: str, each: Score) -> tuple[str, ...]:
    interval = f"{percent(each.low)} – {percent(each.high)}" if each.reference_length else "–"
    counts = (each.substitutions, each.deletions, each.insertions)
    return (
        name,
        f"{each.utterances:,}",
        f"{each.reference_length:,}",
        percent(each.corpus_rate),
        interval,
        percent(each.utterance_mean),
        *(f"{count:,}" for count in counts),
    )
