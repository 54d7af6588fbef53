"""IARPA BABEL language packs of the LDC: telephone speech in 25 languages, with transcripts.

--source is a pack's archive or folder, or a folder of unpacked ones. What is read of it lies in
{conversational,scripted}/{training,sub-train,dev,eval,untranscribed-training}/ as audio/NAME.sph or
.wav and transcription/NAME.txt (--roman: transcript_roman/NAME.txt).

Splits, as in section 3.1 of the XLSR paper: test is the dev folder; valid are 10 % of the training
conversations, drawn by the SHA-256 of a conversation's name, so that both sides of a call stay
together; train is the rest. eval stays itself; few packs transcribe it. sub-train repeats a part
of training and stands in for it with --limited. --untranscribed adds a split "untranscribed" for
pretraining, cut into equal pieces of at most --piece-seconds, without text. --part chooses
conversations (the default), scripted prompts, or both.

The language is that of the pack's number (101 is "yue"), unless --language names one. A name such
as BABEL_OP1_103_10066_20120406_230124_inLine has pack 103 and speaker 10066; who called is speaker
103_10066_A, in scripted prompts as well, and the other side, outLine, 103_10066_B. An utterance is
what stands between two times of a transcript; its id is NAME-START-END, in hundredths of a second.

<no-speech> goes from the text, and a segment of nothing else is set aside. All other marks are as
--noise says: tags (<breath>, <hes>, <foreign> ...), "(())" for what nobody understood, "~" for a
cut, asterisks around *mispronounced* words, and hyphens at the open end of frag- and -ments.

  drop           tags, (()) and ~ go; asterisks and hyphens go and leave their word (the default)
  keep           all stay as they are
  drop_segment   a segment that has one is set aside

Set aside as well, each with its reason: recordings without transcript and transcripts without
audio, segments without text, lines outside of times, members that the archive's reading refuses.
"""

import argparse
import dataclasses
import functools
import hashlib
import math
import os
import posixpath
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import BinaryIO

from xlsr_jax.data import audio
from xlsr_jax.data.containers import stated_seconds
from xlsr_jax.data.records import CorpusError
from xlsr_jax.data.speech import UnreadableAudio
from xlsr_jax.preparation.archives import Tree, members_of, open_source
from xlsr_jax.preparation.corpora.babel_text import NOISES, clean, objection, read
from xlsr_jax.preparation.corpora.base import Utterance, refused

LANGUAGES = {
    "101": "yue", "102": "as", "103": "bn", "104": "ps", "105": "tr", "106": "tl", "107": "vi",
    "201": "ht", "202": "sw", "203": "lo", "204": "ta", "205": "kmr", "206": "zu", "207": "tpi",
    "301": "ceb", "302": "kk", "303": "te", "304": "lt", "305": "gn", "306": "ig", "307": "am",
    "401": "mn", "402": "jv", "403": "luo", "404": "ka",
}  # fmt: skip
SPLITS = ("train", "valid", "test", "eval", "untranscribed")
PARTS = ("conversational", "scripted", "both")
NAME = re.compile(r"BABEL_[^_]+_(?P<pack>\d{3})_(?P<speaker>[^_]+)_(?P<when>\d+_\d+)_(?P<side>\w+)")
LONGEST = 86_400.0  # seconds of a recording, all of them being calls of ten minutes
PACK = re.compile(r"BABEL_[^_/]+_(?P<pack>\d{3})(?!\d)")


@dataclasses.dataclass(frozen=True)
class Recording:
    """One side of a call, or one prompt.

    Attributes:
      folder: "training", "dev", ...
      name: without its suffix.
      sound, transcript: names in the source; "" where there is none.
      reason: why it is not usable, else "".
    """

    folder: str
    name: str
    sound: str
    transcript: str
    reason: str


