"""Several corpora as one, such as the papers pretrained on.

    python -m xlsr_jax.prepare mixes --recipe xlsr53 --common_voice cv-corpus-4-2019-12-10 \\
        --mls downloads/mls --babel downloads/babel --output corpora/xlsr_53
    python -m xlsr_jax.prepare mixes --parts parts.tsv --output corpora/mine

A recipe names the corpora of a paper and, of each, the languages to take; the others are left out.
Common Voice is read with its reader's --pretraining. --parts is a .tsv with a line "reader source
options name" above, options as on the command line, or a .json of a list of objects with these keys
(options a list); reader is a command of this program. Sources lie where the command line would
find them. With a recipe, parts by readers that it does not know keep all their languages.

Splits are the parts' own, equal names together. Where there is more than one part, ids and speakers
begin with the part's name, which is the reader's unless given, with -2, -3 ... for further ones.

Languages get one code for all corpora: sv-SE becomes sv, ga-IE ga, zh-CN zh, hy-AM hy, ne-NP ne,
nn-NO nn, pa-IN pa; zh-HK and zh-TW stay. In BABEL, the XLSR paper's zh (Cantonese), ku (Kurmanji)
and tp (Tok Pisin) become yue, kmr and tpi, as the reader has them.
"""

import argparse
import csv
import dataclasses
import importlib
import importlib.util
import json
import re
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from xlsr_jax.data.records import SAMPLE_RATE, CorpusError, Manifest
from xlsr_jax.preparation.corpora.base import Corpus, Utterance

CODES = {
    "sv-SE": "sv", "ga-IE": "ga", "zh-CN": "zh", "hy-AM": "hy", "ne-NP": "ne", "nn-NO": "nn",
    "pa-IN": "pa",
}  # fmt: skip
BABEL_CODES = {"zh": "yue", "ku": "kmr", "tp": "tpi"}
ORDER = ("train", "valid", "test")
KEYS = ("reader", "source", "options", "name")


