"""What is written of Common Voice's clips: tables of a release, and lists that papers published.

No audio is opened here. A release has a TSV table for each of its parts (the first of all, of
2017, a CSV) with the columns ``path`` and ``sentence`` (``filename`` and ``text``), whatever else
there is beside them and in whatever order.
"""

import csv
import dataclasses
import functools
import os
import posixpath
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from xlsr_jax.data.records import CorpusError
from xlsr_jax.preparation.archives import ARCHIVES, LONGEST_LINE, Tree

TABLES = {
    "train": ("train.tsv", "cv-valid-train.csv"),
    "dev": ("dev.tsv", "cv-valid-dev.csv"),
    "test": ("test.tsv", "cv-valid-test.csv"),
    "validated": ("validated.tsv", "cv-valid-train.csv", "cv-valid-dev.csv", "cv-valid-test.csv"),
    "other": ("other.tsv", "cv-other-train.csv", "cv-other-dev.csv", "cv-other-test.csv"),
    "invalidated": ("invalidated.tsv", "cv-invalid.csv"),
}
FILES = tuple(dict.fromkeys(file for files in TABLES.values() for file in files))
DURATIONS = ("clip_durations.tsv", "times.txt")  # the latter for one release, 14
AUDIO = (".mp3", ".wav", ".flac", ".ogg", ".opus")

_CODE = "(?!cv-)[a-z]{2,3}(?:-[A-Za-z0-9]+)*"  # cv-corpus-1 is no kind of Chuvash
_COLUMNS = {  # ours: theirs
    ".tsv": {"path": "path", "text": "sentence", "speaker": "client_id", "locale": "locale"},
    ".csv": {"path": "filename", "text": "text"},
}
_LISTS = re.compile("(train|valid|val|dev|test)(?![a-z])")  # trainSeqs_1.0.txt, not validated.txt


class Row(NamedTuple):
    """A line of a table or list.

    Attributes:
      where: "es/train.tsv:7".
      clip: path of the audio below the release's folder; "" where the line has none.
      fault: why the line is of no use; "" where it is.
    """

    where: str
    clip: str = ""
    text: str = ""
    speaker: str = ""
    locale: str = ""
    fault: str = ""


class Clip(NamedTuple):
    """What is known of a clip before it is opened."""

    text: str
    speaker: str
    seconds: float


@dataclasses.dataclass(frozen=True)
class Release:
    """One language of a release.

    Attributes:
      prefix: of its files' names in the tree; "" or ends in "/".
      language: the locale.
      first, last: the places in ``tree.names`` between which its files lie.
    """

    tree: Tree
    prefix: str
    language: str
    first: int
    last: int

    def names(self) -> Iterator[str]:
        """The names between the first and the last file, in the tree's order."""
        return (self.tree.names[place] for place in range(self.first, self.last + 1))

    def has(self, table: str) -> bool:
        """Whether there is a file of a table of ``TABLES``."""
        return any(self.prefix + file in self.tree for file in TABLES[table])

    def rows(self, table: str) -> Iterator[Row]:
        """The lines of a table's files that are there."""
        for file in TABLES[table]:
            if self.prefix + file in self.tree:
                yield from _rows(self.tree, self.prefix, file, self.language)

    def seconds(self) -> Iterator[tuple[str, float]]:
        """(clip, length in seconds) as far as the release states it."""
        for file in DURATIONS:
            if self.prefix + file in self.tree:
                for _, line in self.tree.lines(self.prefix + file):
                    found = re.match(r"(\S+)\s+(\d{1,12})\b", line or "")
                    if found:  # neither the header nor damaged
                        yield _clip(found[1]), int(found[2]) / 1000

    @functools.cached_property
    def refused(self) -> dict[str, str]:
        """Reasons by file name for clips that the archive's reading did not take."""
        return {
            posixpath.basename(name): reason
            for name, reason in self.tree.refused
            if name.lower().endswith(AUDIO)
        }


def releases(tree: Tree) -> list[Release]:
    """The languages of a source, by the places of their tables.

    The language is what the tables' column ``locale`` says; in releases without it, what the
    names of the clips say, else the name of the folder, else that of the archive.

    Raises:
      CorpusError: where nothing tells the language, or a table lacks a column.
    """
    tables, spans = {}, {}
    for place, name in enumerate(tree.names):
        folder, _, file = name.rpartition("/")
        spans[folder] = spans.get(folder, (place,))[0], place
        if file in FILES:
            tables[folder] = None
    found = []
    for folder in tables:
        prefix = f"{folder}/" if folder else ""
        inside = [span for at, span in spans.items() if f"{at}/".startswith(prefix) or not prefix]
        first, last = min(span[0] for span in inside), max(span[1] for span in inside)
        found.append(Release(tree, prefix, _language(tree, prefix), first, last))
    return found


def clip_id(clip: str) -> str:
    """The id of a clip: its file name less its suffix, in the release of 2017 with its folder."""
    folder, file = clip.split("/")[-2:]
    stem = posixpath.splitext(file)[0]
    return stem if folder == "clips" else f"{folder}/{stem}"


def label(release: Release, wanted: dict[str, Clip]) -> None:
    """Gives listed clips what the tables say of them, be they in whichever."""
    unknown = set(wanted)
    for table in ("validated", "train", "dev", "test", "invalidated", "other"):
        for row in release.rows(table) if unknown else ():
            if row.clip in unknown and not row.fault:
                unknown.discard(row.clip)
                wanted[row.clip] = Clip(row.text, row.speaker, 0.0)


