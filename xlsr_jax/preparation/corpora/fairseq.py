"""Manifests of fairseq: train.tsv and the like, with labels beside them.

--source is one manifest (its split is its name without .tsv), a folder of them, or a .tar.gz of
them and their audio; each .tsv is a split of its own name. The first line of a manifest is the
folder of the audio, absolute or relative to the manifest, and --root stands in for it; in an
archive it is a folder of the archive, and only the manifests nearest to its top count. Each line
after it is PATH<TAB>FRAMES, where PATH may be FILE.zip:OFFSET:LENGTH, bytes of a zip whose entries
are stored, not compressed.

Line n of train.wrd, else of train.ltr (letters apart, "|" between words), is the text of utterance
n, and line n of train.phn its phonemes; nothing else is read (dict.ltr.txt). Labels of another
number than the utterances end the run.

An utterance is named <split>/<path>, for manifests may share files. FRAMES gives its seconds for
estimates, which are right for audio at 16 kHz alone; the records count the samples there are. A
path that a manifest repeats is taken once (in training, languages are weighted, not repeated).
Repeated and malformed rows, named by file and line, and paths that lead out of the root are set
aside; so is what shows no language, under "und".
"""

import argparse
import dataclasses
import functools
import hashlib
import os
import posixpath
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from xlsr_jax.data import audio
from xlsr_jax.data.records import SAMPLE_RATE, CorpusError
from xlsr_jax.data.speech import Speech, UnreadableAudio
from xlsr_jax.preparation.archives import Tree, is_archive, open_source
from xlsr_jax.preparation.corpora.base import Utterance, refused
from xlsr_jax.preparation.corpora.fairseq_lists import SUFFIX, Manifest

_SLICE = re.compile(r"(.+\.zip):(\d{1,18}):(\d{1,18})", re.IGNORECASE | re.ASCII)


@dataclasses.dataclass(frozen=True)
class FairseqManifests:
    """Reader of fairseq manifests (``base.Corpus``); see the module's docstring.

    Attributes:
      source: a .tsv, a folder of them, or a tar archive of them and their audio.
      root: folder of the audio in place of the manifests' first lines; "" for those.
      language: of all utterances; "" where the paths tell it.
      language_from_path: which folder of a path is the language, the first being 1; else 0.
    """

    source: str
    root: str = ""
    language: str = ""
    language_from_path: int = 0
    name: str = "fairseq"

    def __post_init__(self):
        if self.language_from_path < 0 or bool(self.language) == bool(self.language_from_path):
            raise CorpusError(
                "manifests do not name a language: give --language, or --language-from-path with "
                "the number of the folder that names it (1 is the first of the path), not both"
            )

    def __reduce__(self):  # without what has been read
        return type(self), dataclasses.astuple(self)

    def splits(self) -> Sequence[str]:
        """Names of the manifests, whose labels are counted before."""
        known = {"train": 0, "valid": 1, "test": 2}
        return sorted(self._manifests, key=lambda split: (known.get(split, 3), split))

    def utterances(self, split: str) -> Iterator[Utterance]:
        """The rows in order; those of an archive are held, to be in the order of its audio."""
        manifest, sound = self._manifests[split]
        rows, seen = manifest.rows(), set()
        if self._archived:
            places = {name: place for place, name in enumerate(sound.tree.names)}
            rows = iter(sorted(rows, key=lambda row: places.get(sound.name(row.path), -1)))
        for row in rows:
            fault = row.fault or _repeated(row.path, seen)
            language = self.language or self._folder(sound.below(row.path))
            try:
                if fault:
                    raise UnreadableAudio(fault)
                found = sound.find(row.path)
                if not language:
                    raise UnreadableAudio(f"no language: {row.path}")
            except UnreadableAudio as error:
                found = {"load": refused(str(error))}
            yield Utterance(
                id=f"{manifest.file}:{row.line}" if fault else f"{split}/{row.path}",
                language=language or "und",  # undetermined, in ISO 639
                text=row.text,
                phonemes=row.phonemes,
                seconds=row.frames / SAMPLE_RATE,
                **found,
            )

    def fingerprint(self) -> Mapping[str, str]:
        """Options, and an archive's name and size or all rows with the sizes of their files."""
        options = {"language": self.language or f"folder {self.language_from_path} of the path"}
        if self._archived:
            size = f"{os.path.basename(self.source)}, {os.path.getsize(self.source)} bytes"
            return options | {"root": self.root or "as named", "source": f"archive {size}"}
        count, digest = 0, hashlib.sha256()
        for split in self.splits():
            for each in self.utterances(split):
                path = each.load.args[0]  # of what is set aside the reason, which is no file
                size = os.path.getsize(path) if os.path.isfile(path) else -1
                row = (split, each.id, each.text, each.phonemes, each.seconds, size)
                digest.update(f"{row}\n".encode())
                count += 1
        return options | {"source": f"manifests, {count} rows (sha256 {digest.hexdigest()})"}

    @property
    def _archived(self) -> bool:
        return os.path.isfile(self.source) and is_archive(self.source)

    @functools.cached_property
    def _manifests(self) -> dict[str, tuple[Manifest, "_Sound"]]:
        tree = open_source(self.source) if self._archived else _beside(self.source)
        names = [name for name in tree.names if name.endswith(SUFFIX)]
        if os.path.isfile(self.source) and not self._archived:
            names = [os.path.basename(self.source)]
        top = min((name.count("/") for name in names), default=0)
        manifests: dict[str, tuple[Manifest, _Sound]] = {}
        for name in (name for name in names if name.count("/") == top):
            split, manifest = posixpath.basename(name).removesuffix(SUFFIX), Manifest(tree, name)
            if split in manifests:
                raise CorpusError(
                    f"{self.source} has two manifests of {split}, {manifests[split][0].file} and "
                    f"{name}; give one folder of them"
                )
            manifests[split] = manifest, self._sound(manifest)
            manifest.compare()
        if not manifests:
            raise CorpusError(f"no manifest in {self.source} (looked for train.tsv and the like)")
        return manifests

    def _sound(self, manifest: Manifest) -> "_Sound":
        tree, folder = manifest.tree, manifest.folder()
        where = f"{manifest.file} of {self.source} has its audio in"
        if self._archived:
            below = self.root or posixpath.join(posixpath.dirname(manifest.file), folder)
            below = posixpath.normpath(below)
            if below.startswith(("/", "../")) or below == "..":
                raise CorpusError(f"{where} {below}; give --root, a folder of the archive")
            return _Sound(tree, below, archived=True)
        folder = self.root or os.path.join(tree.source, folder)
        if not os.path.isdir(folder):
            raise CorpusError(f"{where} {folder}, which is no folder; give --root, which holds it")
        return _Sound(Tree(folder, ()), ".", archived=False)

    def _folder(self, path: str) -> str:
        folders = path.split("/")[:-1]
        number = self.language_from_path
        return folders[number - 1] if len(folders) >= number else ""


