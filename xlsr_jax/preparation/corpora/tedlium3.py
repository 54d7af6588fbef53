"""TED-LIUM, releases 3, 2 and 1 (OpenSLR 51, 19 and 7): English talks with segment transcripts.

--source is TEDLIUM_release-3.tgz, TEDLIUM_release2.tar.gz, TEDLIUM_release1.tar.gz, or the folder
that one unpacks to. Release 3 has two partitions, --layout: "legacy", whose dev and test are those
of the releases before it, and "speaker-adaptation". Its train folders are links into data/, which
are followed by name. Splits: train; valid, which they call dev; test. Language "en".

An utterance is a line of an STM file: its id is NAME-START-END in hundredths of a second, as
Kaldi's recipe has it, its speaker the line's. Text, in this order:

  - a key in parentheses at the end of the line (release 1) goes;
  - numbers of pronunciations go: "read(2)" is "read";
  - <sil> and other marks in <> or {}, such as {NOISE}, go, <unk> too unless --unknown=keep;
  - "it 's" becomes "it's", for 's 'm 're 've 'll 'd, unless --apostrophes=released.

Set aside, with their reasons: lines "ignore_time_segment_in_scoring", lines without words or
columns, talks without audio, audio without transcript, members that the archive's reading refuses.
"""

import argparse
import dataclasses
import functools
import posixpath
import re
from collections.abc import Iterator, Mapping, Sequence

from xlsr_jax.data import audio
from xlsr_jax.data.records import CorpusError
from xlsr_jax.preparation.archives import Tree, open_source
from xlsr_jax.preparation.corpora.base import Utterance, refused

SPLITS = {"train": "train", "valid": "dev", "test": "test"}
LAYOUTS = ("legacy", "speaker-adaptation")
IGNORED = "ignore_time_segment_in_scoring"
SUFFIXES = "s|m|re|ve|ll|d"
LINK = "link in an archive"  # to a file below data/, where release 3 is not broken


