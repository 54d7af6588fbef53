"""Given sentences, spoken by espeak-ng in voices that the demonstration corpus does not have.

The source holds ``<language>/<split>.text``, a sentence a line with its id and a tab before it, as
the published few-shot lists of Common Voice come. ``val`` is taken as ``valid``; where there is no
test list, every second sentence of the validation is a test sentence.
"""

import argparse
import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path

from xlsr_jax.data.records import CorpusError, sha256
from xlsr_jax.preparation.corpora import voices
from xlsr_jax.preparation.corpora.base import Utterance
from xlsr_jax.text import espeak

REVISION = 1  # to be raised when a change of this file or of voices.py changes the corpus
LISTS = {"train": ("train",), "valid": ("valid", "val", "dev"), "test": ("test",)}


@dataclasses.dataclass(frozen=True)
class SpokenSentences:
    """Corpus reader (``base.Corpus``) of sentence lists.

    Attributes:
      source: the folder with a folder for each language.
      languages: their names, which are espeak's too (or ``voices.ESPEAK_VOICES``'); () for all.
      seed: of voices and recording channels.
    """

    source: str
    languages: tuple[str, ...] = ()
    seed: int = 0
    name: str = "spoken_sentences"

    def splits(self) -> Sequence[str]:
        return tuple(split for split in LISTS if any(self._sentences[split].values()))

    def utterances(self, split: str) -> Sequence[Utterance]:
        return [
            self._utterance(language, split, identity, text)
            for language, sentences in self._sentences[split].items()
            for identity, text in sentences
        ]

    def fingerprint(self) -> Mapping[str, str]:
        files = {f"{path.parent.name}/{path.name}": sha256(path) for path in self._files.values()}
        return {
            "languages": " ".join(self._languages),
            "seed": str(self.seed),
            "revision": str(REVISION),
            **{f"{name} version": number for name, number in espeak.versions().items()},
            **files,
        }

    def _utterance(self, language: str, split: str, identity: str, text: str) -> Utterance:
        rng = voices.generator(self.seed, language, split, identity)
        speaker, voice = voices.OTHERS.draw(language, split, rng)
        load = functools.partial(voices.speak_and_record, text, voice, self.seed, identity)
        return Utterance(identity, language, load, text, speaker)

    @functools.cached_property
    def _languages(self) -> tuple[str, ...]:
        source = Path(self.source)
        if not source.is_dir():
            raise CorpusError(f"no folder {source}; give one that holds <language>/train.text")
        found = sorted(path.parent.name for path in source.glob("*/train.text"))
        missing = [language for language in self.languages if language not in found]
        if missing or not found:
            raise CorpusError(
                f"{source} has no {', '.join(f'{name}/train.text' for name in missing or '*')}; "
                f"it has {', '.join(found) or 'no language'}"
            )
        return self.languages or tuple(found)

    @functools.cached_property
    def _files(self) -> dict[tuple[str, str], Path]:
        """The list of each (language, split) that has one."""
        folders = {language: Path(self.source) / language for language in self._languages}
        return {
            (language, split): path
            for language, folder in folders.items()
            for split, names in LISTS.items()
            for path in [folder / f"{name}.text" for name in names]
            if path.is_file()
        }

    @functools.cached_property
    def _sentences(self) -> dict[str, dict[str, list[tuple[str, str]]]]:
        """(id, text) pairs by split and language."""
        listed = {split: {language: [] for language in self._languages} for split in LISTS}
        for (language, split), path in self._files.items():
            listed[split][language] = _read(path)
        for language in self._languages:
            if not listed["test"][language]:
                held_out = listed["valid"][language]
                listed["valid"][language] = held_out[::2]
                listed["test"][language] = held_out[1::2]
        return listed


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The command line's options of this reader."""
    add = parser.add_argument
    add("--source", required=True, help="folder of LANGUAGE/train.text, val.text: id, tab, text")
    add("--seed", type=int, default=0)
    add("--languages", nargs="+", metavar="LANGUAGE", help="default all of the source")


def from_flags(options: argparse.Namespace) -> SpokenSentences:
    """The reader that the command line asks for."""
    return SpokenSentences(options.source, tuple(options.languages or ()), options.seed)


def _read(path: Path) -> list[tuple[str, str]]:
    pairs = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise CorpusError(f"{path} cannot be read as UTF-8 text: {error}") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        identity, tab, text = line.partition("\t")
        if not tab or not text.strip():
            raise CorpusError(f"{path}, line {number} must be an id, a tab and a sentence")
        pairs.append((identity, text.strip()))
    return pairs
