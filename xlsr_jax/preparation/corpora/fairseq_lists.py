"""Lines of fairseq's lists: a manifest's rows, with the labels that lie beside it."""

import dataclasses
import itertools
import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

from xlsr_jax.data.records import CorpusError
from xlsr_jax.preparation.archives import Tree

SUFFIX = ".tsv"
WORDS, LETTERS, PHONES = ".wrd", ".ltr", ".phn"


class Row(NamedTuple):
    """An utterance of a manifest; ``fault`` says why it cannot be used, else ""."""

    line: int
    path: str
    frames: int
    fault: str
    text: str
    phonemes: str


@dataclasses.dataclass(frozen=True)
class Manifest:
    """The manifest ``file`` of ``tree``, and what lies beside it under its name."""

    tree: Tree
    file: str

    def folder(self) -> str:
        """The first line: where the audio is.

        Raises:
          CorpusError: no such line.
        """
        _, first = next(self.tree.lines(self.file), (1, ""))
        first = (first or "").strip()
        if not first or "\t" in first:
            raise CorpusError(
                f"{self.file} of {self.tree.source} is no fairseq manifest: its first line is not "
                "the folder of its audio"
            )
        return first

    def rows(self) -> Iterator[Row]:
        """The utterances in order."""
        words = self._beside(WORDS)
        texts = self._labels(words or self._beside(LETTERS), spaced if words else spelled)
        phonemes = self._labels(self._beside(PHONES), spaced)
        for (number, line), text, phones in zip(self._lines(), texts, phonemes, strict=False):
            path, frames, fault = _columns(line)
            if text is None or phones is None:
                fault = fault or "malformed label: a line without end"
            yield Row(number, path, frames, fault, text or "", phones or "")

    def compare(self) -> None:
        """Counts the lines of the labels; raises ``CorpusError`` where they do not fit."""
        rows = sum(1 for _ in self._lines())
        for name in filter(None, map(self._beside, (WORDS, LETTERS, PHONES))):
            count = 0
            for number, line in self.tree.lines(name):
                if number <= rows or line is None or line.strip():  # more empty ones are no labels
                    count = number
            if count != rows:
                raise CorpusError(
                    f"{name} has {count} labels and {self.file} {rows} utterances, in "
                    f"{self.tree.source}; line n must be of utterance n, make the labels again"
                )

    def _lines(self) -> Iterator[tuple[int, str | None]]:
        """The lines after the first, without empty ones at the end."""
        empty = []
        for number, line in itertools.islice(self.tree.lines(self.file), 1, None):
            if line is not None and not line.strip():
                empty.append((number, line))
                continue
            yield from empty
            empty = []
            yield number, line

    def _beside(self, suffix: str) -> str:
        name = self.file.removesuffix(SUFFIX) + suffix
        return name if name in self.tree else ""

    def _labels(self, name: str, convert: Callable[[str], str]) -> Iterator[str | None]:
        if not name:
            return itertools.repeat("")
        lines = self.tree.lines(name)
        return (None if line is None else convert(line) for _, line in lines)


def spaced(line: str) -> str:
    """Words or phonemes with single spaces between."""
    return " ".join(line.split())


def spelled(line: str) -> str:
    """Text of letters with spaces between and "|" where words end."""
    return " ".join("".join(line.split()).replace("|", " ").split())


def _columns(line: str | None) -> tuple[str, int, str]:
    """(path, frames, fault)."""
    if line is None:
        return "", 0, "malformed row: a line without end"
    columns = line.strip().split("\t")
    if len(columns) != 2 or not re.fullmatch("[0-9]{1,18}", columns[1]) or "\0" in line:
        return "", 0, f"malformed row: {line.strip()[:80]!r} is not PATH<TAB>FRAMES"
    return columns[0], int(columns[1]), ""
