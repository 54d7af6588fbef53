"""What is done to every utterance between its source and its record, in this order.

1. ``text``: by the rules of ``text/normalise.py``; where text is required, those without are set
   aside. ``phonemes``: made from that text where the corpus has none.
2. ``trim``: the ends of the audio at 16 kHz are cut off where nobody speaks (``speech_span``).
3. ``segment``: what is longer and has no labels is cut in its quietest places (``cuts``).
4. What came out is held against limits of length and level (``silence``).

``duplicates`` are found when all shards are there; see ``duplicates.py``.
"""

import argparse
import dataclasses
import functools
import math
from collections.abc import Sequence

import numpy as np

from xlsr_jax.data.records import SAMPLE_RATE, CorpusError
from xlsr_jax.preparation.corpora.base import Utterance
from xlsr_jax.text import normalise

SILENT = -60.0  # dBFS; a recording in which no window of 25 ms is louder is silence
FRAME, HOP = 400, 160  # samples: 25 ms every 10 ms
LOUDER, SHARE = 6.0, 0.2  # dB over the noise floor; of the way from there to the loudest frames
RUN, REACH = 8, 30  # frames that make speech; frames without that speech goes on behind
PAUSE = 20  # blocks of 10 ms whose mean power tells how quiet a place is
_FOREVER = math.inf


@dataclasses.dataclass(frozen=True)
class Processing:
    """The options; the defaults do nothing.

    Attributes:
      min_seconds, max_seconds: of what is written, after trimming and cutting.
      silence: "drop" sets aside what is nowhere louder than ``SILENT``.
      trim: whether both ends are cut to speech, and ``trim_margin`` seconds about it.
      segment: seconds of the longest piece; 0 for whole recordings.
      segment_labelled: longer ones with text, phonemes or alignment are kept whole, or "refuse"d.
      duplicates: "drop" sets aside audio that was there before.
      text, lower, remove_punctuation: see ``text/normalise.py``.
      require_text: set aside what has no text, or none after those rules.
      phonemes: write those of espeak-ng where the corpus has none and espeak-ng has the language.
    """

    min_seconds: float = 0.0
    max_seconds: float = _FOREVER
    silence: str = "keep"
    trim: bool = False
    trim_margin: float = 0.1
    segment: float = 0.0
    segment_labelled: str = "keep"
    duplicates: str = "keep"
    text: str = "as_is"
    lower: bool = False
    remove_punctuation: bool = False
    require_text: bool = False
    phonemes: bool = False

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                flag = f"--{name.replace('_', '-')}"
                raise CorpusError(f"{flag} is {getattr(self, name)!r}; use {' or '.join(choices)}")
        if not 0 <= self.min_seconds <= self.max_seconds:
            raise CorpusError(
                f"--min-seconds {self.min_seconds:g} and --max-seconds {self.max_seconds:g} leave "
                "nothing; 0 <= min <= max is wanted"
            )
        if not 0 <= self.trim_margin < _FOREVER:
            raise CorpusError(f"--trim-margin {self.trim_margin:g} must be 0 seconds or more")
        if self.segment and not 1 <= self.segment < _FOREVER:
            raise CorpusError(f"--segment {self.segment:g} must be 1 second or more, or 0 for none")

    def made_with(self) -> dict[str, str]:
        """What differs from doing nothing, by name, for the manifest."""
        changed = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if getattr(self, field.name) != field.default
        }
        made = {name: str(value) for name, value in changed.items() if name != "trim_margin"}
        if self.silence == "drop":
            made["silence"] = f"drop, where no 25 ms are above {SILENT:g} dBFS"
        if self.trim:
            made["trim"] = (
                f"to runs of {RUN} frames of 25 ms over the noise floor by {LOUDER:g} dB, "
                f"{self.trim_margin:g} s about them"
            )
        if self.duplicates == "drop":
            made["duplicates"] = "drop, by 8 bytes of BLAKE2b of the samples"
        if {"text", "lower", "remove_punctuation"} & changed.keys():
            import unicodedata

            made["unicode version"] = unicodedata.unidata_version
        if self.phonemes:
            from xlsr_jax.text import phonemes

            made |= {f"phonemes by {k} version": v for k, v in phonemes.versions().items()}
        return made

    def texts(self, utterances: Sequence[Utterance], language: str) -> list[Utterance]:
        """Utterances of one language with their texts by the rules, and phonemes if asked for."""
        rules = (self.text, self.lower, self.remove_punctuation)
        if rules != ("as_is", False, False):
            rule, lower, bare = rules
            utterances = [
                dataclasses.replace(
                    u,
                    text=normalise.normalise(
                        u.text, rule, lower=lower, remove_punctuation=bare, language=language
                    ),
                )
                for u in utterances
            ]
        if self.phonemes:
            utterances = _with_phonemes(utterances, language)
        return list(utterances)

    def pieces(self, waveform: np.ndarray, labelled: bool) -> list[tuple[int, int]]:
        """[start, end) of what is kept of [samples] at 16 kHz: trimmed, then cut; one or more."""
        start, end = 0, len(waveform)
        if self.trim:
            start, end = speech_span(waveform, self.trim_margin)
        longest = int(self.segment * SAMPLE_RATE)
        if not longest or labelled or end - start <= longest:
            return [(start, end)]
        places = [start, *(start + cut for cut in cuts(waveform[start:end], longest)), end]
        return list(zip(places, places[1:], strict=False))

    def objection(self, waveform: np.ndarray, labelled: bool) -> str:
        """Why a piece [samples] is set aside; "" where it is not."""
        seconds = len(waveform) / SAMPLE_RATE
        if seconds < self.min_seconds:
            return f"too short: {seconds:.2f} s, under {self.min_seconds:g} s"
        if seconds > self.max_seconds:
            return f"too long: {seconds:.2f} s, over {self.max_seconds:g} s"
        if labelled and self.segment_labelled == "refuse" and 0 < self.segment < seconds:
            return f"labelled and longer than a segment: {seconds:.2f} s, over {self.segment:g} s"
        if self.silence == "drop":
            loudest = float(levels(waveform).max())
            if loudest <= SILENT:
                return f"silence: nothing above {loudest:.1f} dBFS"
        return ""


