"""The language mixture: how many seconds of audio an update takes from each language."""

import difflib
from collections.abc import Mapping, Sequence

import numpy as np

from xlsr_jax.data.records import CorpusError


def choose_languages(hours: Mapping[str, float], wanted: Sequence[str] = ()) -> tuple[str, ...]:
    """The languages to train on, sorted; all that have data where ``wanted`` is empty.

    Args:
      hours: hours of audio per language in the corpus.
      wanted: language codes.

    Raises:
      CorpusError: a wanted language has no data, or nothing has.
    """
    have = sorted(language for language, amount in hours.items() if amount > 0)
    if not have:
        raise CorpusError("the corpus holds no audio at all; look at its rejected.jsonl for why")
    for language in wanted:
        if language not in have:
            near = difflib.get_close_matches(language, have, n=1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            raise CorpusError(
                f"no data for language {language!r}{hint}; the corpus has {', '.join(have)}"
            )
    return tuple(sorted(set(wanted))) if wanted else tuple(have)


def language_shares(hours: Sequence[float], alpha: float) -> np.ndarray:
    """Share of each language in the audio drawn: p_l = n_l^alpha / sum_k n_k^alpha.

    XLSR (Conneau et al. 2020), section 2.2, with n_l in hours rather than in utterances. alpha 1
    takes the corpus as it is, 0 takes every language equally.

    Args:
      hours: [languages] hours of audio, all above 0.
      alpha: exponent in [0, 1].

    Returns:
      [languages] float64, summing to 1.
    """
    amounts = np.asarray(hours, np.float64)
    if amounts.size == 0 or not (amounts > 0).all():
        raise CorpusError(f"every language of a mixture needs audio; hours are {amounts.tolist()}")
    tempered = (amounts / amounts.sum()) ** alpha
    return tempered / tempered.sum()


def cell_shares(shares: np.ndarray, cell_samples: np.ndarray) -> np.ndarray:
    """Share of drawn audio of each (bucket, language) cell.

    The audio of a language is spread over the buckets as it lies in the corpus, so that all cells
    of one language run through their epochs at the same pace: share[b, l] = p_l c[b, l] / sum_b c.

    Args:
      shares: [languages] p_l.
      cell_samples: [buckets, languages] samples that one pass over the cell consumes, after
        cropping; each language with a share has some in at least one bucket.

    Returns:
      [buckets, languages] float64, summing to 1.
    """
    cells = np.asarray(cell_samples, np.float64)
    return shares * cells / np.maximum(cells.sum(axis=0), 1)
