"""Multilingual LibriSpeech as downloaded (openslr.org/94; arXiv 2012.03411), FLAC or Opus.

    python -m xlsr_jax.prepare mls --source mls_polish.tar.gz --output corpora/mls_pl
    python -m xlsr_jax.prepare mls --source mls_polish_opus --limited 10h --output corpora/pl_10h
    python -m xlsr_jax.prepare mls --source downloads --output corpora/mls

The source is an archive, an unpacked folder, or a folder of several of them (mls_polish,
mls_dutch_opus.tar.gz, ...); in a folder, archives that are there unpacked are not read. Splits:
train, test, and dev as valid. Languages: mls_english en, mls_german de, mls_dutch nl, mls_french
fr, mls_spanish es, mls_italian it, mls_portuguese pt, mls_polish pl; --language where the folder
is named otherwise. Ids, speakers and text are the corpus' own.

--limited makes of train the clips that these lists in train/limited_supervision name: 10m
1hr/0/handles.txt, 1h those of 1hr/0 to 1hr/5, 10h those and 9hr/handles.txt; a clip that several
lists name is taken once.

Set aside: clips that a transcript or a list names and the source lacks, clips without transcript,
lines without an id, second lines of one id, files not named <speaker>/<book>/<speaker>_<book>_*.
Lengths for estimates are those of segments.txt; lines of it that give none are skipped.
"""

import argparse
import dataclasses
import functools
import math
import re
from collections.abc import Iterator, Mapping, Sequence

from xlsr_jax.data import audio
from xlsr_jax.data.records import CorpusError
from xlsr_jax.preparation.archives import Tree, open_source
from xlsr_jax.preparation.corpora.base import Utterance, refused
from xlsr_jax.preparation.corpora.lookup import Numbers, Texts
from xlsr_jax.preparation.corpora.parts import AUDIO, MISSING, Part, archives_in, root, stem, twice

LANGUAGES = {
    "english": "en",
    "german": "de",
    "dutch": "nl",
    "french": "fr",
    "spanish": "es",
    "italian": "it",
    "portuguese": "pt",
    "polish": "pl",
}
SPLITS = {"train": "train", "valid": "dev", "test": "test"}  # ours: theirs
HOUR = tuple(f"1hr/{fold}" for fold in range(6))
LIMITED = {"10m": HOUR[:1], "1h": HOUR, "10h": (*HOUR, "9hr")}

_RELEASE = re.compile(rf"mls_({'|'.join(LANGUAGES)})(_opus)?")
_FILE = re.compile(
    r"(?:.*/)?(?P<part>[^/]+/(?:train|dev|test))/(?:audio/.*\.(?:flac|opus)|transcripts\.txt)"
)
_ID = re.compile(r"([^\s_/]+)_([^\s_/]+)_[^\s/]+")  # speaker, book


@dataclasses.dataclass(frozen=True)
class MLS:
    """Reader of Multilingual LibriSpeech; see the module's docstring for the rules.

    Attributes:
      source: an archive or a folder.
      language: code of all that is there; "" for that of each folder's name.
      limited: a name of ``LIMITED``, or "".
    """

    source: str
    language: str = ""
    limited: str = ""
    name: str = "mls"

    def __reduce__(self):  # without what has been read
        return type(self), (self.source, self.language, self.limited, self.name)

    def splits(self) -> Sequence[str]:
        return [split for split in SPLITS if any(s == split for _, s in self._parts)]

    def utterances(self, split: str) -> Iterator[Utterance]:
        begun = set()
        for (language, each), part in self._parts.items():
            if each == split:
                chosen = self._chosen(part, f"{language}/train") if split == "train" else None
                yield from _listed(part, language, chosen, part.tree.source not in begun)
            begun.add(part.tree.source)

    def fingerprint(self) -> Mapping[str, str]:
        """What each language and split was read from, and the choice of clips."""
        sources = {
            f"source of {language} {split}": part.described()
            for (language, split), part in self._parts.items()
        }
        return {"limited": self.limited or "no", **sources}

    @functools.cached_property
    def _parts(self) -> dict[tuple[str, str], Part]:
        """{(language, split): its files}, by language and in the order of ``SPLITS``."""
        tree = open_source(self.source)
        parts = self._found(tree, {})
        unpacked = {part.prefix.split("/")[-3] for part in parts.values()}
        for archive in archives_in(tree):
            if _RELEASE.fullmatch(stem(archive)) and stem(archive) not in unpacked:
                parts = self._found(open_source(archive), parts)
        if not parts:
            raise CorpusError(
                f"{self.source} has no <language>/<split>/transcripts.txt or audio/ of "
                "Multilingual LibriSpeech, nor archives named as mls_polish.tar.gz"
            )
        order = list(SPLITS)
        return {key: parts[key] for key in sorted(parts, key=lambda k: (k[0], order.index(k[1])))}

    def _found(
        self, tree: Tree, parts: Mapping[tuple[str, str], Part]
    ) -> dict[tuple[str, str], Part]:
        """``parts`` and those of a tree."""
        found, above, known = dict(parts), root(tree), set()
        for name in tree.names:
            match = _FILE.fullmatch(above + name)
            prefix = match and match.string[: match.end("part") + 1]
            if not match or prefix in known:
                continue
            known.add(prefix)
            folder, theirs = match["part"].split("/")
            release = _RELEASE.fullmatch(folder)
            if not self.language and not release:
                raise CorpusError(
                    f"the language of {prefix} in {tree.source} is not in its name, as in "
                    "mls_polish; give --language"
                )
            split = next(ours for ours, name in SPLITS.items() if name == theirs)
            key = self.language or LANGUAGES[release[1]], split
            part = Part(tree, prefix)
            if found.setdefault(key, part) is not part:
                raise twice(" ".join(key), found[key], part)
        return found

    def _chosen(self, part: Part, place: str) -> dict[str, str] | None:
        """{id: what is wrong or ""} of the clips that make up the train split; None for all."""
        if not self.limited:
            return None
        chosen = {}
        for each in LIMITED[self.limited]:
            below = f"limited_supervision/{each}/handles.txt"
            if part.name(below) not in part.tree:
                raise CorpusError(
                    f"{part.tree.source} lacks {part.name(below)}, which --limited "
                    f"{self.limited} needs; leave --limited away, or add the file"
                )
            for number, line in part.tree.lines(part.name(below)):
                identity = (line or "").strip()
                if line is None or identity and not _ID.fullmatch(identity):
                    chosen[f"{place}/{below}:{number}"] = f"line without id: {identity[:80]}"
                elif identity:
                    chosen[identity] = ""
        return chosen


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The command line's options of this reader."""
    add = parser.add_argument
    add("--source", required=True, help="archive, mls_* folder, or folder of several of them")
    add("--language", default="", help="code of all that is there; default by the folder's name")
    add("--limited", choices=tuple(LIMITED), default="", help="this much of train alone")
    add("--name", default="mls", help="corpus name in the manifest")


