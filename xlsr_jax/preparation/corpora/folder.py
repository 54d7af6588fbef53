"""Any tree of audio files, a folder or an archive, with or without a table of metadata.

Without metadata every audio file below the source is one utterance, its id is its path, and its
language is the option ``language`` or else the first folder of the path (``es/clips/1.mp3`` is
Spanish). With metadata, the rows are the utterances.

The split of an utterance is, in this order: the metadata's column, the option ``split``, or a
draw from the SHA-256 of its id in proportion to ``split_shares``, which depends on nothing else.
"""

import argparse
import csv
import dataclasses
import functools
import hashlib
import json
import os
import posixpath
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from xlsr_jax.data import audio
from xlsr_jax.data.records import CorpusError, sha256
from xlsr_jax.preparation.archives import Tree, open_source
from xlsr_jax.preparation.corpora.base import Utterance, refused

SUFFIXES = (".wav", ".flac", ".mp3", ".ogg", ".opus")
COLUMNS = ("id", "path", "language", "text", "speaker", "split")
SPLITS = ("train", "valid", "test")


@dataclasses.dataclass(frozen=True)
class Folder:
    """Reader of a folder; see the module's docstring for the rules.

    Attributes:
      source: the folder or archive that holds the audio.
      metadata: a .tsv, .csv or .jsonl file with a column ``path`` (below ``source``) and any of
        id, language, text, speaker, split; "" for none.
      columns: (ours, theirs) pairs where the metadata names a column otherwise, such as
        ("text", "sentence") for Common Voice.
      language, split: for utterances whose metadata says neither.
      split_shares: of train, valid and test, in any unit.
      max_seconds: longer files are set aside.
    """

    source: str
    metadata: str = ""
    columns: tuple[tuple[str, str], ...] = ()
    language: str = ""
    split: str = ""
    split_shares: tuple[float, float, float] = (98.0, 1.0, 1.0)
    max_seconds: float = 600.0
    name: str = "folder"

    def splits(self) -> Sequence[str]:
        return self._splits

    def utterances(self, split: str) -> Iterator[Utterance]:
        return (utterance for place, utterance in self._listed() if place == split)

    def fingerprint(self) -> Mapping[str, str]:
        """Options, the metadata's checksum, and the names and sizes of all files (not contents)."""
        return {
            "metadata": sha256(self.metadata) if self.metadata else "none",
            "columns": " ".join(f"{ours}={theirs}" for ours, theirs in self.columns) or "as named",
            "language": self.language or "by utterance",
            "split": self.split or "by utterance, else " + "/".join(map(str, self.split_shares)),
            "max_seconds": str(self.max_seconds),
            "files": self._tree.described(_is_audio),
        }

    @functools.cached_property
    def _splits(self) -> Sequence[str]:
        found = {split for split, _ in self._listed()}
        if not found:
            where = self.metadata or f"{self.source} (looked for {' '.join(SUFFIXES)})"
            raise CorpusError(f"no utterances in {where}")
        known = {split: number for number, split in enumerate(SPLITS)}
        return sorted(found, key=lambda split: (known.get(split, len(SPLITS)), split))

    def _listed(self) -> Iterator[tuple[str, Utterance]]:
        """(split, utterance) of all that there is."""
        tree = self._tree
        if len(self.split_shares) != 3 or min(self.split_shares) < 0 or sum(self.split_shares) <= 0:
            raise CorpusError(f"split shares {self.split_shares} must be three numbers (train, "
                              "valid, test), none negative, not all 0")
        files = ((name, {"path": name}) for name in tree.names if _is_audio(name))
        rows = _rows(self.metadata, dict(self.columns)) if self.metadata else files
        try:
            listed = (self._utterance(where, row) for where, row in rows)
            if self.metadata and not os.path.isdir(self.source):  # an archive streams in its order
                listed = iter(sorted(listed, key=_number))
            yield from listed
        except (UnicodeDecodeError, csv.Error) as error:
            raise CorpusError(f"{self.metadata} cannot be read as UTF-8 text: {error}") from error
        if not self.metadata:
            for name, reason in tree.refused:
                if _is_audio(name):
                    yield self._place("", Utterance(name, self.language or "und", refused(reason)))

    @functools.cached_property
    def _tree(self) -> Tree:
        return open_source(self.source)

    def _audio(self, path: str) -> dict[str, Any]:
        if not os.path.isdir(self.source) and path not in self._tree:
            return {"load": refused("file is missing")}
        return self._tree.audio(path, functools.partial(audio.decode, max_seconds=self.max_seconds))

    def _utterance(self, where: str, row: Mapping[str, str]) -> tuple[str, Utterance]:
        path = _inside(self.source, row["path"], where)
        identity = row.get("id") or path
        language = row.get("language") or self.language
        if not language and not self.metadata and "/" in path:
            language = path.split("/")[0]
        if not language:
            raise CorpusError(f"{where} has no language; name one for all with --language, add a "
                              "metadata column, or keep the files in a folder for each language")
        utterance = Utterance(
            id=identity,
            language=language,
            **self._audio(path),
            text=row.get("text") or "",
            speaker=row.get("speaker") or "",
        )
        return self._place(row.get("split"), utterance)

    def _place(self, split: str | None, utterance: Utterance) -> tuple[str, Utterance]:
        return split or self.split or _drawn_split(utterance.id, self.split_shares), utterance


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The command line's options of this reader."""
    add = parser.add_argument
    add("--source", required=True, help="folder of WAV, FLAC, MP3 and OGG files, or .tar.gz")
    add("--metadata", default="",
        help=".tsv, .csv or .jsonl with columns path, id, language, text, speaker, split")
    add("--column", action="append", default=[], metavar="OURS=THEIRS",
        help="another column name in the metadata, such as text=sentence; may be repeated")
    add("--language", default="", help="for files without one; default the first folder's name")
    add("--split", default="", help="for files without one; default drawn from the id")
    add("--split-shares", type=float, nargs=3, default=(98, 1, 1),
        metavar=("TRAIN", "VALID", "TEST"), help="of that draw; default 98 1 1")
    add("--max-file-seconds", type=float, default=600.0,
        help="longer files are set aside unread; default %(default)g")  # fmt: skip
    add("--name", default="folder", help="corpus name in the manifest")


