"""Parquet files as the Hugging Face hub has them, with the audio in a column.

    python -m xlsr_jax.prepare parquet --source common_voice_es --language es --output corpora/es
    python -m xlsr_jax.prepare parquet --source librispeech_asr --language en \\
        --splits train.clean.100 validation.clean --split-as train.clean.100=train \\
        --split-as validation.clean=valid --output corpora/librispeech_100h

The source is a folder with .parquet files at any depth, and pyarrow reads it (pip install
xlsr_jax[parquet]). Splits are read off the files' names (data/train-00000-of-00002.parquet,
es/train.parquet), or off the folders of numbered files (es/partial-train/0000.parquet). The splits
validation, val and dev become valid, others keep their names; --split-as gives one another.

Columns are found by name (see --column). Audio is a struct of bytes and path, as the library
``datasets`` writes it, with files of any encoding that libsndfile reads; or a struct of array, in
[-1, 1], and sampling_rate; or bytes; or paths of files below the source. The id is the column id,
where it is text (numbers tend to be those of the sentences), or path or file, or the audio's own
path, or else the file and the row: --column id= takes that for all. The language is --language, or
the row's, or the name of a folder that looks like a code (es, sv-SE, af_za).

Set aside: rows without audio, or with the path of a file that is not there; rows without language.
Memory takes one row group, 100 rows as the hub writes them.
"""

import argparse
import dataclasses
import functools
import hashlib
import json
import os
import posixpath
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from xlsr_jax.data import audio
from xlsr_jax.data.records import CorpusError
from xlsr_jax.data.speech import Speech, UnreadableAudio
from xlsr_jax.preparation.archives import open_source
from xlsr_jax.preparation.corpora import embedded
from xlsr_jax.preparation.corpora.base import Utterance, refused
from xlsr_jax.preparation.corpora.embedded import Rules

SUFFIX = ".parquet"
LFS = b"version https://git-lfs"  # how a file begins that git has not fetched
_NUMBER = re.compile(r"(-\d{5}-of-\d{5}(-[0-9a-f]{16})?|[-_]?\d{4,})$")
_SPLIT = re.compile(r"(?:.*-)?((?:train|validation|valid|val|dev|test)(?:[._].*)?)")


@dataclasses.dataclass(frozen=True)
class Parquet:
    """Reader of Parquet files; see the module's docstring for the rules."""

    source: str
    rules: Rules = Rules()
    name: str = "parquet"

    def splits(self) -> Sequence[str]:
        return list(dict.fromkeys(self.rules.split(theirs) for theirs in self._files))

    def utterances(self, split: str) -> Iterator[Utterance]:
        for theirs, names in self._files.items():
            if self.rules.split(theirs) == split:
                for name in names:
                    yield from self._listed(name)

    def fingerprint(self) -> Mapping[str, str]:
        """Options, and the names and sizes of the files."""
        files = hashlib.sha256()
        for name in (name for names in self._files.values() for name in names):
            size = os.path.getsize(os.path.join(self.source, name))
            files.update(f"{name}\t{size}\n".encode())
        return {**self.rules.described(), "source": f"folder (sha256 {files.hexdigest()})"}

    @functools.cached_property
    def _files(self) -> dict[str, list[str]]:
        """{their split: names below the source}, of those to take."""
        if not os.path.isdir(self.source):
            raise CorpusError(
                f"{self.source} is no folder; give one with {SUFFIX} files, archives unpacked"
            )
        names = [name for name in open_source(self.source).names if name.endswith(SUFFIX)]
        if not names:
            raise CorpusError(f"{self.source} has no {SUFFIX} files")
        found: dict[str, list[str]] = {}
        for name in names:
            found.setdefault(_split_of(name), []).append(name)
        return {split: found[split] for split in self.rules.taken(found, self.source)}

    def _listed(self, name: str) -> Iterator[Utterance]:
        path = os.path.join(self.source, name)
        file = _open(path)
        classes = _classes(file.schema_arrow)
        columns = self.rules.chosen(_kinds(file.schema_arrow, classes), name)
        language = self.rules.language or _language_of(name)
        if not language and not columns["language"]:
            raise CorpusError(
                f"{name} names no language; give --language, or the column that has "
                "it with --column language="
            )
        wanted = [column for ours, column in columns.items() if column and ours != "audio"]
        inner = f"{columns['audio']}.path"
        if inner in (file.schema.column(leaf).path for leaf in range(len(file.schema))):
            wanted.append(inner)
        number = -1
        for group in range(file.num_row_groups):
            for row, values in enumerate(_rows(file, path, group, wanted)):
                number += 1
                for column, names in classes.items():
                    if isinstance(index := values.get(column), int):
                        values[column] = names[index] if 0 <= index < len(names) else None
                said = self.rules.language or embedded.label(values, columns["language"])
                load = functools.partial(
                    _load, self.source, path, group, row, columns["audio"], self.rules.max_seconds
                )
                yield Utterance(
                    id=self._identity(values, columns) or f"{name}:{number}",
                    language=said or language or embedded.UNKNOWN,
                    load=load if said or language else refused("no language"),
                    text=embedded.label(values, columns["text"]),
                    speaker=embedded.label(values, columns["speaker"]),
                )

    def _identity(self, row: Mapping[str, Any], columns: Mapping[str, str]) -> str:
        inner = row.get(columns["audio"])
        if isinstance(inner, dict) and ("id", "") not in self.rules.columns:
            return embedded.label(row, columns["id"]) or inner.get("path") or ""
        return embedded.label(row, columns["id"])


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The command line's options of this reader."""
    parser.add_argument("--source", required=True, help=f"folder with {SUFFIX} files")
    embedded.add_flags(parser, "parquet")


