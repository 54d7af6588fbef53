"""Vocabularies of other libraries: vocab.json of a tokenizer, dict.*.txt and JSON of fairseq.

Which token is the blank is told by its name, never by its number: transformers calls it by the
tokenizer's pad token, fairseq ``<s>``, wherever these stand.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from xlsr_jax.interop.tensors import read_json
from xlsr_jax.schema import ConfigError
from xlsr_jax.text.vocabulary import BLANK, DELIMITER, Vocabulary

FAIRSEQ_SPECIALS = ("<s>", "<pad>", "</s>", "<unk>")
FAIRSEQ_BLANKS = ("<ctc_blank>", "<s>")
SPECIALS = {"<s>", "</s>", "<pad>", "<unk>", "[PAD]", "[UNK]", "<ctc_blank>", "<mask>"}
LONGEST_DICTIONARY = 32 << 20  # bytes
OF_LANGUAGE = re.compile(r"\([^()]+\)(.+)")


@dataclasses.dataclass(frozen=True)
class Tokens:
    """Tokens of a classifier.

    Attributes:
      names: in the order of its outputs.
      blank: number of the blank.
      unit: "characters" or "phonemes"; "" where nothing tells.
      delimiter: between words.
      origin: file that they are from.
    """

    names: tuple[str, ...]
    blank: int
    unit: str = ""
    delimiter: str = DELIMITER
    origin: str = ""

    @property
    def order(self) -> tuple[int, ...]:
        """Outputs in our order: the blank before the others."""
        others = (number for number in range(len(self.names)) if number != self.blank)
        return (self.blank, *others)

    def vocabulary(self, languages: Sequence[str] = (), unit: str = "") -> Vocabulary:
        """The vocabulary, blank first.

        Labels of ours are lower case: symbols are so too, where all of theirs that have a case are
        upper case. Symbols named "(es)t" belong to languages.

        Raises:
          ConfigError: tokens that cannot be told apart.
        """
        names = [self.names[number] for number in self.order[1:]]
        names = [DELIMITER if name == self.delimiter else name for name in names]
        plain = [name for name in names if name not in SPECIALS and name != DELIMITER]
        separate = bool(plain) and all(OF_LANGUAGE.fullmatch(name) for name in plain)
        unit = unit or self.unit or _unit(names, plain)
        lowered = [name if name in SPECIALS else name.lower() for name in names]
        shouting = not any(name != name.upper() for name in plain)
        if unit == "characters" and shouting and len(set(lowered)) == len(names):
            names = lowered
        if separate:
            # What belongs to no language is in no language's share of the symbols.
            names = [name if OF_LANGUAGE.fullmatch(name) else f"(){name}" for name in names]
            languages = sorted({name[1 : name.index(")")] for name in names} - {""})
        try:
            return Vocabulary((BLANK, *names), unit, separate, tuple(sorted(languages)))
        except ValueError as error:
            raise ConfigError(f"{self.origin}: {error}") from error


def _unit(names: Sequence[str], plain: Sequence[str]) -> str:
    letters = sum(len(name) == 1 for name in plain)
    return "characters" if DELIMITER in names and letters >= 0.9 * len(plain) else "phonemes"


def numbered(classes: int, blank: int) -> Tokens:
    """Stand-ins for tokens that no file tells."""
    names = tuple(f"<{number}>" for number in range(classes))
    return Tokens(names, blank, "phonemes", origin="(none)")


def read_hub(folder: Path, vocabulary: Path | None, classes: int, pad: Any) -> Tokens | None:
    """The tokens of a Hugging Face folder; None where it has no vocab.json.

    Tokens that were added beyond the classifier's outputs are left out: no output writes them.

    Args:
      vocabulary: a vocab.json elsewhere.
      classes: outputs of the classifier.
      pad: ``pad_token_id`` of config.json, where it says which output is the blank; None where it
        does not.

    Raises:
      CheckpointError, ConfigError: files that cannot be read, or contradict each other.
    """
    path = vocabulary or folder / "vocab.json"
    if not path.is_file():
        if vocabulary is not None:
            raise ConfigError(f"--vocabulary: there is no file {vocabulary}")
        return None
    settings: dict[str, Any] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        if (folder / name).is_file():
            settings |= read_json(folder / name)
    numbers = _numbers(read_json(path), path)
    added = _added(folder, settings)
    numbers |= {token: n for token, n in added.items() if token not in numbers and n < classes}
    names = _in_order(numbers, path)
    pad_token = _text(settings.get("pad_token", "<pad>"))
    if pad_token not in numbers:
        raise ConfigError(f"{path} has no {pad_token!r}, which is the blank of CTC; name it there")
    blank = numbers[pad_token]
    if pad is not None and pad != blank:
        raise ConfigError(
            f"{folder} contradicts itself: pad_token_id is {pad} in config.json, and {pad_token!r} "
            f"is {blank} in {path.name}; mend the one that is wrong"
        )
    kind = str(settings.get("tokenizer_class", ""))
    unit = {"Wav2Vec2PhonemeCTCTokenizer": "phonemes", "Wav2Vec2CTCTokenizer": "characters"}
    delimiter = settings.get("word_delimiter_token", DELIMITER)
    delimiter = _text(delimiter) if delimiter else DELIMITER
    return Tokens(names, blank, unit.get(kind.removesuffix("Fast"), ""), delimiter, str(path))


def _added(folder: Path, settings: Mapping[str, Any]) -> dict[str, int]:
    found = {}
    if (folder / "added_tokens.json").is_file():
        path = folder / "added_tokens.json"
        found = _numbers(read_json(path), path)
    decoder = settings.get("added_tokens_decoder", {})
    for number, token in decoder.items() if isinstance(decoder, dict) else ():
        if number.isdecimal() and len(number) < 9:
            found.setdefault(_text(token), int(number))
    return found


def _text(token: Any) -> str:
    """A token as text, also where a file has {"content": token, ...}."""
    return str(token.get("content", "")) if isinstance(token, Mapping) else str(token)


def read_fairseq(path: Path) -> Tokens:
    """The tokens of ``dict.*.txt``, specials before them, or of a JSON, specials behind them.

    Raises:
      CheckpointError, ConfigError: a file that cannot be read or is none.
    """
    if path.suffix == ".json":
        names = _in_order(_numbers(read_json(path), path), path)
        names += tuple(name for name in FAIRSEQ_SPECIALS if name not in names)
        return of_fairseq(names, str(path))
    try:
        if path.stat().st_size > LONGEST_DICTIONARY:
            raise ConfigError(f"{path} is larger than 32 MB; it is no dictionary")
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read as a dictionary: {error}") from error
    names = list(FAIRSEQ_SPECIALS)
    for number, line in enumerate(lines, 1):
        line = line.removesuffix("\r").removesuffix(" #fairseq:overwrite")
        if not line:
            continue
        symbol, space, count = line.rpartition(" ")
        if not space or not count.lstrip("-").isdecimal():
            raise ConfigError(f"{path} line {number}: a symbol, a space and a count are wanted")
        names.append(symbol)
    return of_fairseq(tuple(names), str(path))


def of_fairseq(names: tuple[str, ...], origin: str) -> Tokens:
    """Tokens of a dictionary, its specials among them.

    Raises:
      ConfigError: none of them is the blank.
    """
    blanks = [names.index(name) for name in FAIRSEQ_BLANKS if name in names]
    if not blanks:
        raise ConfigError(f"{origin} has no <s>, which is the blank of fairseq's CTC")
    return Tokens(names, blanks[0], origin=origin)


def _numbers(values: Mapping[str, Any], path: Path) -> dict[str, int]:
    if not all(type(number) is int for number in values.values()):
        raise ConfigError(f"{path} is no flat table of tokens and numbers; give one language's")
    return dict(values)


def _in_order(numbers: Mapping[str, int], path: Path) -> tuple[str, ...]:
    if sorted(numbers.values()) != list(range(len(numbers))):
        raise ConfigError(f"{path}: {len(numbers)} tokens are not numbered 0 to {len(numbers) - 1}")
    return tuple(sorted(numbers, key=numbers.__getitem__))
