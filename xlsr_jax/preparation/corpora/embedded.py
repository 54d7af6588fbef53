"""Tables whose rows hold the audio itself: what the readers of Parquet and TFDS data share."""

import argparse
import dataclasses
import os
import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence

from xlsr_jax.data import audio
from xlsr_jax.data.records import CorpusError
from xlsr_jax.data.speech import Speech, UnreadableAudio

# Names that published sets give the columns, the more telling ones first.
COLUMNS = {
    "audio": ("audio", "speech", "voice", "wav"),
    "text": ("sentence", "text", "transcription", "transcript", "normalized_text"),
    "speaker": ("speaker_id", "client_id", "speaker"),
    "language": ("locale", "language", "lang", "lang_id"),
    "id": ("id", "utterance_id", "path", "file"),
}
SPLITS = {"validation": "valid", "val": "valid", "dev": "valid"}  # theirs: ours
ORDER = ("train", "valid", "test")
NO_CODES = {"all", "raw", "dev", "val"}  # names that look like codes
UNKNOWN = "und"  # ISO 639 for a language that is not known


@dataclasses.dataclass(frozen=True)
class Rules:
    """How rows become utterances.

    Attributes:
      columns: (ours, theirs) pairs that overrule ``COLUMNS``; ("text", "") for none.
      language: of all rows; "" for what the data say.
      take: the splits to take, by their names there; () for all.
      renamed: (theirs, ours) pairs that overrule ``SPLITS``.
      max_seconds: longer utterances are set aside.
    """

    columns: tuple[tuple[str, str], ...] = ()
    language: str = ""
    take: tuple[str, ...] = ()
    renamed: tuple[tuple[str, str], ...] = ()
    max_seconds: float = 600.0

    def chosen(self, there: Mapping[str, str], where: str) -> dict[str, str]:
        """Their name for each of our columns, "" where there is none.

        Args:
          there: {name: kind} of the columns, of which "audio" is taken for the audio whatever its
            name, and only "text" for ids and languages: numbers tend to be those of sentences.
          where: what has these columns, for errors.

        Raises:
          CorpusError: for a column that was asked for and is not there, or where none is audio.
        """
        found = {}
        for ours, names in COLUMNS.items():
            names = [name for name in names if name in there]
            if ours == "audio":
                names = [name for name, kind in there.items() if kind == "audio"] + names
            elif ours in ("id", "language"):
                names = [name for name in names if there[name] == "text"]
            found[ours] = names[0] if names else ""
        for ours, theirs in self.columns:
            if ours not in COLUMNS:
                raise CorpusError(f"--column {ours}=: ours are {', '.join(COLUMNS)}")
            if theirs and theirs not in there:
                raise CorpusError(f"{where} has no column {theirs!r}; it has {', '.join(there)}")
            found[ours] = theirs
        if not found["audio"]:
            raise CorpusError(
                f"{where} has no audio that is known by its name; give --column audio=, one of "
                f"{', '.join(there)}"
            )
        return found

    def split(self, theirs: str) -> str:
        """Our name of a split."""
        return dict(self.renamed).get(theirs, SPLITS.get(theirs, theirs))

    def taken(self, theirs: Iterable[str], source: str) -> list[str]:
        """Their splits that are asked for, in the order of ours.

        Raises:
          CorpusError: for one that is not there.
        """
        there = sorted(set(theirs), key=lambda name: (_place(self.split(name)), name))
        for name in (*self.take, *dict(self.renamed)):
            if name not in there:
                raise CorpusError(f"{source} has no split {name!r}; it has {', '.join(there)}")
        return [name for name in there if not self.take or name in self.take]

    def described(self) -> dict[str, str]:
        """For a fingerprint."""
        return {
            "columns": _joined(self.columns) or "as named",
            "language": self.language or "by utterance",
            "splits": " ".join(self.take) or "all",
            "splits renamed": _joined(self.renamed) or "none",
            "max_seconds": str(self.max_seconds),
        }


def add_flags(parser: argparse.ArgumentParser, name: str) -> None:
    """The options that make ``Rules``, and the corpus' name."""
    add = parser.add_argument
    add(
        "--column",
        action="append",
        default=[],
        metavar="OURS=THEIRS",
        help=f"another name of a column ({', '.join(COLUMNS)}), such as text=normalized; nothing "
        "after = for none; may be repeated",
    )
    add("--language", default="", help="of everything; default what the data say")
    add("--splits", nargs="+", default=[], metavar="SPLIT", help="those to take; default all")
    add(
        "--split-as",
        action="append",
        default=[],
        metavar="THEIRS=OURS",
        help="another name for a split, such as train.clean.100=train; may be repeated",
    )
    add("--max-file-seconds", type=float, default=600.0,
        help="longer files are set aside unread; default %(default)g")  # fmt: skip
    add("--name", default=name, help="corpus name in the manifest")


def from_flags(options: argparse.Namespace) -> Rules:
    """The rules that the command line asks for."""
    return Rules(
        columns=_pairs("--column", options.column),
        language=options.language,
        take=tuple(options.splits),
        renamed=_pairs("--split-as", options.split_as),
        max_seconds=options.max_file_seconds,
    )


def _pairs(flag: str, given: Sequence[str]) -> tuple[tuple[str, str], ...]:
    for pair in given:
        if pair.count("=") != 1:
            raise CorpusError(f"{flag} {pair} must be two names with = between them")
    return tuple(tuple(pair.split("=")) for pair in given)


def _joined(pairs: Iterable[tuple[str, str]]) -> str:
    return " ".join(f"{one}={other}" for one, other in pairs)


def _place(split: str) -> tuple[int, str]:
    return (ORDER.index(split) if split in ORDER else len(ORDER), split)


def looks_like_a_code(name: str) -> bool:
    """Whether a folder's name may be a language: es, sv-SE, af_za."""
    return name not in NO_CODES and bool(re.fullmatch(r"[a-z]{2,3}([-_][A-Za-z0-9]{2,8})*", name))


def label(row: Mapping[str, object], column: str) -> str:
    """A row's label as text: UTF-8 decoded, numbers written; "" for None or no column."""
    value = row.get(column)
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return "" if value is None else str(value)


def decode(data: bytes, max_seconds: float) -> Speech:
    """``audio.decode`` of a file's bytes.

    Through a file, by which that tells what is truncated.

    Raises:
      UnreadableAudio: as that does.
    """
    with tempfile.TemporaryDirectory(prefix="xlsr_jax-audio-") as folder:
        path = os.path.join(folder, "audio")
        with open(path, "wb") as file:
            file.write(data)
        return audio.decode(path, max_seconds)


def check_length(samples: int, rate: int, max_seconds: float) -> None:
    """Raises ``UnreadableAudio`` for audio that is too long, in the words of ``audio.decode``."""
    if samples > max_seconds * rate:
        raise UnreadableAudio(f"too long: {samples / rate:.1f} s, over {max_seconds:g} s")
