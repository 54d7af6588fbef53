"""LibriSpeech as downloaded (openslr.org/12), and Libri-light's fine-tuning sets of it.

    python -m xlsr_jax.prepare librispeech --source LibriSpeech --output corpora/librispeech
    python -m xlsr_jax.prepare librispeech --source downloads --subsets train-100 dev-other ...
    python -m xlsr_jax.prepare librispeech --source librispeech_finetuning.tgz --limited 10h ...

The source is an archive, an unpacked folder, or a folder of several of them; in a folder, archives
named after a subset that is asked for are read where that subset is not there unpacked. Splits:
train-* are train, dev-clean is valid, dev-other valid_other, test-clean test, test-other
test_other; also of mini LibriSpeech (train-clean-5, dev-clean-2). Ids, speakers and the uppercase
text are the corpus' own, the language is en.

--limited takes Libri-light's sets of labelled speech in place of train-*: 10m is its folder
1h/0, 1h is 1h/0 to 1h/5, and 10h is those and 9h, "clean" and "other" of each.

Set aside: clips that a transcript names and the source lacks, clips without transcript, lines
without an id, second lines of one id, files not named <speaker>/<chapter>/<speaker>-<chapter>-*.
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
from xlsr_jax.preparation.corpora.parts import MISSING, Part, archives_in, root, stem, twice

LANGUAGE = "en"
SPLITS = {
    "train": "train-",
    "valid": "dev-clean",
    "valid_other": "dev-other",
    "test": "test-clean",
    "test_other": "test-other",
}
SHORT = {
    "train-100": ("train-clean-100",),
    "train-460": ("train-clean-100", "train-clean-360"),
    "train-960": ("train-clean-100", "train-clean-360", "train-other-500"),
}
FOLDS = tuple(f"1h/{fold}/{kind}" for fold in range(6) for kind in ("clean", "other"))
LIMITED = {"10m": FOLDS[:2], "1h": FOLDS, "10h": (*FOLDS, "9h/clean", "9h/other")}
LIMITED_ARCHIVE = "librispeech_finetuning"

_SUBSET = re.compile(r"train-(?:clean|other)-\d+|(?:dev|test)-(?:clean|other)(?:-\d+)?")
_FILE = re.compile(
    rf"(?:.*/)?(?P<part>{_SUBSET.pattern}|(?:1h/[0-5]|9h)/(?:clean|other))/.*\.(?:flac|trans\.txt)"
)


@dataclasses.dataclass(frozen=True)
class LibriSpeech:
    """Reader of LibriSpeech; see the module's docstring for the rules.

    Attributes:
      source: an archive or a folder.
      subsets: those to take, and ``SHORT`` names; all that are there by default.
      limited: a name of ``LIMITED``, or "".
    """

    source: str
    subsets: tuple[str, ...] = ()
    limited: str = ""
    name: str = "librispeech"

    def __reduce__(self):  # without what has been read
        return type(self), (self.source, self.subsets, self.limited, self.name)

    def splits(self) -> Sequence[str]:
        there = {_split(subset) for subset in self._parts}
        return [split for split in SPLITS if split in there]

    def utterances(self, split: str) -> Iterator[Utterance]:
        begun = set()
        for subset, part in self._parts.items():
            if _split(subset) == split:
                yield from _listed(part, subset, first=part.tree.source not in begun)
            begun.add(part.tree.source)

    def fingerprint(self) -> Mapping[str, str]:
        """What each subset was read from, and the choice of them."""
        sources = {f"source of {subset}": part.described() for subset, part in self._parts.items()}
        return {"limited": self.limited or "no", **sources}

    @functools.cached_property
    def _parts(self) -> dict[str, Part]:
        """{subset: its files} of those to take, in sorted order."""
        asked = self._asked()
        tree = open_source(self.source)
        parts = _found(tree, {})
        for archive in archives_in(tree):
            held = FOLDS[:1] if stem(archive) == LIMITED_ARCHIVE else (stem(archive),)
            if any(self._takes(subset, asked) and subset not in parts for subset in held):
                parts = _found(open_source(archive), parts)
        lacking = [subset for subset in asked if subset not in parts]
        taken = {subset: parts[subset] for subset in sorted(parts) if self._takes(subset, asked)}
        if lacking or not taken:
            there = ", ".join(sorted(parts)) or "neither subsets nor archives of LibriSpeech"
            hint = "" if self.limited or FOLDS[0] not in parts else "; for these give --limited"
            raise CorpusError(
                f"{self.source} has no {', '.join(lacking) or 'such data'}; it has {there}{hint}"
            )
        return taken

    def _asked(self) -> tuple[str, ...]:
        """The subsets that must be there."""
        asked = [name for each in self.subsets for name in SHORT.get(each, (each,))]
        for subset in asked:
            if not _SUBSET.fullmatch(subset):
                raise CorpusError(
                    f"{subset!r} is no subset of LibriSpeech, such as train-clean-100 "
                    f"or dev-other, nor one of {', '.join(SHORT)}"
                )
            if self.limited and subset.startswith("train-"):
                raise CorpusError(f"--limited takes the place of {subset}; give one of the two")
        return (*dict.fromkeys(asked), *(LIMITED[self.limited] if self.limited else ()))

    def _takes(self, subset: str, asked: Sequence[str]) -> bool:
        if _SUBSET.fullmatch(subset) and not self.subsets:
            return not (self.limited and subset.startswith("train-"))
        return subset in asked


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The command line's options of this reader."""
    add = parser.add_argument
    add("--source", required=True, help="archive, or folder of subsets or archives")
    add(
        "--subsets",
        nargs="+",
        default=[],
        metavar="SUBSET",
        help=f"such as train-clean-100 dev-other, or {', '.join(SHORT)}; default all there are",
    )
    add(
        "--limited",
        choices=tuple(LIMITED),
        default="",
        help="Libri-light's fine-tuning set in place of train-*",
    )
    add("--name", default="librispeech", help="corpus name in the manifest")