def from_flags(options: argparse.Namespace) -> Parquet:
    """The reader that the command line asks for."""
    return Parquet(options.source, embedded.from_flags(options), options.name)


def _split_of(name: str) -> str:
    """Their split of a file, see the module's docstring."""
    stem = posixpath.basename(name).removesuffix(SUFFIX)
    bare = _NUMBER.sub("", stem) or posixpath.basename(posixpath.dirname(name))
    known = _SPLIT.fullmatch(bare)
    return known[1] if known else bare or "train"


def _language_of(name: str) -> str:
    """The innermost folder that looks like a language code, else ""."""
    for folder in reversed(name.split("/")[:-1]):
        if embedded.looks_like_a_code(folder):
            return folder
    return ""


def _open(path: str) -> Any:
    import pyarrow
    from pyarrow.parquet import ParquetFile

    try:
        return ParquetFile(path)
    except (OSError, pyarrow.ArrowException) as error:
        with open(path, "rb") as file:
            if file.read(len(LFS)) == LFS:
                raise CorpusError(
                    f"{path} is what git keeps in place of the file; run git lfs pull in its folder"
                ) from error
        raise CorpusError(
            f"{path} is damaged or truncated ({_line(error)}); download it again"
        ) from error


def _rows(file: Any, path: str, group: int, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The rows of a row group, without the audio's bytes, which are not read."""
    import pyarrow

    if not columns:
        yield from ({} for _ in range(file.metadata.row_group(group).num_rows))
        return
    try:
        table = file.read_row_group(group, columns=list(columns))
    except (OSError, pyarrow.ArrowException) as error:
        raise CorpusError(f"{path} is damaged ({_line(error)}); download it again") from error
    yield from table.to_pylist()


def _classes(schema: Any) -> dict[str, list[str]]:
    """{column: names} of columns that hold numbers of classes, from what ``datasets`` notes."""
    return {
        column: feature["names"]
        for column, feature in _features(schema).items()
        if feature.get("_type") == "ClassLabel" and feature.get("names")
    }


def _features(schema: Any) -> dict[str, dict[str, Any]]:
    try:
        noted = json.loads((schema.metadata or {})[b"huggingface"])
        features = noted["info"]["features"]
        return {column: it for column, it in features.items() if isinstance(it, dict)}
    except (KeyError, ValueError, TypeError, AttributeError):
        return {}


def _kinds(schema: Any, classes: Mapping[str, Any]) -> dict[str, str]:
    """{column: kind}, as ``Rules.chosen`` takes it."""
    from pyarrow import types

    kinds, features = {}, _features(schema)
    for field in schema:
        text = types.is_string(field.type) or types.is_large_string(field.type)
        kinds[field.name] = "text" if text or field.name in classes else "other"
        if features.get(field.name, {}).get("_type") == "Audio":
            kinds[field.name] = "audio"
    return kinds


def _load(source: str, path: str, group: int, row: int, column: str, max_seconds: float) -> Speech:
    """The audio of a row."""
    value = _audio_column(path, group, column)[row].as_py()
    if isinstance(value, dict) and value.get("bytes") is None:
        if value.get("array") is not None:
            waveform = np.asarray(value["array"], np.float32)
            embedded.check_length(len(waveform), value["sampling_rate"], max_seconds)
            return Speech(waveform, value["sampling_rate"])
        value = value.get("path")
    elif isinstance(value, dict):
        value = value["bytes"]
    if value is None:
        raise UnreadableAudio("row without audio")
    if isinstance(value, bytes):
        return embedded.decode(value, max_seconds)
    return audio.decode(_beside(source, path, value), max_seconds)


@functools.lru_cache(maxsize=1)  # utterances come in order
def _audio_column(path: str, group: int, column: str) -> Any:
    import pyarrow
    from pyarrow.parquet import ParquetFile

    try:
        with ParquetFile(path) as file:
            return file.read_row_group(group, columns=[column], use_threads=False).column(0)
    except FileNotFoundError as error:
        raise UnreadableAudio("file is missing") from error
    except (OSError, pyarrow.ArrowException) as error:
        raise UnreadableAudio(f"damaged Parquet file: {_line(error)}") from error


def _beside(source: str, path: str, named: str) -> str:
    """Where a file lies that a row names: below the source, or else beside its Parquet file.

    Names that lead out of the source are refused: a table from elsewhere must open nothing else.
    """
    inside = posixpath.normpath(named.replace(os.sep, "/"))
    if posixpath.isabs(inside) or inside == ".." or inside.startswith("../"):
        raise UnreadableAudio(f"audio is not in the table: its path {named!r} leads elsewhere")
    places = (os.path.join(folder, inside) for folder in (source, os.path.dirname(path)))
    found = next((place for place in places if os.path.isfile(place)), None)
    if found is None:
        raise UnreadableAudio(f"file is missing: {named}")
    return found


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