_CHOICES = {
    "silence": ("keep", "drop"),
    "segment_labelled": ("keep", "refuse"),
    "duplicates": ("keep", "drop"),
    "text": normalise.RULES,
}
AS_IS = Processing()


def levels(waveform: np.ndarray, emphasis: float = 0.0) -> np.ndarray:
    """[frames] float64 level of every frame in dBFS, that of all samples' mean taken off.

    Args:
      waveform: [samples] float32, of ``FRAME`` samples or more.
      emphasis: a sample's share of the one before is taken off before: brings fricatives to the
        level of vowels, and rumble below both.
    """
    half = HOP // 2
    mean, power = float(waveform.mean(dtype=np.float64)), []
    for begin in range(0, len(waveform) // half * half, half << 12):
        block = waveform[max(begin - 1, 0) : begin + (half << 12)].astype(np.float64) - mean
        if emphasis:
            block[1:] -= emphasis * block[:-1]
        block = block[min(begin, 1) :]
        block = block[: len(block) // half * half]
        power.append(np.square(block).reshape(-1, half).sum(1))
    frames = np.convolve(np.concatenate(power), np.ones(FRAME // half), "valid")[::2] / FRAME
    return 10 * np.log10(np.maximum(frames, 1e-12))


def speech_span(waveform: np.ndarray, margin: float) -> tuple[int, int]:
    """[start, end) in samples of the speech and ``margin`` seconds about it; all where none is.

    The level of a frame is that of the pre-emphasised signal. The noise floor is the level that a
    tenth of the frames stay below; a frame is loud ``LOUDER`` dB above it, or a fifth of the way to
    the level that a twentieth exceed, where that is less, as in much noise. ``RUN`` loud frames in
    a row are speech (a click is less), and so are single ones no further than ``REACH`` frames from
    it, such as the burst of a last t.
    """
    level = levels(waveform, emphasis=0.97)
    floor, loud = np.percentile(level, 10), np.percentile(level, 95)
    active = level > floor + min(LOUDER, SHARE * (loud - floor))
    runs = np.convolve(active, np.ones(RUN, int), "valid") == RUN
    if not runs.any():
        return 0, len(waveform)
    first, last = int(runs.argmax()), len(active) - 1 - int(runs[::-1].argmax())
    first = _reach(active[:first][::-1], first, -1)
    last = _reach(active[last + 1 :], last, 1)
    around = round(margin * SAMPLE_RATE)
    return max(first * HOP - around, 0), min(last * HOP + FRAME + around, len(waveform))


def _reach(beyond: np.ndarray, place: int, step: int) -> int:
    """``place`` moved over the frames ``beyond`` to the last that speech still reaches."""
    at = 0
    for found in np.flatnonzero(beyond) + 1:
        if found - at > REACH:
            break
        at = int(found)
    return place + step * at


def cuts(waveform: np.ndarray, longest: int) -> list[int]:
    """Where [samples] longer than ``longest`` are cut: in the quietest 200 ms that do.

    Every piece is a half to a whole of ``longest``, the last a quarter at least. Of equally quiet
    places the last is taken.
    """
    blocks = waveform[: len(waveform) // HOP * HOP].reshape(-1, HOP)
    power = np.einsum("ij,ij->i", blocks, blocks, dtype=np.float64)
    summed = np.concatenate([[0.0], np.cumsum(power)])
    places, at = [], 0
    while len(waveform) - at > longest:
        low = -(-(at + longest // 2) // HOP)
        high = min(at + longest, len(waveform) - longest // 4) // HOP
        centres = np.arange(low, high + 1)
        before = np.maximum(centres - PAUSE // 2, 0)
        after = np.minimum(centres + PAUSE // 2, len(power))
        quiet = (summed[after] - summed[before]) / (after - before)
        at = HOP * (high - int(quiet[::-1].argmin()))
        places.append(at)
    return places


def _with_phonemes(utterances: Sequence[Utterance], language: str) -> Sequence[Utterance]:
    lacking = [place for place, u in enumerate(utterances) if u.text and not u.phonemes]
    from xlsr_jax.text import phonemes

    if not lacking or phonemes.voice(language) is None:
        return utterances
    tokens = _phonemizer(language).tokens([utterances[place].text for place in lacking])
    told = list(utterances)
    for place, sequence in zip(lacking, tokens, strict=True):
        told[place] = dataclasses.replace(told[place], phonemes=" ".join(sequence))
    return told


@functools.lru_cache(maxsize=4)  # a worker makes one shard, of one language, after another
def _phonemizer(language: str):
    from xlsr_jax.text.phonemes import Phonemizer

    return Phonemizer(language)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The command line's options."""
    group = parser.add_argument_group("what is done to every utterance (default: nothing)")
    for name, help_text in _FLAGS.items():
        default = getattr(AS_IS, name)
        how = {"type": float, "metavar": "SECONDS"}
        if isinstance(default, bool):
            how = {"action": "store_true"}
        elif name in _CHOICES:
            how = {"choices": _CHOICES[name]}
        flag, dest = f"--{name.replace('_', '-')}", f"processing_{name}"
        group.add_argument(flag, dest=dest, default=default, help=help_text, **how)


def from_flags(options: argparse.Namespace) -> Processing:
    """What the command line asks for; raises ``CorpusError`` where it makes no sense."""
    return Processing(**{name: getattr(options, f"processing_{name}") for name in _FLAGS})


_FLAGS = {
    "min_seconds": "set aside what is shorter",
    "max_seconds": "set aside what is longer",
    "silence": f"drop: set aside what is nowhere above {SILENT:g} dBFS",
    "trim": "cut off both ends where nobody speaks",
    "trim_margin": "left about the speech; default %(default)s",
    "segment": "cut recordings without labels into pieces of at most this, where it is quiet",
    "segment_labelled": "longer ones with text: whole, or set aside; default %(default)s",
    "duplicates": "drop: set aside audio that the corpus had before; wise for pretraining",
    "text": "nfc: composed letters; plain: also plain quotes, dashes and spaces, nothing unseen",
    "lower": "lower case",
    "remove_punctuation": "marks and symbols become spaces, but ' and - within words",
    "require_text": "set aside what has no text",
    "phonemes": "write those of espeak-ng where the corpus has none",
}