def from_flags(options: argparse.Namespace) -> MLS:
    """The reader that the command line asks for."""
    return MLS(options.source, options.language, options.limited, options.name)


def _listed(
    part: Part, language: str, chosen: Mapping[str, str] | None, first: bool
) -> Iterator[Utterance]:
    folder, theirs, _ = part.prefix.split("/")[-3:]
    barred = part.barred(_FILE, f"{folder}/{theirs}", first)
    texts = Texts(
        (identity, text)
        for _, identity, text, fault in _lines(part)
        if not fault and (chosen is None or identity in chosen)
    )
    seconds = Numbers(_seconds(part), "d")
    place = f"{language}/{theirs}"
    for name, below in part.files():
        if below.startswith("audio/") and name.endswith(AUDIO):
            *_, speaker, book, file = ["", *below.split("/")]
            identity = file.rsplit(".", 1)[0]
            if not identity.startswith(f"{speaker}_{book}_"):
                yield Utterance(f"{place}/{below}", language, refused("not named as in MLS"))
            elif chosen is None or identity in chosen:
                text, length = texts.get(identity), [*seconds.find(identity), 0.0][0]
                load = part.tree.audio(name, audio.decode)
                if not text:
                    load = {"load": refused("no transcript")}
                yield Utterance(
                    identity, language, **load, text=text, speaker=speaker, seconds=length
                )
    for identity, reason in _lacking(part, place, chosen, texts, barred):
        yield Utterance(identity, language, refused(reason))
    for name, reason in barred.items():
        yield Utterance(name, language, refused(reason))


def _lacking(
    part: Part,
    place: str,
    chosen: Mapping[str, str] | None,
    texts: Texts,
    barred: dict[str, str],
) -> Iterator[tuple[str, str]]:
    """(id, reason) of lines that are faulty or to which there is no audio, taken off ``barred``."""
    seen: set[str] = set()
    for number, identity, _, fault in _lines(part):
        if not fault and chosen is not None and identity not in chosen:
            continue
        if not fault and hash(identity) in texts.repeated:
            fault = f"second line of one id: {identity}" if identity in seen else ""
            seen.add(identity)
        if fault:
            yield f"{place}/transcripts.txt:{number}", fault
        elif reason := _absent(part, identity, barred):
            yield identity, reason
    for identity, fault in (chosen or {}).items():
        if fault:
            yield identity, fault
        elif not texts.get(identity) and (reason := _absent(part, identity, barred)):
            yield identity, reason


def _absent(part: Part, identity: str, barred: dict[str, str]) -> str:
    """Why there is no audio of an id; "" where there is."""
    speaker, book = _ID.fullmatch(identity).groups()
    names = [part.name(f"audio/{speaker}/{book}/{identity}{suffix}") for suffix in AUDIO]
    if any(name in part.tree for name in names):
        return ""
    return next((barred.pop(name) for name in names if name in barred), MISSING)


def _lines(part: Part) -> Iterator[tuple[int, str, str, str]]:
    """(number, id, text, what is wrong or "") of the lines of transcripts.txt."""
    name = part.name("transcripts.txt")
    if name not in part.tree:
        raise CorpusError(
            f"{part.tree.source} has audio but no {name}; unpack or download it again"
        )
    for number, line in part.tree.lines(name):
        if line is None:
            yield number, "", "", "line is too long"
        elif line.strip():
            identity, _, text = line.partition("\t")
            identity = identity.strip()
            fault = "" if _ID.fullmatch(identity) else f"line without id: {line[:80]}"
            yield number, identity, text.strip(), fault


def _seconds(part: Part) -> Iterator[tuple[str, float]]:
    """(id, length) of the lines of segments.txt: id, address, begin and end in seconds."""
    name = part.name("segments.txt")
    if name in part.tree:
        for _, line in part.tree.lines(name):
            try:
                identity, _, begin, end = (line or "").split("\t")
                length = float(end) - float(begin)
            except ValueError:
                continue
            if math.isfinite(length) and length > 0:
                yield identity.strip(), round(length, 3)
