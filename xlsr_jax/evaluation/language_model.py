"""KenLM n-gram models (ARPA or binary), read by flashlight-text, and lexicons of spelled words."""

import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from xlsr_jax.schema import ConfigError

_UNKNOWN = "<unk>"
_SPECIAL = {"<s>", "</s>", _UNKNOWN}  # known to every model, which tells nothing


class LanguageModel:
    """An n-gram model over a numbered list of words, which may be phonemes or characters.

    Scores are log10 probabilities, as KenLM and the published decoders have them: a weight of 2
    multiplies log10, not natural logarithms.

    Attributes:
      path: where it was read from.
      words: the numbered words.
      unknown: those that it scores as <unk>: not known, or never seen; less the silent ones.
      model: flashlight's model; its numbers are those of ``words``.
    """

    def __init__(
        self, path: str | os.PathLike[str], words: Sequence[str], silent: Collection[str] = ()
    ) -> None:
        """Reads a model.

        Args:
          path: ARPA or KenLM binary file.
          words: numbered in this order.
          silent: those of them that are never scored, as the CTC blank.

        Raises:
          ConfigError: the file is missing or no n-gram model, or it knows none of ``words``.
        """
        decoder, dictionary = import_flashlight()
        self.path, self.words = Path(path), tuple(words)
        numbered = list(self.words) + ([] if _UNKNOWN in self.words else [_UNKNOWN])
        if not Path(path).is_file():
            raise ConfigError(f"no language model at {path}; give a KenLM binary or ARPA file")
        self._dictionary = dictionary.Dictionary(numbered)  # lives as long as the model
        try:
            self.model = decoder.KenLM(os.fspath(path), self._dictionary)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            raise ConfigError(
                f"{path} is no n-gram model that KenLM reads ({reason}); "
                "give a KenLM binary or ARPA file"
            ) from error
        start = self.model.start(False)
        floor = self.model.score(start, numbered.index(_UNKNOWN))[1]
        skipped = _SPECIAL.union(silent)
        scored = {word: i for i, word in enumerate(self.words) if word not in skipped}
        self.unknown = tuple(
            word for word, i in scored.items() if self.model.score(start, i)[1] == floor
        )
        if len(self.unknown) == len(scored):
            shown = " ".join(list(scored)[:8])
            raise ConfigError(
                f"language model {path} knows none of the words to be recognized "
                f"({shown} ...); give one that was made over these"
            )

    def score(self, numbers: Sequence[int]) -> float:
        """log10 probability of a whole sentence, its end included."""
        state, total = self.model.start(False), 0.0
        for number in numbers:
            state, part = self.model.score(state, number)
            total += part
        return total + self.model.finish(state)[1]


def read_lexicon(path: str | os.PathLike[str]) -> dict[str, list[tuple[str, ...]]]:
    """Reads lines of a word and its symbols, apart by white space; a word may stand on many lines.

    Raises:
      ConfigError: the file is missing, empty or has a word without symbols.
    """
    if not Path(path).is_file():
        raise ConfigError(f"no lexicon at {path}; give a file of lines 'word s y m b o l s'")
    lexicon: dict[str, list[tuple[str, ...]]] = {}
    for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), 1):
        word, *symbols = line.split() or [""]
        if word and not symbols:
            raise ConfigError(
                f"{path}, line {number}: {word!r} has no symbols; a line is 'word s y m b o l s'"
            )
        if word:
            lexicon.setdefault(word, []).append(tuple(symbols))
    if not lexicon:
        raise ConfigError(f"lexicon {path} is empty; give lines 'word s y m b o l s'")
    return lexicon


class Lexicon:
    """The words that can be recognized and how they are spelled, each before a delimiter.

    Attributes:
      words: numbered.
      readings: the numbers of the words that a spelling (symbol ids, no delimiter) stands for.
      left_out: words with a symbol that the vocabulary lacks.
    """

    def __init__(
        self,
        spellings: Mapping[str, Sequence],
        symbols: Sequence[str],
        delimiter: str | None,
    ) -> None:
        """Numbers the words.

        Args:
          spellings: word -> its spelling, a string or a sequence of symbols, or a list of such.

        Raises:
          ConfigError: the vocabulary has no delimiter, or none of the words can be spelled.
        """
        if delimiter not in symbols:
            raise ConfigError(
                f"a lexicon needs a word delimiter among the model's symbols, and "
                f"{delimiter!r} is not there; decode without a lexicon"
            )
        ids = {symbol: i for i, symbol in enumerate(symbols)}
        self.readings: dict[tuple[int, ...], list[int]] = {}
        words: list[str] = []
        left_out: list[str] = []
        for word, listed in spellings.items():
            several = not isinstance(listed, str) and all(not isinstance(s, str) for s in listed)
            kept = [
                tuple(ids[symbol] for symbol in spelling if symbol != delimiter)
                for spelling in (listed if several else [listed])
                if all(symbol in ids for symbol in spelling)
            ]
            for spelling in filter(None, kept):
                self.readings.setdefault(spelling, []).append(len(words))
            (words if any(kept) else left_out).append(word)
        self.words, self.left_out = tuple(words), tuple(left_out)
        if not self.words:
            shown = ", ".join(left_out[:3])
            raise ConfigError(
                f"the model's symbols spell none of the lexicon's {len(left_out)} "
                f"words ({shown} ...); give a lexicon made for them"
            )


def import_flashlight() -> tuple[Any, Any]:
    """flashlight-text's modules (decoder, dictionary); with KenLM among the decoder's names.

    Raises:
      ConfigError: it is not installed.
    """
    try:
        from flashlight.lib.text import decoder, dictionary
        from flashlight.lib.text.decoder import kenlm
    except ImportError as error:
        raise ConfigError(
            "beam search needs flashlight-text; pip install 'xlsr_jax[lm]', or decode greedily"
        ) from error
    decoder.KenLM = kenlm.KenLM
    return decoder, dictionary