@dataclasses.dataclass(frozen=True)
class Tedlium:
    """Reader of TED-LIUM; see the module's docstring for the rules.

    Attributes:
      source: the archive or the folder.
      layout: "legacy" or "speaker-adaptation", of release 3.
      unknown: "drop" or "keep" the words <unk>.
      apostrophes: "joined" or as "released".
      max_seconds: longer segments are set aside.
    """

    source: str
    layout: str = "legacy"
    unknown: str = "drop"
    apostrophes: str = "joined"
    max_seconds: float = 600.0
    name: str = "tedlium3"

    def splits(self) -> Sequence[str]:
        """Those of the source.

        Raises:
          CorpusError: no source, or none with talks.
        """
        found = [split for split in SPLITS if self._talks(split)]
        if not found:
            raise CorpusError(
                f"no talks in {self.source}; give TEDLIUM_release-3 (or 2, or 1), its archive or "
                "the folder it unpacks to"
            )
        return found

    def utterances(self, split: str) -> Iterator[Utterance]:
        """Segments of a split, talk by talk in the order of the audio files, lazily."""
        for talk, (sound, transcript, reason) in self._talks(split).items():
            if reason:
                yield Utterance(talk, "en", refused(reason))
            else:
                yield from self._segments(talk, sound, transcript)

    def fingerprint(self) -> Mapping[str, str]:
        """Options, and the source by name and size: of its archive, or of each file."""
        return {
            "layout": self.layout,
            "unknown words": self.unknown,
            "apostrophes": self.apostrophes,
            "max_seconds": str(self.max_seconds),
            "source": self._tree.described(),
        }

    def _segments(self, talk: str, sound: str, transcript: str) -> Iterator[Utterance]:
        seen: dict[str, int] = {}
        for identity, reason, fields in self._lines(talk, transcript):
            seen[identity] = seen.get(identity, 0) + 1
            if seen[identity] > 1:
                identity += f"-{seen[identity]}"
            if reason:
                yield Utterance(identity, "en", refused(reason))
                continue
            speaker, start, end, text = fields
            load = functools.partial(
                audio.decode_part, start=start, end=end, max_seconds=self.max_seconds
            )
            yield Utterance(
                identity, "en", text=text, speaker=speaker, seconds=end - start,
                **self._tree.audio(sound, load),
            )  # fmt: skip

    def _lines(
        self, talk: str, transcript: str
    ) -> Iterator[tuple[str, str, tuple[str, float, float, str] | None]]:
        """(id, reason why not, (speaker, start, end, text)) of each line that is no comment."""
        number = 0
        try:
            for number, line in self._tree.lines(transcript):
                where = f"{talk}-line{number:05d}"
                if line is None:
                    yield where, "malformed line: too long", None
                    continue
                line = line.strip()
                if not line or line.startswith(";;"):
                    continue
                columns = line.split(None, 6)
                try:
                    recording, _, speaker, start, end, _, words = [*columns, ""][:7]
                    start, end = float(start), float(end)
                    centiseconds = round(start * 100), round(end * 100)
                except (ValueError, OverflowError):
                    yield where, f"malformed line: {line[:80]}", None
                    continue
                identity = "{}-{:07d}-{:07d}".format(talk, *centiseconds)
                text = clean(words, self.unknown, self.apostrophes)
                reason = ""
                if recording != talk:
                    reason = f"line of another recording: {recording}"
                elif words.strip() == IGNORED:
                    reason = f"excluded by the transcript: {IGNORED}"
                elif not text:
                    reason = f"no words: {words.strip() or 'empty'}"
                yield identity, reason, (speaker, start, end, text)
        except CorpusError:
            reason = "unreadable transcript: no UTF-8 text"
            yield f"{talk}-line{number + 1:05d}", reason, None

    def _talks(self, split: str) -> dict[str, tuple[str, str, str]]:
        """{talk: (audio, transcript, reason why not)}, in the order of the audio files."""
        return self._all_talks.get(split, {})

    @functools.cached_property
    def _all_talks(self) -> dict[str, dict[str, tuple[str, str, str]]]:
        sounds, transcripts, barred = self._places
        places = {place for place, _ in [*sounds, *transcripts, *barred]}
        release3 = any(place == "data" or place.startswith(LAYOUTS) for place in places)
        order = {name: number for number, name in enumerate(sounds.values())}
        talks: dict[str, dict[str, tuple[str, str, str]]] = {}
        for split in ("valid", "test", "train"):
            folder = f"{self.layout}/{SPLITS[split]}" if release3 else SPLITS[split]
            taken = {talk for each in talks.values() for talk in each}
            # Of a folder that is itself a link nothing is listed: then data/ tells.
            wanted = folder if folder in places or split != "train" else "data"
            named = {talk for place, talk in [*sounds, *transcripts, *barred] if place == wanted}
            # Release 3 has new audio for the talks of release 2, but not for its dev and test.
            own = folder in ("legacy/dev", "legacy/test") or not release3
            among = [folder] if own else [folder, "data", "legacy/train"]
            rows = []
            for talk in named - taken:
                sound, transcript, why = (
                    next((kind[place, talk] for place in among if (place, talk) in kind), "")
                    for kind in (sounds, transcripts, barred)
                )
                if sound and transcript:
                    why = ""
                elif not why or why == LINK:
                    why = "file is missing: " + (f"{talk}.stm" if sound else f"{talk}.sph")
                rows.append((order.get(sound, len(order)), talk, sound, transcript, why))
            talks[split] = {talk: rest for _, talk, *rest in sorted(rows)}
        return talks

    @functools.cached_property
    def _places(self) -> tuple[dict[tuple[str, str], str], ...]:
        """By (folder, talk): names of audio, names of transcripts, reasons of refused members."""
        sounds, transcripts, barred = {}, {}, {}
        for name in self._tree.names:
            kind, key = _parsed(name)
            if kind:
                (sounds if kind == "sph" else transcripts)[key] = name
        for name, reason in self._tree.refused:
            kind, key = _parsed(posixpath.normpath(name))
            if kind:
                barred[key] = reason
        return sounds, transcripts, barred

    @functools.cached_property
    def _tree(self) -> Tree:
        if self.layout not in LAYOUTS:
            raise CorpusError(f"unknown layout {self.layout!r}; use {' or '.join(LAYOUTS)}")
        return open_source(self.source)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The command line's options of this reader."""
    add = parser.add_argument
    add("--source", required=True, help="the archive, or the folder it unpacks to")
    add("--layout", choices=LAYOUTS, default="legacy", help="of release 3; default %(default)s")
    add("--unknown", choices=("drop", "keep"), default="drop", help="words <unk>; default drop")
    told = "it's, or it 's as released; default %(default)s"
    add("--apostrophes", choices=("joined", "released"), default="joined", help=told)


def from_flags(options: argparse.Namespace) -> Tedlium:
    """The reader that the command line asks for."""
    return Tedlium(
        source=options.source,
        layout=options.layout,
        unknown=options.unknown,
        apostrophes=options.apostrophes,
    )


def clean(words: str, unknown: str = "drop", apostrophes: str = "joined") -> str:
    """The text of an STM line, by the rules of the module's docstring."""
    words = re.sub(r"(^|\s)\([^()\s]*\)\s*$", "", words)
    words = re.sub(r"\(\d+\)", "", words)
    if unknown == "drop":  # with what hangs on it: "<unk> 's"
        words = re.sub(rf"<unk>( ?'({SUFFIXES})\b)?", " ", words)
    words = re.sub(r"<(?!unk>)[^<>\s]*>|\{[^{}\s]*\}", " ", words)
    words = " ".join(words.split())
    if apostrophes == "joined":
        words = re.sub(rf"(?<=[\w>]) '(?=({SUFFIXES})\b)", "'", words, flags=re.IGNORECASE)
    return words


def _parsed(name: str) -> tuple[str, tuple[str, str]]:
    """("sph", ("legacy/train", "AlGore_2009")) of a path; kind "" where it is no file of a talk."""
    parts = name.split("/")
    talk, _, kind = parts[-1].rpartition(".")
    if kind not in ("sph", "stm") or not talk or talk.startswith(".") or parts[-2:-1] != [kind]:
        return "", ("", "")
    place = parts[-4:-2] if parts[-4:-3] and parts[-4] in LAYOUTS else parts[-3:-2]
    return kind, ("/".join(place), talk)