def _stated(text: str) -> dict[str, float]:
    """{language: hours} of "es:168 ky", 0 where none are stated."""
    pairs = (each.partition(":") for each in text.split())
    return {language: float(hours or 0) for language, _, hours in pairs}


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What a paper trained on.

    Attributes:
      hours: {reader: {language: hours stated, 0 where none are}}.
      sums: {reader: hours stated of all its languages}.
      where: the sections and tables that state them.
    """

    hours: Mapping[str, Mapping[str, float]]
    sums: Mapping[str, float]
    where: str


# The 793 h of Table 1; with them go 557 of the 1,350 h of English, for the user to choose.
_TEN = "es:168 fr:353 it:90 ky:17 nl:29 ru:55 sv:3 tr:11 tt:17 zh:50"
_BABEL_10 = "bn yue ka:46 ht kmr ps ta tr tpi vi"
_BABEL_4 = "as:55 tl:76 sw:30 lo:59"
# The release of XLSR-53 lists these names; 52 of them differ, as Tamil and Turkish are in two.
_CV_36 = """ar br cnh cv cy de dv en eo es et eu fa fr ga ia id it ja kab ky lv mn nl pt ru rw sah
    sl sv ta tr tt zh zh-HK zh-TW"""
_MLS_8 = "en:44659.74 de:1966.51 nl:1554.24 fr:1076.58 es:917.68 it:247.38 pt:160.96 pl:103.65"
_BABEL_17 = "as bn yue ceb ka ht kk kmr lo ps sw tl ta tpi tr vi zu"

RECIPES = {
    "xlsr10": Recipe(
        {"common_voice": _stated(_TEN + " en:557")},
        {"common_voice": 1350},
        "XLSR, Table 1 and section 3.3",
    ),
    "xlsr_english": Recipe(
        {"common_voice": _stated("en:1350")}, {"common_voice": 1350}, "XLSR, section 3.3"
    ),
    "babel10": Recipe({"babel": _stated(_BABEL_10)}, {"babel": 650}, "XLSR, section 3.3, Table 3"),
    "babel14": Recipe(
        {"babel": _stated(f"{_BABEL_10} {_BABEL_4}")},
        {"babel": 870},
        "XLSR, section 3.3, Tables 2 and 3",
    ),
    "xlsr53": Recipe(
        {"common_voice": _stated(_CV_36), "mls": _stated(_MLS_8), "babel": _stated(_BABEL_17)},
        {"common_voice": 3600, "mls": 50700, "babel": 1700},
        "the release of XLSR-53; for MLS its paper, arXiv 2012.03411",
    ),
    "unispeech": Recipe(
        {"common_voice": _stated("en:1350 es:168 fr:353 it:90 ky:17 nl:29 ru:55 sv:3 tt:17")},
        {"common_voice": 2082},
        "UniSpeech, section 4.1 and Table 1",
    ),
}
READERS = ("common_voice", "mls", "babel")  # of the recipes
OPTIONS = {"common_voice": ("--pretraining",)}  # of those, in recipes


@dataclasses.dataclass(frozen=True)
class Part:
    """One corpus of a mix.

    Attributes:
      name: what its ids begin with.
      reader: module of ``xlsr_jax.preparation.corpora``.
    """

    name: str
    reader: str
    corpus: Corpus


@dataclasses.dataclass(frozen=True)
class Mix:
    """Reader of several corpora; see the module's docstring for the rules."""

    parts: tuple[Part, ...]
    recipe: str = ""
    name: str = "mix"

    def splits(self) -> Sequence[str]:
        found = {split for part in self.parts for split in part.corpus.splits()}
        return [*(split for split in ORDER if split in found), *sorted(found - set(ORDER))]

    def utterances(self, split: str) -> Iterator[Utterance]:
        for part in self.parts:
            if split in part.corpus.splits():
                yield from self._of(part, split)

    def fingerprint(self) -> Mapping[str, str]:
        """The recipe, and all that the parts' own say."""
        merged = {"recipe": self.recipe or "none", "parts": " ".join(p.name for p in self.parts)}
        for part in self.parts:
            merged[f"{part.name} reader"] = part.reader
            own = part.corpus.fingerprint()
            merged |= {f"{part.name} {key}": value for key, value in own.items()}
        return merged

    def notes(self, manifest: Manifest) -> Sequence[str]:
        """What the parts have to say, and with a recipe the hours stated and found."""
        lines = []
        for part in self.parts:
            said = part.corpus.notes(manifest) if hasattr(part.corpus, "notes") else ()
            lines += [f"{part.name}: {line}" for line in said]
        return (*lines, *([hours_table(manifest, self.recipe)] if self.recipe else ()))

    def _of(self, part: Part, split: str) -> Iterator[Utterance]:
        prefix = f"{part.name}/" if len(self.parts) > 1 else ""
        wanted = RECIPES[self.recipe].hours.get(part.reader) if self.recipe else None
        for utterance in part.corpus.utterances(split):
            language = code(part.reader, utterance.language)
            if wanted is None or language in wanted:
                yield dataclasses.replace(
                    utterance,
                    id=prefix + utterance.id,
                    language=language,
                    speaker=utterance.speaker and prefix + utterance.speaker,
                )


def code(reader: str, language: str) -> str:
    """The code that a mix has for a corpus' language."""
    own = BABEL_CODES if reader == "babel" else CODES
    return own.get(language, language)


