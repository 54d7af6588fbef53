"""Common Voice, any release: as downloaded (an archive a language), unpacked, or a folder of such.

Splits: the tables train, dev and test are the splits train, valid and test; validated, other and
invalidated, where asked for, are splits of these names. With --pretraining, train is all that is
validated less what dev.tsv and test.tsv list. With lists, which hold the ids of clips (as papers
published them for few-shot training), the splits are the lists: train, valid (from val or dev) and
test. A clip is in one split: of those chosen that list it, the first of test, valid, train,
validated, other, invalidated.

Of a record, the id is the clip's file name without .mp3, the language the locale (sv-SE), the text
the sentence, the speaker the first 16 hex digits of client_id. What is listed and lacks its clip,
and rows that cannot be read, are set aside. The first release, of 2017, English and CSV, is read
too; its ids have their folder before them, as file names repeat there, and it tells no speakers.
"""

import argparse
import dataclasses
import functools
import os
from collections.abc import Iterator, Mapping, Sequence

from xlsr_jax.data import audio
from xlsr_jax.data.records import CorpusError, Manifest, sha256
from xlsr_jax.preparation.archives import ARCHIVES, Tree, is_archive, open_source
from xlsr_jax.preparation.corpora.base import Utterance, refused
from xlsr_jax.preparation.corpora.common_voice_lists import (
    AUDIO,
    TABLES,
    Clip,
    Release,
    Row,
    clip_id,
    code_in,
    fits,
    label,
    list_rows,
    list_split,
    lists_in,
    releases,
)

SPLITS = {"train": "train", "valid": "dev", "test": "test"} | {
    name: name for name in ("validated", "other", "invalidated")
}  # split: table
PRECEDENCE = ("test", "valid", "train", "validated", "other", "invalidated")


