"""Sources as they were downloaded: a folder, or tar archives that are streamed, never unpacked.

``open_source`` gives a ``Tree``: names of files, the lines of text files among them, and what an
``Utterance`` needs to get at a file. Archives (.tar, .tar.gz, .tgz, .tar.bz2, .tar.xz, and such
archives inside them) are read from begin to end, once for the list and once for the audio. What
they name is never written under its name. Refused, each with a line in ``Tree.refused``: names that
are absolute or lead upwards, links, devices, members over ``LARGEST``; a stream that holds more
than ``MOST_EXPANDED`` times its file's bytes ends the run.
"""

import dataclasses
import functools
import hashlib
import io
import lzma
import os
import posixpath
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from xlsr_jax.data.records import CorpusError
from xlsr_jax.data.speech import Speech
from xlsr_jax.preparation.corpora.base import Member

ARCHIVES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
TEXTS = (".tsv", ".csv", ".txt", ".jsonl", ".json", ".stm", ".phn", ".wrd", ".ltr", ".lst", ".tbl")
LARGEST = 4 << 30  # bytes of a member: ten hours of WAV at 48 kHz, and some
MOST_EXPANDED = 200  # gzip's own limit is about 1,030; text of a corpus stays below 20
SLACK = 64 << 20  # bytes that a small archive may expand to, whatever its size
DEEPEST = 3  # archives within archives
LONGEST_LINE = 1 << 20  # characters
LONGEST_HEADER = 1 << 20  # bytes


@dataclasses.dataclass(frozen=True)
class Tree:
    """The files of a source.

    Attributes:
      source: as it was given.
      names: of all files, "/" between parts: sorted in a folder, in order in an archive. Those of
        an archive within the source begin with that archive's own name.
      refused: (name, reason) of members that are not taken.
    """

    source: str
    names: tuple[str, ...]
    refused: tuple[tuple[str, str], ...] = ()
    _numbers: Mapping[str, int] | None = dataclasses.field(default=None, repr=False)  # of members
    _texts: str = ""  # folder with the text members' bytes, by number

    def __contains__(self, name: str) -> bool:
        return name in (self._known if self._numbers is None else self._numbers)

    def lines(self, name: str) -> Iterator[tuple[int, str | None]]:
        """(number, line) of a UTF-8 text file, without its end, BOM or not, CRLF or not.

        A line longer than ``LONGEST_LINE`` comes as None.

        Raises:
          CorpusError: no such file, or no UTF-8.
        """
        path = self._text_path(name)
        try:
            with open(path, encoding="utf-8-sig", newline="\n") as file:
                yield from _lines(file)
        except OSError as error:
            raise CorpusError(
                f"{name} of {self.source} cannot be read: {error.strerror}"
            ) from error
        except UnicodeDecodeError as error:
            raise CorpusError(f"{name} of {self.source} is no UTF-8 text: {error}") from error

    def audio(self, name: str, load: Callable[..., Speech]) -> dict[str, Any]:
        """The fields ``load`` and ``member`` of an utterance whose audio is the file ``name``.

        Args:
          load: takes a path first, as ``audio.decode`` does.
        """
        if self._numbers is None:
            return {"load": functools.partial(load, os.path.join(self.source, name))}
        return {"load": load, "member": Member(self.source, self._numbers[name])}

    def described(self, wanted: Callable[[str], bool] = bool, above: int = 0) -> str:
        """For a fingerprint: an archive's name and size, or names and sizes in a folder.

        The same wherever it lies.

        Args:
          wanted: which files of a folder count.
          above: characters at the begin of their names that do not.
        """
        if self._numbers is not None:
            size = os.path.getsize(self.source)
            return f"archive {os.path.basename(self.source)}, {size} bytes"
        digest, count = hashlib.sha256(), 0
        for name in filter(wanted, self.names):
            path = os.path.join(self.source, name)
            size = os.path.getsize(path) if os.path.exists(path) else -1  # a link to nothing
            digest.update(f"{name[above:]}\t{size}\n".encode("utf-8", "surrogateescape"))
            count += 1
        return f"folder, {count} files (sha256 {digest.hexdigest()[:16]})"

    @functools.cached_property
    def _known(self) -> frozenset[str]:
        return frozenset(self.names)

    def _text_path(self, name: str) -> str:
        if name not in self:
            raise CorpusError(f"{self.source} has no file {name}")
        if self._numbers is None:
            return os.path.join(self.source, name)
        return os.path.join(self._texts, str(self._numbers[name]))