def hours_table(manifest: Manifest, recipe: str) -> str:
    """The hours that a paper states beside those of the split train, by language.

    "+" marks languages of which another corpus has hours that the paper does not state, "-" those
    of which none are stated.
    """
    told = RECIPES[recipe]
    found: Counter[str] = Counter()
    for shard in manifest.shards:
        if shard.split == "train":
            found[shard.language] += shard.samples / SAMPLE_RATE / 3600
    stated: dict[str, list[float]] = {}
    for hours in told.hours.values():
        for language, some in hours.items():
            stated.setdefault(language, []).append(some)
    lines = [f"{'language':<12}{'stated h':>12}{'found h':>12}"]
    for language in sorted(stated.keys() | found):
        some = stated.get(language, [])
        shown = f"{sum(some):.1f}" if any(some) else "-"
        mark = "+" if any(some) and not all(some) else " "
        lines.append(f"{language:<12}{shown:>11}{mark}{found[language]:>12.3f}")
    lines.append(f"{'all':<12}{sum(told.sums.values()):>11.1f} {found.total():>12.3f}")
    sums = ", ".join(f"{reader} {hours:,g} h" for reader, hours in told.sums.items())
    lacking = [language for language in stated if not found[language]]
    lines.append(f"{recipe} ({told.where}): {sums}")
    lines += [f"languages without audio: {' '.join(sorted(lacking))}"] if lacking else []
    return "\n".join(lines)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The command line's options of this reader."""
    add = parser.add_argument
    add("--recipe", choices=tuple(RECIPES), default="", help="what a paper trained on")
    for reader in READERS:
        add(f"--{reader}", action="append", default=[], metavar="SOURCE",
            help=f"as --source of {reader}; may be repeated")  # fmt: skip
    add("--parts", default="", metavar="FILE", help=f".tsv or .json with {', '.join(KEYS)}")
    add("--name", default="", help="corpus name in the manifest; default the recipe's, or mix")


def from_flags(options: argparse.Namespace) -> Mix:
    """The mix that the command line asks for."""
    rows = [
        {"reader": reader, "source": source,
         "options": OPTIONS.get(reader, ()) if options.recipe else ()}
        for reader in READERS for source in getattr(options, reader)
    ]  # fmt: skip
    rows += _listed(options.parts) if options.parts else []
    if not rows:
        flags = " ".join(f"--{reader}" for reader in READERS)
        raise CorpusError(f"a mix of nothing; give {flags} or --parts")
    return Mix(_parts(rows), options.recipe, options.name or options.recipe or "mix")


def _parts(rows: Sequence[Mapping[str, Any]]) -> tuple[Part, ...]:
    parts, count = [], Counter()
    for row in rows:
        reader = row["reader"]
        count[reader] += 1
        default = reader if count[reader] == 1 else f"{reader}-{count[reader]}"
        name = row.get("name") or default
        if name in (part.name for part in parts):
            raise CorpusError(f"two parts are named {name!r}; give each its own name")
        source = ("--source", row["source"]) if row.get("source") else ()
        parts.append(Part(name, reader, open_part(reader, (*source, *row.get("options", ())))))
    return tuple(parts)


def open_part(reader: str, arguments: Sequence[str]) -> Corpus:
    """The corpus that a reader makes of its command-line options.

    Raises:
      CorpusError: for a reader that is not there, or options that it does not take.
    """
    module = f"{__package__}.{reader}"
    if not re.fullmatch(r"[a-z]\w*", reader) or importlib.util.find_spec(module) is None:
        raise CorpusError(f"no reader {reader!r}; python -m xlsr_jax.prepare --help lists them")
    found = importlib.import_module(module)
    if not hasattr(found, "from_flags"):
        raise CorpusError(f"{reader!r} is no reader; python -m xlsr_jax.prepare --help lists them")
    parser = _Parser(prog=f"the part {reader!r}", add_help=False, allow_abbrev=False)
    found.add_flags(parser)
    return found.from_flags(parser.parse_args(list(arguments)))


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:
        raise CorpusError(f"{self.prog}: {message}")


def _listed(path: str) -> list[dict[str, Any]]:
    """The rows of a list of parts, options as lists."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            if path.endswith(".json"):
                rows = json.load(file)
            elif path.endswith(".tsv"):
                rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
            else:
                raise CorpusError(f"{path} must end in .tsv or .json")
    except (OSError, ValueError) as error:
        if isinstance(error, CorpusError):
            raise
        raise CorpusError(f"{path} cannot be read: {error}") from error
    if not isinstance(rows, list):
        raise CorpusError(f"{path} is no list of parts")
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict) or not row.get("reader") or set(row) - set(KEYS):
            raise CorpusError(
                f"part {number} of {path} must have a reader, and of {', '.join(KEYS)} no others"
            )
        if not isinstance(row.get("options"), list):
            row["options"] = shlex.split(row.get("options") or "")
    return rows
