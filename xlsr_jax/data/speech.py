"""Decoded speech, and the reason why there is none."""

import dataclasses

import numpy as np


class UnreadableAudio(ValueError):
    """Audio that cannot be used; the message is the one-line reason that the side file keeps.

    What stands before the first ": " is the kind, by which the manifest counts; what follows
    belongs to the one utterance ("truncated: 800 of 16000 samples").
    """


@dataclasses.dataclass(frozen=True)
class Phone:
    """One time-aligned phoneme: [start, end) in samples at 16 kHz of the utterance."""

    symbol: str
    start: int
    end: int


@dataclasses.dataclass(frozen=True)
class Speech:
    """Decoded audio and the labels that are only known once it exists.

    Attributes:
      waveform: [samples] float32 in [-1, 1], mono.
      rate: sampling rate in Hz.
      phonemes, alignment: what the source itself reports; empty where it reports none.
    """

    waveform: np.ndarray
    rate: int
    phonemes: str = ""
    alignment: tuple[Phone, ...] = ()
