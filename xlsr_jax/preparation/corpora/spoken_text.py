"""The demonstration corpus: sentences of eleven languages, spoken by espeak-ng.

The languages are those of the XLSR paper's Common Voice experiments, with train hours in the same
proportions. Every utterance has its own sentence, one of ten voices and its own recording channel:
silence at both ends, band limits, noise at 5 to 30 dB, level. All of it is drawn from (seed, id),
so that neither order nor process matters. Eight voices speak in all splits, two only in validation
and test.
"""

import argparse
import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from xlsr_jax.data.records import CorpusError
from xlsr_jax.preparation import channel
from xlsr_jax.preparation.corpora import sentences, voices
from xlsr_jax.preparation.corpora.base import Utterance
from xlsr_jax.text import espeak

REVISION = 1  # to be raised when a change here or in what it is made of changes the corpus

# Train hours of Common Voice in XLSR (arXiv:2006.13979): Table 1, and section 3.3 for English.
COMMON_VOICE_HOURS = {
    "es": 168, "fr": 353, "it": 90, "ky": 17, "nl": 29, "ru": 55, "sv": 3, "tr": 11, "tt": 17,
    "zh": 50, "en": 557,
}  # fmt: skip
# At 175 words a minute, as measured; where a release of espeak-ng or CLDR changes it, the speech of
# the first train utterances corrects it.
CHARACTERS_PER_SECOND = {
    "es": 16.0, "fr": 20.0, "it": 16.0, "ky": 13.8, "nl": 16.4, "ru": 18.2, "sv": 14.8, "tr": 13.3,
    "tt": 14.6, "zh": 4.4, "en": 15.2,
}  # fmt: skip
SHORTEST, LONGEST, MEDIAN, SPREAD = 2.0, 10.0, 4.7, 0.4  # seconds; a log-normal, mean about 5
FEWEST = 3  # utterances of a language, however small its share
MEASURED = 40  # first train utterances of a language that are spoken to learn how long they last


