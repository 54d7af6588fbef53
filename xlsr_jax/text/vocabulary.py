"""Vocabularies of phonemes or characters, for one language or many.

Symbol 0 is the blank of CTC. Languages may share a symbol, or keep theirs apart: then a symbol
reads "(es)t", and a row of one language can be restricted to its own.
"""

import dataclasses
import json
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

BLANK = "<blank>"
DELIMITER = "|"  # between words, where tokens are characters
UNITS = ("phonemes", "characters")


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """Symbols and their numbers.

    Attributes:
      symbols: in the order of their numbers; the first is ``BLANK``.
      unit: "phonemes" or "characters".
      separate: whether each symbol belongs to one language.
      languages: codes, sorted.
    """

    symbols: tuple[str, ...]
    unit: str
    separate: bool
    languages: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.symbols or self.symbols[0] != BLANK:
            raise ValueError(f"the first symbol of a vocabulary is {BLANK}")
        numbers = {symbol: number for number, symbol in enumerate(self.symbols)}
        if len(numbers) != len(self.symbols):
            twice = [symbol for symbol, count in Counter(self.symbols).items() if count > 1]
            raise ValueError(f"symbols occur more than once in a vocabulary: {' '.join(twice)}")
        object.__setattr__(self, "_numbers", numbers)

    @property
    def blank(self) -> int:
        return 0

    def encode(self, tokens: Sequence[str], language: str) -> tuple[list[int], list[str]]:
        """Numbers of the tokens, and the tokens that have none, which are left out."""
        known, unknown = [], []
        for token in tokens:
            number = self._numbers.get(self._named(token, language))
            if number is None or number == self.blank:
                unknown.append(token)
            else:
                known.append(number)
        return known, unknown

    def decode(self, numbers: Iterable[int]) -> list[str]:
        """Symbols without their language; blanks are left out."""
        return [self._plain(self.symbols[n]) for n in numbers if n != self.blank]

    def text(self, tokens: Sequence[str]) -> str:
        """Readable text: characters joined with their words apart, phonemes with spaces."""
        if self.unit == "characters":
            return " ".join("".join(tokens).replace(DELIMITER, " ").split())
        return " ".join(tokens)

    def of_language(self, language: str) -> list[int]:
        """Numbers that a row of ``language`` may use, the blank among them.

        Raises:
          ValueError: where the vocabulary has no such language.
        """
        if language not in self.languages:
            have = ", ".join(self.languages)
            raise ValueError(f"the vocabulary has no language {language!r}; it has {have}")
        if not self.separate:
            return list(range(len(self.symbols)))
        start = f"({language})"
        return [0] + [n for n, symbol in enumerate(self.symbols) if symbol.startswith(start)]

    def to_dict(self) -> dict[str, Any]:
        return json.loads(json.dumps(dataclasses.asdict(self)))

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> "Vocabulary":
        symbols, languages = tuple(values["symbols"]), tuple(values["languages"])
        return Vocabulary(symbols, values["unit"], values["separate"], languages)

    def _named(self, token: str, language: str) -> str:
        return f"({language}){token}" if self.separate else token

    def _plain(self, symbol: str) -> str:
        return symbol.split(")", 1)[1] if self.separate else symbol


def build(
    tokens: Iterable[tuple[str, Sequence[str]]], unit: str, separate: bool = False
) -> Vocabulary:
    """The vocabulary of a training split's (language, tokens), in alphabetical order.

    Raises:
      ValueError: where there is no token at all.
    """
    found: set[str] = set()
    languages: set[str] = set()
    for language, sequence in tokens:
        languages.add(language)
        found.update(f"({language}){token}" if separate else token for token in sequence)
    if not found:
        raise ValueError(f"the training split has no {unit}: no utterance has a label")
    return Vocabulary((BLANK, *sorted(found)), unit, separate, tuple(sorted(languages)))


def characters(text: str) -> list[str]:
    """Characters of a transcript: lower case, NFC, words joined by ``DELIMITER``.

    Letters, their marks, digits and apostrophes inside a word are kept; other signs part words.
    """
    text = unicodedata.normalize("NFC", text).lower().replace("’", "'")
    kept = "".join(
        c if c == "'" or unicodedata.category(c)[0] in "LMN" else " " for c in text
    )
    words = [word.strip("'") for word in kept.split()]
    return list(DELIMITER.join(word for word in words if word))