def from_flags(options: argparse.Namespace) -> Folder:
    """The reader that the command line asks for."""
    for column in options.column:
        if column.count("=") != 1:
            raise CorpusError(f"--column {column} must be OURS=THEIRS, such as text=sentence")
    return Folder(
        source=options.source,
        metadata=options.metadata,
        columns=tuple(tuple(column.split("=")) for column in options.column),
        language=options.language,
        split=options.split,
        split_shares=tuple(float(share) for share in options.split_shares),
        max_seconds=options.max_file_seconds,
        name=options.name,
    )


def _number(listed: tuple[str, Utterance]) -> int:
    member = listed[1].member
    return -1 if member is None else member.number


def _is_audio(name: str) -> bool:
    return name.lower().endswith(SUFFIXES)


def _drawn_split(identity: str, shares: Sequence[float]) -> str:
    digest = hashlib.sha256(identity.encode()).digest()
    point = int.from_bytes(digest[:8], "big") / 2**64 * sum(shares)
    for split, share in zip(SPLITS, shares, strict=True):
        if point < share:
            return split
        point -= share
    return SPLITS[0]


def _inside(source: str, path: str, where: str) -> str:
    """``path`` relative to ``source`` with "/", refused where it leads out of it.

    A rule about names: links that the owner of the folder put into it may point anywhere.
    """
    relative = os.path.relpath(path, os.path.abspath(source)) if os.path.isabs(path) else path
    relative = posixpath.normpath(relative.replace(os.sep, "/"))
    if relative == ".." or relative.startswith("../") or relative == ".":
        raise CorpusError(f"{where}: path {path!r} leads out of the source folder {source}; "
                          "correct it, or give a --source that holds it")
    return relative


def _rows(metadata: str, columns: Mapping[str, str]) -> Iterator[tuple[str, dict[str, str]]]:
    """("file, line 7", row) of a table, with our column names and only those.

    TSV is split at tabs alone, quotes being text there (as in Common Voice); CSV has quotes.
    """
    unknown = sorted(set(columns) - set(COLUMNS))
    if unknown:
        raise CorpusError(f"cannot rename column {unknown[0]!r}; ours are {', '.join(COLUMNS)}")
    names = {ours: columns.get(ours, ours) for ours in COLUMNS}
    suffix = Path(metadata).suffix.lower()
    if suffix not in (".tsv", ".csv", ".jsonl"):
        raise CorpusError(f"metadata {metadata} must end in .tsv, .csv or .jsonl")
    if not os.path.isfile(metadata):
        raise CorpusError(f"no metadata file {metadata}")
    with open(metadata, encoding="utf-8-sig", newline="") as file:
        if suffix == ".jsonl":
            rows = _json_lines(file, metadata)
        else:
            style = {"delimiter": "\t", "quoting": csv.QUOTE_NONE} if suffix == ".tsv" else {}
            reader = csv.DictReader(file, **style)
            lacking = [name for name in ("path", *columns) if names[name] not in
                       (reader.fieldnames or ())]
            if lacking:
                raise CorpusError(f"{metadata} has no column {names[lacking[0]]!r}; its first line "
                                  f"names {', '.join(reader.fieldnames or ['nothing'])}")
            rows = ((reader.line_num, row) for row in reader)
        for line, row in rows:
            where = f"{metadata}, line {line}"
            if not row.get(names["path"]):
                raise CorpusError(f"{where} has no {names['path']}")
            values = {ours: row.get(theirs) for ours, theirs in names.items()}
            yield where, {ours: str(value) for ours, value in values.items() if value is not None}


def _json_lines(file: Iterator[str], metadata: str) -> Iterator[tuple[int, dict[str, object]]]:
    for line, text in enumerate(file, start=1):
        if not text.strip():
            continue
        try:
            row = json.loads(text)
        except ValueError as error:
            raise CorpusError(f"{metadata}, line {line} is no JSON: {error}") from error
        if not isinstance(row, dict):
            raise CorpusError(f"{metadata}, line {line} is no JSON object")
        yield line, row