@dataclasses.dataclass(frozen=True)
class SpokenText:
    """Corpus reader (``base.Corpus``) that makes up sentences and speaks them.

    Attributes:
      hours: of train audio in total; the languages share it in proportion to their hours in
        Common Voice, but no language has fewer than ``FEWEST`` utterances.
      seed: of everything drawn.
      languages: codes, of ``COMMON_VOICE_HOURS``.
      valid_utterances, test_utterances: per language.
    """

    hours: float
    seed: int = 0
    languages: tuple[str, ...] = tuple(COMMON_VOICE_HOURS)
    valid_utterances: int = 25
    test_utterances: int = 25
    name: str = "spoken_text"

    def __post_init__(self):
        unknown = [language for language in self.languages if language not in COMMON_VOICE_HOURS]
        if unknown or not self.languages:
            raise CorpusError(f"spoken_text does not speak {', '.join(unknown) or 'no language'}; "
                              f"it speaks {', '.join(COMMON_VOICE_HOURS)}")
        if len(set(self.languages)) < len(self.languages):
            raise CorpusError(f"a language is named twice in {', '.join(self.languages)}")
        if not 0 < self.hours < float("inf"):
            raise CorpusError(f"hours of spoken_text must be above 0; got {self.hours}")

    def splits(self) -> Sequence[str]:
        counts = {"train": 1, "valid": self.valid_utterances, "test": self.test_utterances}
        return tuple(split for split in sentences.SPLITS if counts[split] > 0)

    def utterances(self, split: str) -> Sequence[Utterance]:
        """Lists a split, language by language; speaks ``MEASURED`` utterances of each for train."""
        if split not in self.splits():
            raise CorpusError(f"spoken_text has no split {split!r}; it has "
                              f"{', '.join(self.splits())}")
        list_language = self._train if split == "train" else self._held_out
        return [
            utterance
            for language in self.languages
            for utterance in list_language(language, split)
        ]

    def fingerprint(self) -> Mapping[str, str]:
        from importlib.metadata import version

        from babel.core import get_cldr_version

        options = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        software = {name: version(name) for name in ("babel", "num2words", "numpy", "scipy")}
        software |= {"cldr": get_cldr_version()} | espeak.versions()
        made_with = {f"{name} version": number for name, number in software.items()}
        made_with |= {key: str(value) for key, value in options.items() if key != "name"}
        return made_with | {"languages": " ".join(self.languages), "revision": str(REVISION)}

    def _train(self, language: str, split: str) -> Iterator[Utterance]:
        """Utterances of one language until their length, part measured, part foreseen, is enough.

        What a text foretells is a few per cent off in the mean, and the hours have to keep their
        proportions; the speech of the first utterances gives the correction.
        """
        share = COMMON_VOICE_HOURS[language] / sum(map(COMMON_VOICE_HOURS.get, self.languages))
        left = budget = self.hours * 3600 * share  # seconds
        most = max(SHORTEST, budget / FEWEST)
        lasted = foreseen = 1.0  # seconds of speech
        seen: set[str] = set()
        index = 0
        while left > SHORTEST / 2 or index < FEWEST:
            rng = voices.generator(self.seed, language, split, index)
            wanted = min(_duration(rng), most)
            if left - wanted < SHORTEST:  # the last one takes what is left
                wanted = min(max(left, SHORTEST), LONGEST)
            draft = self._draft(language, split, index, wanted, lasted / foreseen, rng, seen)
            if index < MEASURED:
                spoken = espeak.speak(draft.text, draft.voice).seconds
                lasted, foreseen = lasted + spoken, foreseen + draft.speech
            else:
                spoken = draft.speech * lasted / foreseen
            left -= spoken + draft.silence
            index += 1
            yield draft.utterance(self.seed)

    def _held_out(self, language: str, split: str) -> Iterator[Utterance]:
        seen: set[str] = set()
        count = self.valid_utterances if split == "valid" else self.test_utterances
        for index in range(count):
            rng = voices.generator(self.seed, language, split, index)
            draft = self._draft(language, split, index, _duration(rng), 1.0, rng, seen)
            yield draft.utterance(self.seed)

    def _draft(
        self,
        language: str,
        split: str,
        index: int,
        seconds: float,
        slowness: float,
        rng: np.random.Generator,
        seen: set[str],
    ) -> "_Draft":
        """An utterance that should last ``seconds``, with a text that is not yet ``seen``.

        ``slowness`` is how much longer speech lasts than ``CHARACTERS_PER_SECOND`` foretells.
        """
        utterance_id = f"{language}-{split}-{index:06d}"
        speaker, voice = voices.DEMONSTRATION.draw(language, split, rng)
        recording = channel.draw(voices.generator(self.seed, utterance_id))
        silence = recording.before + recording.after
        pace = CHARACTERS_PER_SECOND[language] * voice.rate / 175
        characters = (seconds - silence) * pace / slowness
        while (text := sentences.sentence(language, split, characters, rng)) in seen:
            characters += 0.1  # so that the search ends, however few texts are that short
        seen.add(text)
        speech = len(text) / pace
        return _Draft(utterance_id, language, text, speaker, voice, silence, speech)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The command line's options of this reader."""
    add = parser.add_argument
    add("--hours", type=float, default=2.0, help="of training audio in all; default %(default)s")
    add("--seed", type=int, default=0)
    add("--languages", nargs="+", metavar="LANGUAGE", help="default all eleven")
    add("--valid-utterances", type=int, default=25, help="per language; default %(default)s")
    add("--test-utterances", type=int, default=25, help="per language; default %(default)s")


def from_flags(options: argparse.Namespace) -> SpokenText:
    """The reader that the command line asks for."""
    languages = {"languages": tuple(options.languages)} if options.languages else {}
    return SpokenText(
        hours=options.hours,
        seed=options.seed,
        valid_utterances=options.valid_utterances,
        test_utterances=options.test_utterances,
        **languages,
    )


@dataclasses.dataclass(frozen=True)
class _Draft:
    """An utterance to be spoken, with seconds of ``silence`` (exact) and ``speech`` (foreseen)."""

    id: str
    language: str
    text: str
    speaker: str
    voice: espeak.Voice
    silence: float
    speech: float

    def utterance(self, seed: int) -> Utterance:
        load = functools.partial(voices.speak_and_record, self.text, self.voice, seed, self.id)
        return Utterance(self.id, self.language, load, self.text, self.speaker)


def _duration(rng: np.random.Generator) -> float:
    return float(np.clip(MEDIAN * np.exp(SPREAD * rng.standard_normal()), SHORTEST, LONGEST))
