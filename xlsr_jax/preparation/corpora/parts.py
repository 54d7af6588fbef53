"""Parts of a source: subsets and languages that lie in one folder or archive, or in several."""

import dataclasses
import os
import posixpath
import re
from collections.abc import Iterator

from xlsr_jax.data.records import CorpusError
from xlsr_jax.preparation.archives import ARCHIVES, Tree, is_archive

AUDIO = (".flac", ".opus")
MISSING = "file is missing"


def root(tree: Tree) -> str:
    """The name of a tree's folder or archive, without its suffix, and "/"."""
    return stem(os.path.basename(os.path.abspath(tree.source))) + "/"


def stem(archive: str) -> str:
    """An archive's name without folders and suffix; other names as they are."""
    name = posixpath.basename(archive)
    suffix = next((each for each in ARCHIVES if name.lower().endswith(each)), "")
    return name[: len(name) - len(suffix)]


def archives_in(tree: Tree) -> Iterator[str]:
    """Paths of the archives that lie in a folder; none of an archive, whose own are read anyway."""
    if os.path.isdir(tree.source):
        yield from (os.path.join(tree.source, name) for name in tree.names if is_archive(name))


@dataclasses.dataclass(frozen=True)
class Part:
    """The files of a source that begin alike, such as those of a subset.

    Attributes:
      tree: where they are.
      prefix: how their names begin, with "/" at its end, after ``root`` is put before them.
    """

    tree: Tree
    prefix: str

    @property
    def root(self) -> str:
        """The source's own name, which tells what lies in it where its members do not."""
        return root(self.tree)

    def files(self) -> Iterator[tuple[str, str]]:
        """(name in the tree, what follows the prefix) of each, in the tree's order."""
        above, prefix = self.root, self.prefix
        for name in self.tree.names:
            if (whole := above + name).startswith(prefix):
                yield name, whole[len(prefix) :]

    def name(self, below: str) -> str:
        """The name in the tree of what follows the prefix."""
        return (self.prefix + below)[len(self.root) :]

    def barred(self, pattern: re.Pattern[str], part: str, first: bool) -> dict[str, str]:
        """{name: reason} of audio files that reading the archive refused.

        Args:
          pattern: its group "part" says to which part a name belongs.
          part: this one.
          first: whether it also takes names that fit nowhere.
        """
        reasons = {}
        for name, reason in self.tree.refused:
            match = pattern.fullmatch(self.root + name)
            mine = match["part"] == part if match else first
            if mine and name.endswith(AUDIO):
                reasons[posixpath.normpath(name)] = reason
        return reasons

    def described(self) -> str:
        """For a fingerprint: what is there, the same wherever it lies."""
        above = len(self.prefix) - len(self.root)

        def wanted(name: str) -> bool:
            mine = (self.root + name).startswith(self.prefix)
            return mine and name.endswith((*AUDIO, ".txt"))

        return self.tree.described(wanted, max(above, 0))


def twice(what: str, one: Part, other: Part) -> CorpusError:
    """The error of a subset that lies in two places."""
    return CorpusError(
        f"{what} is there twice: {one.prefix} of {one.tree.source} and {other.prefix} of "
        f"{other.tree.source}; give one of them as --source"
    )