@dataclasses.dataclass(frozen=True)
class CommonVoice:
    """Corpus reader (``base.Corpus``); see the module's docstring for the rules.

    Attributes:
      source: an archive, an unpacked one, or a folder of archives and unpacked ones.
      tables: of ``common_voice_lists.TABLES``, those to be splits.
      pretraining: make the split train of validated.tsv.
      languages: locales, or what stands before the hyphen ("sv" for sv-SE); () for all.
      lists: (language, file) pairs; the file's name begins with train, val, valid, dev or test.
        Where there are any they make the splits.
      max_seconds: longer clips are set aside.
    """

    source: str
    tables: tuple[str, ...] = ("train", "dev", "test")
    pretraining: bool = False
    languages: tuple[str, ...] = ()
    lists: tuple[tuple[str, str], ...] = ()
    max_seconds: float = 600.0
    name: str = "common_voice"

    def __getstate__(self) -> dict[str, object]:
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    def splits(self) -> Sequence[str]:
        if self.lists:
            found = {split for _, split in self._lists}
            return tuple(split for split in SPLITS if split in found)
        asked = [split for split, table in SPLITS.items() if table in self.tables]
        found = [s for s in asked if any(r.has(self._table(s)) for r in self._releases)]
        if not found:
            names = ", ".join(f"{self._table(split)}.tsv" for split in asked)
            raise CorpusError(f"{self.source} has no {names}; name other tables with --splits")
        return tuple(found)

    def utterances(self, split: str) -> Iterator[Utterance]:
        load = functools.partial(audio.decode, max_seconds=self.max_seconds)
        for release in self._releases:
            language = release.language
            wanted, aside = self._wanted(release, split)
            for name in release.names() if wanted else ():
                clip = name.removeprefix(release.prefix)
                about = wanted.pop(clip, None)
                if about is not None:
                    yield Utterance(
                        clip_id(clip), language, text=about.text, speaker=about.speaker,
                        seconds=about.seconds, **release.tree.audio(name, load),
                    )  # fmt: skip
            for clip, about in wanted.items():
                reason = refused(_missing(release, clip))
                yield Utterance(clip_id(clip), language, reason, about.text, about.speaker)
            for identity, reason in aside.items():
                yield Utterance(identity, language, refused(reason))
        if split == self.splits()[0]:
            yield from self._strays()

    def fingerprint(self) -> Mapping[str, str]:
        """Options, the lists' checksums, and of the source names and sizes (not contents)."""
        lists = {f"list {language} {list_split(file)}": sha256(file)
                 for language, file in self.lists}  # fmt: skip
        return {
            "source": self._trees[0].described(_counts),
            "tables": "as listed" if self.lists else " ".join(sorted(self.tables)),
            "pretraining": str(self.pretraining),
            "languages": " ".join(sorted(self.languages)) or "all",
            "max_seconds": str(self.max_seconds),
            **lists,
        }

    def notes(self, _: Manifest | None = None) -> Sequence[str]:
        """What a person should know: tables that are not there, and how much of lists is."""
        lines = []
        for release in self._releases:
            for split in self.splits():
                table = self._table(split)
                if not self.lists and not release.has(table):
                    lines.append(f"{release.language} has no {table}.tsv")
                wanted, _ = self._wanted(release, split)
                found = sum(release.prefix + clip in release.tree for clip in wanted)
                if wanted and (self.lists or found < len(wanted)):
                    lines.append(
                        f"{release.language} {split}: {found} of {len(wanted)} listed clips found "
                        f"({100 * found / len(wanted):.1f} %)"
                    )
        languages = [release.language for release in self._releases]
        asked = sorted({language for language, _ in self.lists})
        unused = [name for name in asked if not any(fits(name, n) for n in languages)]
        if unused:
            lines.append(f"no clips for the lists of {', '.join(unused)}")
        return tuple(lines)

    def _table(self, split: str) -> str:
        return "validated" if self.pretraining and split == "train" else SPLITS[split]

    def _wanted(self, release: Release, split: str) -> tuple[dict[str, Clip], dict[str, str]]:
        """Clips of a split by their paths, and {id: reason} of rows that are set aside."""
        chosen = {*self.splits(), *(("test", "valid") if self.pretraining else ())}
        before = [s for s in PRECEDENCE[: PRECEDENCE.index(split)] if s in chosen]
        taken = {row.clip for other in before for row in self._rows(release, other)}
        wanted: dict[str, Clip] = {}
        aside: dict[str, str] = {}
        for row in self._rows(release, split):
            identity = clip_id(row.clip) if row.clip else row.where
            if row.clip and row.clip in taken:
                continue
            if row.clip in wanted or identity in aside:
                aside[row.where] = f"clip listed twice: {row.clip}"
            elif row.fault:
                aside[identity] = row.fault
            else:
                wanted[row.clip] = Clip(row.text, row.speaker, 0.0)
        if self.lists and wanted:
            label(release, wanted)
        for clip, seconds in release.seconds() if wanted else ():
            if clip in wanted:
                wanted[clip] = wanted[clip]._replace(seconds=seconds)
        return wanted, aside

    def _rows(self, release: Release, split: str) -> Iterator[Row]:
        if not self.lists:
            return release.rows(self._table(split))
        file = self._lists.get((release.language, split))
        return list_rows(file, release.language) if file else iter(())

    def _strays(self) -> Iterator[Utterance]:
        """Audio that the archives' reading refused and that no row of a table calls missing."""
        top = self.source if os.path.isdir(self.source) else os.path.dirname(self.source)
        for tree in self._trees:
            here = [release for release in self._releases if release.tree is tree]
            audio_names = {n: reason for n, reason in tree.refused if n.lower().endswith(AUDIO)}
            if not here or not audio_names:
                continue
            listed = ((r.prefix, row.clip) for r in here for t in TABLES for row in r.rows(t))
            missing = {os.path.basename(clip) for at, clip in listed if at + clip not in tree}
            for name, reason in audio_names.items():
                if os.path.basename(name) not in missing:
                    identity = f"{os.path.relpath(tree.source, top or '.')}/{name}"
                    yield Utterance(identity, here[0].language, refused(reason))

    @functools.cached_property
    def _trees(self) -> tuple[Tree, ...]:
        """The source itself, and the archives in it that may hold what is asked for."""
        tree = open_source(self.source)
        inside = [name for name in tree.names if is_archive(name)]
        archives = [name for name in inside if self._asked(code_in(os.path.basename(name)))]
        return tree, *(open_source(os.path.join(self.source, name)) for name in archives)

    def _asked(self, language: str) -> bool:
        unknown = not self.languages or not language
        return unknown or any(fits(name, language) for name in self.languages)

    @functools.cached_property
    def _releases(self) -> tuple[Release, ...]:
        found = [release for tree in self._trees for release in releases(tree)]
        languages = sorted({release.language for release in found})
        lacking = [name for name in self.languages if not any(fits(name, n) for n in languages)]
        if lacking or not found:
            raise CorpusError(
                f"{self.source} has no table of Common Voice"
                + (f" for {', '.join(lacking)}" if lacking else ", such as validated.tsv")
                + f"; it has {', '.join(languages) or 'no language'}"
            )
        asked: dict[str, Release] = {}
        for release in found:
            if not self._asked(release.language):
                continue
            other = asked.setdefault(release.language, release)
            if other is not release:
                first, second = (os.path.join(r.tree.source, r.prefix) for r in (other, release))
                raise CorpusError(
                    f"{release.language} is in {first} and in {second}; give one release of each "
                    "language, such as one archive as --source"
                )
        return tuple(asked.values())

    @functools.cached_property
    def _lists(self) -> dict[tuple[str, str], str]:
        """The list of each (locale, split) that has one."""
        languages = [release.language for release in self._releases]
        found: dict[tuple[str, str], str] = {}
        for asked, file in self.lists:
            meant = [n for n in languages if n == asked] or [n for n in languages if fits(asked, n)]
            if len(meant) > 1:
                raise CorpusError(f"a list of {asked} fits {' and '.join(meant)}; name one of them "
                                  f"with --list={meant[0]}:{file}")  # fmt: skip
            for language in meant:
                key = language, list_split(file)
                if key in found:
                    raise CorpusError(f"{found[key]} and {file} both list {' '.join(key)}; choose "
                                      f"one with --list={language}:{file}")  # fmt: skip
                found[key] = file
        if not found:
            raise CorpusError(f"the lists are of {', '.join(dict(self.lists))}; {self.source} has "
                              f"{', '.join(languages)}")  # fmt: skip
        return found


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The command line's options of this reader."""
    add = parser.add_argument
    text = f"archive ({' '.join(ARCHIVES[:3])} ...), its unpacked folder, or a folder of them"
    add("--source", required=True, help=text)
    text = f"of {' '.join(TABLES)}; default train dev test"
    add("--splits", nargs="+", choices=tuple(TABLES), metavar="TABLE", help=text)
    text = "train is validated.tsv, less dev.tsv and test.tsv"
    add("--pretraining", action="store_true", help=text)
    add("--languages", nargs="+", metavar="LOCALE", help="es, sv-SE or sv; default all")
    text = "lists of clips' ids make the splits: DIR/LANGUAGE/train.text, val.text"
    add("--lists", metavar="DIR", help=text)
    text = "a list, whose name begins with train, val or test; may be repeated"
    add("--list", action="append", default=[], metavar="LANGUAGE:FILE", help=text)
    add("--max-file-seconds", type=float, default=600.0,
        help="longer files are set aside unread; default %(default)g")  # fmt: skip


def from_flags(options: argparse.Namespace) -> CommonVoice:
    """The reader that the command line asks for."""
    lists = list(lists_in(options.lists) if options.lists else ())
    for each in options.list:
        language, colon, file = each.partition(":")
        if not colon or not os.path.isfile(file):
            raise CorpusError(f"--list {each} must be LANGUAGE:FILE, such as sv:sv/train.text")
        lists.append((language, file))
    if lists and (options.splits or options.pretraining):
        raise CorpusError("lists make the splits; leave --splits and --pretraining out")
    return CommonVoice(
        source=options.source,
        tables=tuple(options.splits or ("train", "dev", "test")),
        pretraining=options.pretraining,
        languages=tuple(options.languages or ()),
        lists=tuple(lists),
        max_seconds=options.max_file_seconds,
    )


def _missing(release: Release, clip: str) -> str:
    reason = release.refused.get(clip.rpartition("/")[2], "clip is missing")
    return reason if ": " in reason else f"{reason}: {clip}"


def _counts(name: str) -> bool:
    return name.lower().endswith((*AUDIO, *ARCHIVES, ".tsv", ".csv"))
