"""The speakers of spoken corpora: espeak-ng's voices, through a recording channel of their own.

A speaker is a timbre with a rate and a pitch that stray a little from utterance to utterance. Two
casts have no timbre in common: what one corpus taught can be tried on the voices of the other. In
each, some voices are heard in validation and test only.
"""

import dataclasses
import hashlib
from collections.abc import Mapping

import numpy as np

from xlsr_jax.data import audio
from xlsr_jax.data.records import SAMPLE_RATE
from xlsr_jax.data.speech import Phone, Speech, UnreadableAudio
from xlsr_jax.preparation import channel
from xlsr_jax.text import espeak

# espeak voices of a language by its code; where there are two, they are accents. Another code is
# espeak's own.
ESPEAK_VOICES = {"en": ("en", "en-us"), "es": ("es", "es-419"), "zh": ("cmn",)}


@dataclasses.dataclass(frozen=True)
class Cast:
    """Speakers: name -> (espeak variant, words per minute, pitch of 0 to 99)."""

    shared: Mapping[str, tuple[str, int, int]]
    held_out: Mapping[str, tuple[str, int, int]]

    def draw(
        self, language: str, split: str, rng: np.random.Generator
    ) -> tuple[str, espeak.Voice]:
        """A speaker's name and the voice of this utterance."""
        names = sorted(self.shared) + sorted(self.held_out) * (split != "train")
        number = int(rng.integers(len(names)))
        variant, rate, pitch = {**self.shared, **self.held_out}[names[number]]
        accents = ESPEAK_VOICES.get(language, (language,))
        accent = accents[number % len(accents)]  # a speaker keeps to one
        rate = round(rate * rng.uniform(0.92, 1.08))
        pitch += int(rng.integers(-4, 5))
        return f"{language}-{names[number]}", espeak.Voice(accent, variant, rate, pitch)


DEMONSTRATION = Cast(
    shared={
        "f1": ("f1", 165, 50),
        "f2": ("f2", 185, 45),
        "f3": ("f3", 155, 60),
        "f5": ("f5", 175, 40),
        "m1": ("m1", 170, 50),
        "m3": ("m3", 190, 55),
        "m4": ("m4", 160, 40),
        "m7": ("m7", 150, 60),
    },
    held_out={"f4": ("f4", 180, 55), "m2": ("m2", 175, 45)},
)
OTHERS = Cast(
    shared={
        "adam": ("adam", 165, 50),
        "alicia": ("Alicia", 180, 50),
        "andrea": ("Andrea", 160, 45),
        "belinda": ("belinda", 175, 55),
        "denis": ("Denis", 170, 50),
        "lee": ("Lee", 185, 45),
        "linda": ("linda", 155, 55),
        "marco": ("Marco", 160, 45),
    },
    held_out={"steph": ("steph", 175, 50), "victor": ("victor", 170, 45)},
)


def speak_and_record(text: str, voice: espeak.Voice, seed: int, utterance_id: str) -> Speech:
    """Speaks a text and puts it through the channel that (seed, id) gives; 16 kHz.

    Raises:
      UnreadableAudio: where espeak-ng does not speak it.
    """
    try:
        spoken = espeak.speak(text, voice)
    except espeak.SynthesisError as error:
        raise UnreadableAudio(str(error)) from error
    rng = generator(seed, utterance_id)
    recording = channel.draw(rng)
    waveform = channel.record(audio.resample(spoken.waveform, spoken.rate), recording, rng)
    offset = round(recording.before * SAMPLE_RATE)

    def at_16khz(sample: int) -> int:
        return offset + round(sample * SAMPLE_RATE / spoken.rate)

    alignment = tuple(
        Phone(symbol, at_16khz(start), at_16khz(end)) for symbol, start, end in spoken.alignment
    )
    return Speech(waveform, SAMPLE_RATE, spoken.phonemes, alignment)


def generator(seed: int, *key: object) -> np.random.Generator:
    """Random numbers of their own for every seed and key, in any order and process."""
    text = "/".join(map(str, (seed, *key)))
    digest = hashlib.blake2b(text.encode(), digest_size=16).digest()
    return np.random.default_rng(int.from_bytes(digest, "little"))