@dataclasses.dataclass(frozen=True)
class Babel:
    """Reader of BABEL; see the module's docstring for the rules.

    Attributes:
      source: an archive or a folder.
      language: for all recordings; "" for that of their pack.
      others: as the flags of the same names.
    """

    source: str
    language: str = ""
    part: str = "conversational"
    noise: str = "drop"
    limited: bool = False
    roman: bool = False
    untranscribed: bool = False
    valid_share: float = 0.1
    max_seconds: float = 600.0
    piece_seconds: float = 30.0
    name: str = "babel"

    def splits(self) -> Sequence[str]:
        """Those of the source.

        Raises:
          CorpusError: no source, none of BABEL's folders in it, or an option that is not possible.
        """
        found = {self._split(recording) for recording in self._recordings}
        if not found:
            raise CorpusError(
                f"no recordings in {self.source}; give a BABEL pack, with folders such as "
                f"{'conversational' if self.part == 'both' else self.part}/training/audio"
            )
        return [split for split in SPLITS if split in found]

    def utterances(self, split: str) -> Iterator[Utterance]:
        """Segments of a split, by recording in the order of the audio files, lazily."""
        for recording in self._recordings:
            if self._split(recording) != split:
                continue
            language, speaker = self._labels(recording)
            if recording.reason:
                load = refused(recording.reason)
                yield Utterance(recording.name, language, load, speaker=speaker)
            elif recording.folder == "untranscribed-training":
                yield from self._pieces(recording, language, speaker)
            else:
                yield from self._segments(recording, language, speaker)

    def fingerprint(self) -> Mapping[str, str]:
        """Options, and the source by name and size: of its archive, or of each file."""
        options = {key: str(value) for key, value in dataclasses.asdict(self).items()}
        del options["name"]
        return options | {"source": self._tree.described()}

    def _segments(self, recording: Recording, language: str, speaker: str) -> Iterator[Utterance]:
        name, seen = recording.name, {}
        for number, start, end, words, reason in read(self._tree, recording.transcript):
            identity = f"{name}-line{number:05d}" if reason else _id(name, start, end)
            reason = reason or objection(words, self.noise)
            seen[identity] = seen.get(identity, 0) + 1
            if seen[identity] > 1:
                identity += f"-{seen[identity]}"
            if reason:
                yield Utterance(identity, language, refused(reason), speaker=speaker)
            else:
                text = clean(words, self.noise)
                yield self._part_of(recording, identity, language, speaker, start, end, text)

    def _pieces(self, recording: Recording, language: str, speaker: str) -> Iterator[Utterance]:
        """Equal pieces, so that none is a scrap."""
        seconds = self._seconds[recording.sound]
        if isinstance(seconds, str):
            yield Utterance(recording.name, language, refused(seconds), speaker=speaker)
            return
        count = max(1, math.ceil(seconds / self.piece_seconds))
        for number in range(count):
            start, end = seconds * number / count, seconds * (number + 1) / count
            identity = _id(recording.name, start, end)
            yield self._part_of(recording, identity, language, speaker, start, end, "")

    def _part_of(
        self, recording: Recording, identity: str, language: str, speaker: str,
        start: float, end: float, text: str,
    ) -> Utterance:  # fmt: skip
        load = functools.partial(
            audio.decode_part, start=start, end=end, max_seconds=self.max_seconds
        )
        return Utterance(
            identity, language, text=text, speaker=speaker, seconds=end - start,
            **self._tree.audio(recording.sound, load),
        )  # fmt: skip

    def _split(self, recording: Recording) -> str:
        if recording.folder in ("training", "sub-train"):
            named = NAME.match(recording.name)
            call = "_".join(named.group("pack", "speaker", "when")) if named else recording.name
            draw = int.from_bytes(hashlib.sha256(call.encode()).digest()[:8], "big") / 2**64
            return "valid" if draw < self.valid_share else "train"
        return {"dev": "test", "untranscribed-training": "untranscribed"}.get(
            recording.folder, recording.folder
        )

    def _labels(self, recording: Recording) -> tuple[str, str]:
        """(language, speaker)."""
        named = NAME.match(recording.name)
        told = named or PACK.search(recording.sound or recording.transcript)
        pack = told["pack"] if told else ""
        language = self.language or LANGUAGES.get(pack, "")
        if not language:
            raise CorpusError(
                f"{recording.name} is of no known pack; name its language with --language"
            )
        side = "B" if named and named["side"].startswith("outLine") else "A"
        return language, f"{pack}_{named['speaker']}_{side}" if named else ""

    @functools.cached_property
    def _recordings(self) -> tuple[Recording, ...]:
        """All that the options ask for, in the order of the audio files."""
        tree, written = self._tree, "transcript_roman" if self.roman else "transcription"
        found: dict[str, dict[tuple[str, str], str]] = {"audio": {}, written: {}, "barred": {}}
        second = []
        for name in tree.names:
            kind, *key = self._parsed(name)
            if kind == "audio" and tuple(key) in found[kind]:
                second.append((key[0], posixpath.basename(name)))
            elif kind in found:
                found[kind][tuple(key)] = name
        for name, reason in tree.refused:
            kind, *key = self._parsed(posixpath.normpath(name))
            if kind == "audio":
                found["barred"][tuple(key)] = reason
        recordings = []
        for folder, name in dict.fromkeys(key for each in found.values() for key in each):
            if self.limited and folder == "training":
                continue
            # Files of sub-train may lie in training alone.
            keys = [(folder, name), ("training", name)][: 2 if folder == "sub-train" else 1]
            sound, transcript, reason = (
                next((each[key] for key in keys if key in each), "") for each in found.values()
            )
            if sound:
                lacks = not transcript and folder != "untranscribed-training"
                reason = f"no transcript: {name}.txt" if lacks else ""
            reason = reason or ("" if sound else f"file is missing: {name}.sph")
            recordings.append(Recording(folder, name, sound, transcript, reason))
        for folder, name in second:
            reason = f"second audio of a recording: {name}"
            recordings.append(Recording(folder, name, "", "", reason))
        return tuple(recordings)

    def _parsed(self, name: str) -> tuple[str, str, str]:
        """("audio" or "transcription", "training", NAME), or nothing where it is not asked for."""
        part, folder, kind, file = ["", "", "", *name.split("/")][-4:]
        stem, suffix = posixpath.splitext(file)
        folders = ["training", "dev", "eval", *["sub-train"] * self.limited]
        folders += ["untranscribed-training"] * self.untranscribed
        parts = PARTS[:2] if self.part == "both" else (self.part,)
        suffixes = (".sph", ".wav") if kind == "audio" else (".txt",)
        asked = part in parts and folder in folders and suffix.lower() in suffixes
        return (kind, folder, stem) if asked and not stem.startswith(".") else ("", "", "")

    @functools.cached_property
    def _seconds(self) -> dict[str, float | str]:
        """Length of each untranscribed recording, or why it has none; archives are read for it."""
        wanted = {each.sound for each in self._recordings if each.folder.startswith("untran")}
        if not os.path.isdir(self.source):
            files = members_of(os.fspath(self.source))
            return {name: _stated(content) for _, name, content in files if name in wanted}
        found: dict[str, float | str] = {}
        for name in wanted - {""}:
            try:
                with open(os.path.join(self.source, name), "rb") as file:
                    found[name] = _stated(file)
            except OSError as error:
                found[name] = f"file cannot be opened: {error.strerror}"
        return found

    @functools.cached_property
    def _tree(self) -> Tree:
        for option, known in (("part", PARTS), ("noise", NOISES)):
            if getattr(self, option) not in known:
                raise CorpusError(f"unknown {option} {getattr(self, option)!r}; use {known}")
        if not (0 <= self.valid_share <= 1 and self.piece_seconds > 0):
            raise CorpusError("the share of valid must be 0 to 1, and pieces longer than 0 s")
        return open_source(self.source)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The command line's options of this reader."""
    add = parser.add_argument
    add("--source", required=True, help="a pack's archive or folder, or a folder of unpacked ones")
    add("--language", default="", help="code for all; default that of the pack's number")
    add("--part", choices=PARTS, default=PARTS[0], help="default %(default)s")
    add("--noise", choices=NOISES, default=NOISES[0], help="what to do with marks; default drop")
    add("--limited", action="store_true", help="sub-train in place of training")
    add("--roman", action="store_true", help="transcripts in Latin letters, where a pack has them")
    add("--untranscribed", action="store_true", help="add a split of audio without text")
    add("--valid-share", type=float, default=0.1, help="of training conversations; default 0.1")
    add("--piece-seconds", type=float, default=30.0, help="longest piece of untranscribed audio")


def from_flags(options: argparse.Namespace) -> Babel:
    """The reader that the command line asks for."""
    names = {field.name for field in dataclasses.fields(Babel)} & vars(options).keys()
    return Babel(**{name: getattr(options, name) for name in names})


def _stated(file: BinaryIO) -> float | str:
    try:
        seconds = stated_seconds(file)
    except UnreadableAudio as error:
        return str(error)
    return seconds if seconds < LONGEST else f"too long: {seconds:.0f} s by its header"


def _id(name: str, start: float, end: float) -> str:
    return f"{name}-{round(start * 100):06d}-{round(end * 100):06d}"