def code_in(name: str) -> str:
    """The language that the name of an archive or folder tells, as es.tar.gz; "" for none."""
    suffix = next((suffix for suffix in ARCHIVES if name.lower().endswith(suffix)), "")
    found = re.search(rf"(?:^|\d{{4}}-\d\d-\d\d-)({_CODE})$", name[: len(name) - len(suffix)])
    return found[1] if found else ""


def fits(asked: str, language: str) -> bool:
    """Whether a language is meant by a name of it, as sv-SE is by sv."""
    return language == asked or language.split("-")[0] == asked


def lists_in(folder: str) -> tuple[tuple[str, str], ...]:
    """(language, file) of each list in ``folder``: <language>/train.text, <language>/val.text.

    Raises:
      CorpusError: no list.
    """
    paths = sorted(path for kind in ("text", "txt") for path in Path(folder).glob(f"*/*.{kind}"))
    found = tuple((path.parent.name, str(path)) for path in paths if _LISTS.match(path.name))
    if not found:
        raise CorpusError(f"{folder} has no list such as sv/train.text or sv/val.text")
    return found


def list_split(file: str) -> str:
    """The split that a list's file name tells.

    Raises:
      CorpusError: it tells none.
    """
    found = _LISTS.match(os.path.basename(file))
    if not found:
        raise CorpusError(f"list {file} tells no split; have its name begin with train, val, test")
    return {"val": "valid", "dev": "valid"}.get(found[1], found[1])


def list_rows(file: str, language: str) -> Iterator[Row]:
    """The lines of a list: a clip's id, after a tab its sentence or nothing."""
    folder, name = os.path.split(file)
    for number, line in Tree(folder or ".", (name,)).lines(name):
        where = f"{language}/{name}:{number}"
        if line is None:
            yield Row(where, fault=f"malformed row: over {LONGEST_LINE} characters")
        elif line.strip():
            clip, _, text = line.partition("\t")
            clip = _clip((clip.split() or [""])[0])
            yield Row(where, clip, text.strip(), fault="" if clip else "malformed row: no clip")


def _rows(tree: Tree, prefix: str, file: str, language: str = "") -> Iterator[Row]:
    suffix = posixpath.splitext(file)[1]
    places: dict[str, int] = {}
    for number, line in tree.lines(prefix + file):
        where = f"{language}/{file}:{number}"
        if line is not None and not line.strip(" "):
            continue
        cells = _cells(line, suffix)
        if not places:
            names = [cell.strip().lower() for cell in cells or ()]
            columns = _COLUMNS[suffix].items()
            places = {ours: names.index(theirs) for ours, theirs in columns if theirs in names}
            if not {"path", "text"} <= set(places):
                lacking = " and ".join(_COLUMNS[suffix][name] for name in ("path", "text"))
                said = ", ".join(names)[:200] or "nothing"
                raise CorpusError(
                    f"{prefix}{file} of {tree.source} must have columns {lacking}; its first line "
                    f"names {said}; is it of Common Voice?"
                )
            width = len(names)
        elif cells is None:
            yield Row(where, fault=f"malformed row: over {LONGEST_LINE} characters, or bad quotes")
        else:
            row = {name: cells[at].strip() for name, at in places.items() if at < len(cells)}
            path = row.get("path", "")
            clip = _clip(path) if suffix == ".tsv" else _clip_of_2017(tree, prefix, path)
            fault = "" if clip else "malformed row: no clip"
            if "text" not in row or len(cells) > width:  # of trailing tabs some editors make none
                fault = f"malformed row: {len(cells)} of {width} columns"
            yield Row(
                where, clip, row.get("text", ""), _speaker(row.get("speaker", "")),
                row.get("locale", ""), fault,
            )  # fmt: skip


def _cells(line: str | None, suffix: str) -> list[str] | None:
    if line is None:
        return None
    if suffix == ".tsv":
        return line.split("\t")  # quotes are text there
    try:
        return next(csv.reader([line]))
    except csv.Error:
        return None


def _clip(path: str) -> str:
    """Where a clip lies, of what tables and lists call it: with a suffix, a folder, or without."""
    file = posixpath.basename(path.strip())
    return f"clips/{file if file.lower().endswith(AUDIO) else f'{file}.mp3'}" if file else ""


def _clip_of_2017(tree: Tree, prefix: str, path: str) -> str:
    """``cv-valid-train/sample-000000.mp3``; in a copy on the net with its folder twice."""
    folder, _, file = posixpath.normpath(path).rpartition("/")
    if not folder or not file or folder.startswith((".", "/")):
        return ""
    twice = f"{folder}/{folder}/{file}"
    return twice if prefix + twice in tree else f"{folder}/{file}"


def _speaker(client: str) -> str:
    short = client[:16] if re.fullmatch("[0-9a-f]{16,}", client) else client
    return sys.intern(short)  # one string for all clips of a speaker


def _language(tree: Tree, prefix: str) -> str:
    for file in FILES:
        if prefix + file not in tree:
            continue
        if file.endswith(".csv"):
            return "en"  # the release of 2017 had no other
        row = next((row for row in _rows(tree, prefix, file) if not row.fault), None)
        if row is not None:
            named = re.match(rf"clips/common_voice_({_CODE})_\d+\.", row.clip)
            found = row.locale if re.fullmatch(_CODE, row.locale) else named and named[1]
            if found:
                return found
    names = [*reversed(prefix.split("/")), os.path.basename(os.path.abspath(tree.source))]
    found = next(filter(None, map(code_in, names)), "")
    if not found:
        raise CorpusError(
            f"nothing tells the language of {prefix or 'the tables'} in {tree.source}; keep them "
            "in a folder named by its code, such as es"
        )
    return found