def from_flags(options: argparse.Namespace) -> LibriSpeech:
    """The reader that the command line asks for."""
    return LibriSpeech(options.source, tuple(options.subsets), options.limited, options.name)


def _split(subset: str) -> str:
    return next((s for s, begin in SPLITS.items() if subset.startswith(begin)), "train")


def _found(tree: Tree, parts: Mapping[str, Part]) -> dict[str, Part]:
    """``parts`` and those of a tree."""
    found, above = dict(parts), root(tree)
    for name in tree.names:
        if match := _FILE.fullmatch(above + name):
            part = Part(tree, match.string[: match.end("part") + 1])
            before = found.setdefault(match["part"], part)
            if (before.tree.source, before.prefix) != (tree.source, part.prefix):
                raise twice(match["part"], before, part)
    return found


def _listed(part: Part, subset: str, first: bool) -> Iterator[Utterance]:
    barred = part.barred(_FILE, subset, first)
    folder, texts = None, {}
    for name, below in part.files():
        place = f"{subset}/{below}"
        if name.endswith(".trans.txt"):
            for identity, reason in _lacking(part.tree, name, place, barred):
                yield Utterance(identity, LANGUAGE, refused(reason))
        elif name.endswith(".flac"):
            if folder != posixpath.dirname(name):
                folder = posixpath.dirname(name)
                texts = _texts(part.tree, folder, place)
            yield _utterance(part.tree, name, place, texts)
    for name, reason in barred.items():
        yield Utterance(name, LANGUAGE, refused(reason))


def _utterance(tree: Tree, name: str, place: str, texts: Mapping[str, str]) -> Utterance:
    speaker, chapter, file = ["", *place.split("/")][-3:]
    identity = file.removesuffix(".flac")
    if not identity.startswith(f"{speaker}-{chapter}-"):
        return Utterance(place, LANGUAGE, refused("not named as in LibriSpeech"))
    text = texts.get(identity, "")
    where = tree.audio(name, audio.decode) if text else {"load": refused("no transcript")}
    return Utterance(identity, LANGUAGE, **where, text=text, speaker=speaker)


def _texts(tree: Tree, folder: str, place: str) -> dict[str, str]:
    """{id: text} of the chapter in a folder, of which ``place`` is a file."""
    speaker, chapter, _ = ["", *place.split("/")][-3:]
    name = posixpath.join(folder, f"{speaker}-{chapter}.trans.txt")
    lines = _lines(tree, name) if name in tree else ()
    return {identity: text for _, identity, text, fault in lines if not fault}


def _lacking(
    tree: Tree, name: str, place: str, barred: dict[str, str]
) -> Iterator[tuple[str, str]]:
    """(id, reason) of a chapter's lines to which there is no audio; takes them off ``barred``."""
    for number, identity, _, fault in _lines(tree, name):
        file = posixpath.join(posixpath.dirname(name), f"{identity}.flac")
        if fault:
            yield f"{place}:{number}", fault
        elif file not in tree:
            yield identity, barred.pop(file, MISSING)


def _lines(tree: Tree, name: str) -> Iterator[tuple[int, str, str, str]]:
    """(number, id, text, what is wrong or "") of the lines of a chapter's transcripts."""
    begin = posixpath.basename(name).removesuffix(".trans.txt") + "-"
    seen: set[str] = set()
    for number, line in tree.lines(name):
        if line is None:
            yield number, "", "", "line is too long"
        elif line.strip():
            identity, text = [*line.split(maxsplit=1), ""][:2]
            fault = ""
            if not identity.startswith(begin):
                fault = f"line without id: {line[:80]}"
            elif identity in seen:
                fault = f"second line of one id: {identity}"
            seen.add(identity)
            yield number, identity, text.rstrip(), fault
