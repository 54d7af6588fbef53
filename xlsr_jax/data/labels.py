"""Labels of a corpus: made from its texts once and kept beside the shards, or read from a file.

    <corpus>/labels/<unit>/manifest.json                 what made them: versions, counts
    <corpus>/labels/<unit>/<split>/<language>-00000.tsv  the shard's sha256; a line a record: id,
                                                         tab, tokens

The shards are not touched, so that one corpus can have several kinds of labels.
"""

import dataclasses
import json
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from xlsr_jax import storage
from xlsr_jax.data import records
from xlsr_jax.data.index import Index
from xlsr_jax.data.records import CorpusError, Record, Shard
from xlsr_jax.schema import setting
from xlsr_jax.text import vocabulary
from xlsr_jax.text.vocabulary import Vocabulary

FOLDER, MANIFEST = "labels", "manifest.json"
Tokens = tuple[str, ...]
_HEAD = "# labels of the shard with sha256 "


@dataclasses.dataclass(frozen=True)
class LabelsConfig:
    """What a recogniser learns to write."""

    unit: str = setting(
        "phonemes",
        "phonemes: by espeak-ng from the text; recorded: the phonemes that came with the audio; "
        "aligned: those with their times, a label for every frame; characters: of the text",
        choices=("phonemes", "recorded", "aligned", "characters"),
    )
    separate: bool = setting(False, "a symbol of one language is not that of another")
    file: str = setting("", "labels made elsewhere: .tsv with id, tab, tokens; instead of unit's")