def open_source(source: str | os.PathLike[str], texts: Sequence[str] = TEXTS) -> Tree:
    """The files of a folder, or of an archive, which is read once from begin to end.

    Args:
      texts: suffixes, in lower case, of the members whose lines may be asked for.

    Raises:
      CorpusError: no such source, or an archive that is damaged or a decompression bomb.
    """
    source = os.fspath(source)
    if os.path.isdir(source):
        return Tree(source, tuple(_below(source)))
    if not os.path.isfile(source):
        raise CorpusError(f"no folder or archive {source}")
    if not is_archive(source):
        raise CorpusError(f"{source} is neither a folder nor an archive ({' '.join(ARCHIVES)})")
    folder = tempfile.TemporaryDirectory(prefix="xlsr_jax-texts-")
    numbers, refused = {}, []
    for member, name, content in members_of(source, refused):
        numbers[name] = member.number  # of two with one name the last counts, as when unpacking
        if name.lower().endswith(tuple(texts)):
            with open(os.path.join(folder.name, str(member.number)), "wb") as file:
                shutil.copyfileobj(content, file, 1 << 20)
    tree = Tree(source, tuple(numbers), tuple(refused), numbers, folder.name)
    object.__setattr__(tree, "_folder", folder)  # lives as long as the tree
    return tree


def is_archive(name: str) -> bool:
    """Whether a file's name is that of an archive."""
    return name.lower().endswith(ARCHIVES)


def members_of(
    archive: str, refused: list[tuple[str, str]] | None = None
) -> Iterator[tuple[Member, str, BinaryIO]]:
    """(member, name, content) of each file of an archive in order; content is read at once or not.

    Args:
      refused: gets (name, reason) of members that are not taken.

    Raises:
      CorpusError: see ``open_source``.
    """
    refused = [] if refused is None else refused
    count = 0
    with open(archive, "rb") as file:
        limit = os.fstat(file.fileno()).st_size * MOST_EXPANDED + SLACK
        for name, content in _walk(file, archive, "", 0, refused, [limit]):
            yield Member(archive, count), name, content
            count += 1


def _walk(
    file: BinaryIO,
    archive: str,
    above: str,
    depth: int,
    refused: list[tuple[str, str]],
    left: list[int],
) -> Iterator[tuple[str, BinaryIO]]:
    try:
        with tarfile.open(fileobj=file, mode="r|*", tarinfo=_Info) as tar:
            for info in tar:
                left[0] -= info.size + tarfile.BLOCKSIZE
                if left[0] < 0:
                    raise CorpusError(
                        f"{archive} expands to over {MOST_EXPANDED} times its size; that is no "
                        "corpus but a decompression bomb"
                    )
                said = info.name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
                name = posixpath.normpath(posixpath.join(above, said))
                if info.isdir():
                    continue
                reason = _unsafe(info)
                if reason:
                    refused.append((f"{above}/{said}" if above else said, reason))
                    continue
                content = tar.extractfile(info)
                if is_archive(name) and depth + 1 < DEEPEST:
                    yield from _walk(content, archive, name, depth + 1, refused, left)
                elif is_archive(name):
                    refused.append((name, f"archives nest more than {DEEPEST} deep"))
                else:
                    yield name, content
                tar.members = []  # a stream needs no list of what has passed
    except (tarfile.TarError, EOFError, OSError, zlib.error, lzma.LZMAError) as error:
        where = f"{above} in {archive}" if above else archive
        raise CorpusError(
            f"{where} is damaged or truncated ({error}); download it again"
        ) from error


class _Info(tarfile.TarInfo):
    """Refuses long headers, which tarfile would read into memory whole."""

    def _proc_member(self, tar):
        if self.type in (*tarfile.GNU_TYPES, *_PAX) and self.size > LONGEST_HEADER:
            raise tarfile.ReadError(f"a header of {self.size} bytes")
        return super()._proc_member(tar)


_PAX = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE)


def _unsafe(info: tarfile.TarInfo) -> str:
    name = info.name.replace("\\", "/")
    if not info.isfile() or info.issparse():
        return "link in an archive" if info.issym() or info.islnk() else "device in an archive"
    if name.startswith("/") or name[1:2] == ":" or "\0" in name:
        return "absolute name in an archive"
    if ".." in name.split("/"):
        return "name that leads out of its archive"
    if info.size > LARGEST:
        return f"over {LARGEST >> 30} GiB: {info.size} bytes"
    return ""


def _below(folder: str) -> Iterator[str]:
    """Names of all files below a folder, sorted; links to folders are followed once."""
    found, seen = [], set()
    for place, below, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:
            below.clear()
            continue
        seen.add(real)
        prefix = Path(place).relative_to(folder)
        found.extend((prefix / name).as_posix() for name in names)
    return iter(sorted(found))


def _lines(file: io.TextIOBase) -> Iterator[tuple[int, str | None]]:
    number = 0
    while line := file.readline(LONGEST_LINE + 1):
        number += 1
        too_long = len(line) > LONGEST_LINE and not line.endswith("\n")
        while too_long and (rest := file.readline(LONGEST_LINE)) and not rest.endswith("\n"):
            pass
        yield number, None if too_long else line.removesuffix("\n").removesuffix("\r")