@dataclasses.dataclass(frozen=True)
class _Sound:
    """Where a manifest's audio is: below the folder ``root`` of ``tree``."""

    tree: Tree
    root: str
    archived: bool

    def find(self, path: str) -> dict[str, Any]:
        """The fields of an utterance that say where its audio is; raises ``UnreadableAudio``."""
        part, name = _SLICE.fullmatch(path), self.name(path)
        if not name:
            raise UnreadableAudio(f"path out of the root: {path}")
        if not part and re.search(r"\.zip(:[^/]*)?$", path, re.IGNORECASE):
            raise UnreadableAudio(f"zip without :OFFSET:LENGTH: {path}")
        if self.archived and name not in self.tree:
            raise UnreadableAudio(self._refused.get(name, "file is missing"))
        if not part:
            return self.tree.audio(name, audio.decode)
        load = functools.partial(decode_slice, offset=int(part[2]), length=int(part[3]))
        return self.tree.audio(name, load)

    def name(self, path: str) -> str:
        """Name in the tree; "" where the path leads out of the root."""
        below = self.below(path)
        return posixpath.normpath(posixpath.join(self.root, below)) if below else ""

    def below(self, path: str) -> str:
        """The file of a path, relative to the root; "" where it leads out of that."""
        part = _SLICE.fullmatch(path)
        file = part[1] if part else path
        if os.path.isabs(file):
            file = os.path.relpath(file, os.path.abspath(self.tree.source))
        file = posixpath.normpath(file)
        return "" if file in (".", "..") or file.startswith("../") else file

    @functools.cached_property
    def _refused(self) -> dict[str, str]:
        return {posixpath.normpath(name): reason for name, reason in self.tree.refused}


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The command line's options of this reader."""
    add = parser.add_argument
    add("--source", required=True, help="a .tsv, a folder of them, or a .tar.gz with their audio")
    add("--root", default="", help="folder of the audio; default what the manifests name")
    add("--language", default="", help="of all utterances")
    add(
        "--language-from-path",
        type=int,
        default=0,
        metavar="N",
        help="the language is the Nth folder of a path, the first being 1",
    )
    add("--name", default="fairseq", help="corpus name in the manifest")


def from_flags(options: argparse.Namespace) -> FairseqManifests:
    """The reader that the command line asks for."""
    return FairseqManifests(
        options.source, options.root, options.language, options.language_from_path, options.name
    )


def decode_slice(path: str, offset: int, length: int) -> Speech:
    """Decodes ``length`` bytes of a file from ``offset``; raises ``UnreadableAudio``."""
    try:
        with open(path, "rb") as file:
            file.seek(offset)
            data = file.read(length)
    except FileNotFoundError as error:
        raise UnreadableAudio("file is missing") from error
    except OSError as error:
        raise UnreadableAudio(f"file cannot be opened: {error.strerror}") from error
    if len(data) < length:
        raise UnreadableAudio(f"truncated: {len(data)} of {length} bytes at {offset} of a zip")
    with tempfile.NamedTemporaryFile(prefix="xlsr_jax-") as file:
        file.write(data)
        file.flush()
        try:
            return audio.decode(file.name)
        except UnreadableAudio as error:
            if str(error).startswith("not audio"):
                raise UnreadableAudio(
                    f"not audio in a zip: bytes at {offset}, which must be a "
                    "stored entry, not a compressed one"
                ) from error
            raise


def _beside(source: str) -> Tree:
    """The files of a folder, or of the one that a manifest is in, without those below."""
    folder = source if os.path.isdir(source) else os.path.dirname(source) or "."
    if not os.path.isdir(source) and not (os.path.isfile(source) and source.endswith(".tsv")):
        raise CorpusError(f"{source} is no .tsv, no folder of them and no archive")
    with os.scandir(folder) as entries:
        return Tree(folder, tuple(sorted(entry.name for entry in entries if entry.is_file())))


def _repeated(path: str, seen: set[bytes]) -> str:
    digest = hashlib.blake2b(path.encode(), digest_size=8).digest()
    if digest in seen:
        return f"repeated path: {path}"
    seen.add(digest)
    return ""