@dataclasses.dataclass(frozen=True)
class Labels:
    """Label numbers of the records of an index.

    Attributes:
      ids: of the utterances.
      numbers: int32, of all records, one after another.
      starts: [records + 1] int64, where each record's begin.
      there: [records] bool, whether the record has a label at all (it may be empty).
    """

    ids: tuple[str, ...]
    numbers: np.ndarray
    starts: np.ndarray
    there: np.ndarray

    @property
    def counts(self) -> np.ndarray:
        """[records] int64 labels of each."""
        return np.diff(self.starts)

    def of(self, record: int) -> np.ndarray:
        return self.numbers[self.starts[record] : self.starts[record + 1]]

    def frames_needed(self) -> np.ndarray:
        """[records] frames that CTC needs: labels, and one more between two equal ones."""
        repeats = [int((self.of(r)[1:] == self.of(r)[:-1]).sum()) for r in range(len(self.ids))]
        return self.counts + np.array(repeats, np.int64)

    def rows(self, numbers: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
        """Labels [b, width] int32, zero beyond the counts [b] int32; record -1 has none."""
        rows = np.zeros((len(numbers), width), np.int32)
        counts = np.zeros(len(numbers), np.int32)
        for row, record in enumerate(numbers):
            if record >= 0:
                found = self.of(record)
                rows[row, : len(found)] = found
                counts[row] = len(found)
        return rows, counts


def encode(
    index: Index, tokens: Sequence[tuple[str, Tokens | None]], made: Vocabulary
) -> tuple[Labels, Counter[tuple[str, str]]]:
    """Label numbers, and how often each (language, token) has none in the vocabulary.

    Args:
      tokens: id and tokens of each record of ``index``; None where it has no label.
    """
    numbers, unknown = [], Counter()
    for record, (_, sequence) in enumerate(tokens):
        language = index.languages[index.language[record]]
        known, missing = made.encode(sequence or (), language)
        numbers.append(np.array(known, np.int32))
        unknown.update((language, token) for token in missing)
    lengths = np.array([len(part) for part in numbers], np.int64)
    labels = Labels(
        ids=tuple(identity for identity, _ in tokens),
        numbers=np.concatenate([np.zeros(0, np.int32), *numbers]),
        starts=np.concatenate([[0], np.cumsum(lengths)]),
        there=np.array([sequence is not None for _, sequence in tokens], bool),
    )
    return labels, unknown


def encode_frames(
    index: Index,
    tokens: Sequence[tuple[str, Tokens | None]],
    made: Vocabulary,
    window: int,
    hop: int,
) -> Labels:
    """A label for every frame of aligned records: the phone that covers most of its samples.

    wav2vec 2.0 appendix D. Frames that no known phone covers are 0.

    Args:
      tokens: of each record "start:end:symbol", in samples.
      window, hop: samples that a frame sees, and between frames.
    """
    rows = []
    for record, (_, sequence) in enumerate(tokens):
        frames = max((int(index.samples[record]) - window) // hop + 1, 0)
        begins = np.arange(frames) * hop
        most, best = np.zeros(frames, np.int64), np.zeros(frames, np.int32)
        language = index.languages[index.language[record]]
        for token in sequence or ():
            start, end, symbol = token.split(":", 2)
            known, _ = made.encode([symbol], language)
            covered = np.minimum(begins + window, int(end)) - np.maximum(begins, int(start))
            better = covered > most
            most[better] = covered[better]
            best[better] = known[0] if known else 0
        rows.append(best)
    return Labels(
        ids=tuple(identity for identity, _ in tokens),
        numbers=np.concatenate([np.zeros(0, np.int32), *rows]),
        starts=np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64),
        there=np.array([bool(sequence) for _, sequence in tokens], bool),
    )


def make_vocabulary(
    index: Index,
    tokens: Sequence[tuple[str, Tokens | None]],
    config: LabelsConfig,
    chosen: np.ndarray,
) -> Vocabulary:
    """The vocabulary of the ``chosen`` record numbers of a training split.

    Raises:
      CorpusError: where they have no labels.
    """
    unit = "characters" if config.unit == "characters" else "phonemes"
    used = [
        (index.languages[index.language[record]], tokens[record][1] or ()) for record in chosen
    ]
    if config.unit == "aligned":
        used = [(language, [t.split(":", 2)[2] for t in sequence]) for language, sequence in used]
    try:
        return vocabulary.build(used, unit, config.separate)
    except ValueError as error:
        raise CorpusError(f"{index.root}: {error}; transcribed audio is needed here") from error


def load(config: LabelsConfig, index: Index) -> list[tuple[str, Tokens | None]]:
    """Id and tokens of each record of ``index``, None where there is no label.

    Raises:
      CorpusError: a label file that is missing, malformed, or knows none of the utterances.
    """
    if config.file:
        return _from_file(config.file, index)
    folder = storage.at(index.root) / FOLDER / config.unit
    found: list[tuple[str, Tokens | None]] = []
    source = None
    made: dict[str, _Maker] = {}
    for shard in index.shards:
        path = (folder / shard.path).with_suffix(".tsv")
        tokens = _read(path, shard.sha256)
        if tokens is None:
            source = source or _Source(index)
            if shard.language not in made:
                made[shard.language] = _Maker(config.unit, shard.language)
            print(f"labels: {config.unit} of {shard.path}", file=sys.stderr, flush=True)
            tokens = made[shard.language](source.records(shard))
            _write(path, shard.sha256, tokens)
        found += tokens
    if made:
        _remember(folder, config.unit, made)
    return found


class _Source:
    """The records of a shard, in order."""

    def __init__(self, index: Index):
        self._source = records.open_shards(index.root, index.shards)
        ends = np.cumsum([shard.utterances for shard in index.shards])
        begins = ends - [shard.utterances for shard in index.shards]
        self._places = {
            shard.path: range(begin, end)
            for shard, begin, end in zip(index.shards, begins, ends, strict=True)
        }

    def records(self, shard: Shard) -> list[Record]:
        return [Record.from_bytes(self._source[number]) for number in self._places[shard.path]]


class _Maker:
    """Labels of one language's records."""

    def __init__(self, unit: str, language: str):
        self.unit, self.utterances, self.empty, self.facts = unit, 0, 0, {}
        self._phonemizer = None
        if unit == "phonemes":
            from xlsr_jax.text import phonemes

            try:
                self._phonemizer = phonemes.Phonemizer(language)
            except ValueError as error:
                raise CorpusError(
                    f"{error}; give labels made elsewhere in config.labels.file, or set "
                    "config.labels.unit=characters"
                ) from error
            self.facts = phonemes.versions()

    def __call__(self, found: Sequence[Record]) -> list[tuple[str, Tokens]]:
        texts = [record.text for record in found]
        make: Mapping[str, Callable[[], list[Sequence[str]]]] = {
            "recorded": lambda: [record.phonemes.split() for record in found],
            "aligned": lambda: [
                [f"{start}:{end}:{symbol}" for symbol, start, end in record.alignment]
                for record in found
            ],
            "characters": lambda: [vocabulary.characters(text) for text in texts],
            "phonemes": lambda: self._phonemizer.tokens(texts),
        }
        tokens = make[self.unit]()
        self.utterances += len(tokens)
        self.empty += sum(not sequence for sequence in tokens)
        if self._phonemizer is not None:
            self.facts["language switches removed"] = self._phonemizer.switches
        return [(r.id, tuple(t)) for r, t in zip(found, tokens, strict=True)]


def _write(path: Path, sha256: str, tokens: Sequence[tuple[str, Tokens]]) -> None:
    storage.make_folder(path.parent)
    lines = f"{_HEAD}{sha256}\n"
    lines += "".join(f"{identity}\t{' '.join(sequence)}\n" for identity, sequence in tokens)
    records.write_atomically(path, lines.encode())


def _read(path: Path, sha256: str) -> list[tuple[str, Tokens]] | None:
    """The labels of a shard; None where they are missing or those of another shard."""
    if not path.exists():
        return None
    head, *lines = path.read_text(encoding="utf-8").split("\n")
    if head != f"{_HEAD}{sha256}":
        return None
    found = []
    for line in lines:
        if line:
            identity, _, tokens = line.partition("\t")
            found.append((identity, tuple(tokens.split())))
    return found


def _remember(folder: Path, unit: str, made: Mapping[str, _Maker]) -> None:
    path = folder / MANIFEST
    document: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"unit": unit}
    for language, maker in made.items():
        document[language] = {
            "utterances": maker.utterances, "without label": maker.empty, **maker.facts
        }  # fmt: skip
    records.write_atomically(path, json.dumps(document, indent=1, ensure_ascii=False).encode())


def _from_file(name: str, index: Index) -> list[tuple[str, Tokens | None]]:
    path = Path(name)
    if not path.exists():
        raise CorpusError(f"config.labels.file: there is no {name}")
    known: dict[str, Tokens] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        identity, tab, tokens = line.partition("\t")
        if line and not tab:
            raise CorpusError(f"{name} line {number}: id, a tab and tokens are wanted")
        if line:
            known[identity] = tuple(tokens.split())
    source = _Source(index)
    ids = [record.id for shard in index.shards for record in source.records(shard)]
    found = [(identity, known.get(identity)) for identity in ids]
    if not any(tokens is not None for _, tokens in found):
        raise CorpusError(
            f"{name} has labels of {len(known)} utterances, none of them in {index.root}: the "
            f"first is {next(iter(known), 'none')!r} there and {ids[0]!r} here"
        )
    return found
