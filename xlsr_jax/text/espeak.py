"""Speech synthesis by espeak-ng, in this process: text in, waveform and time-aligned phonemes out.

The library and its voices come from the PyPI package ``espeakng-loader``; no audio device is used.

What the library keeps in global variables outlives a call: the phase of its pitch flutter, its
echo buffer, its random numbers (seeded from the clock) and the language of the previous voice. Its
interface can reset some of that and not the rest. So every utterance is spoken by a library loaded
afresh, about 1 ms of work, and the samples depend on the arguments alone: not on what was spoken
before, in this process or another.

Phoneme symbols are espeak's own IPA, as ``espeak_TextToPhonemes`` and the phonemizer package give
it and published phoneme vocabularies have it, less the stress marks and the language-switch flags.
It is not always the chart's IPA: Mandarin ``tɕh``, ``ts.``, ``onɡ5`` (the digit is the tone; tones
1 and 4 are both written 5, 2 is ɜ, 3 is 2), Kyrgyz ``dZ``, French ``y-``.
"""

import contextlib
import ctypes
import dataclasses
import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np

SLOWEST, FASTEST = 80, 450  # words per minute, the range of espeak's rate
SAMPLE_RATE = 22_050  # Hz, of every espeak-ng voice

_BUFFER_MS = 1_000  # audio per callback
_SYNCHRONOUS, _PHONEME_EVENTS, _IPA_EVENTS, _DO_NOT_EXIT = 2, 0x1, 0x2, 0x8000
_UTF8, _POSITION_CHARACTER = 1, 1
_RATE, _PITCH = 1, 3  # parameter numbers
_IPA_TRACE = 0x2
_SEPARATOR = "_"  # between the phonemes of a trace; words are apart by a space
_PHONEME_EVENT = 7
_STRESS = re.compile("[ˈˌ]")
_MODIFIER = re.compile("[\u02b0-\u036f]")  # ʲ, ː, combining marks: part of the phoneme before

_lock = threading.Lock()


class SynthesisError(ValueError):
    """Text that espeak-ng does not speak, or a voice that it does not have."""


@dataclasses.dataclass(frozen=True)
class Voice:
    """How to speak.

    Attributes:
      language: espeak voice ("es", "cmn", "en-us").
      variant: speaker timbre, a file of espeak-ng-data/voices/!v ("f2", "m3"); "" for the default.
      rate: words per minute, 80 to 450.
      pitch: 0 to 99, 50 is the variant's own.
    """

    language: str
    variant: str = ""
    rate: int = 175
    pitch: int = 50


@dataclasses.dataclass(frozen=True)
class Spoken:
    """One spoken text.

    Attributes:
      waveform: [samples] float32 in [-1, 1).
      rate: sampling rate in Hz.
      alignment: (symbol, start, end), [start, end) in samples at ``rate``, in order and not
        overlapping. Pauses, and inserted sounds that espeak gives no symbol, are the gaps between.
        A vowel after a liquid or nasal begins after the transition into it, which espeak reports as
        part of the consonant; a closure before a stop counts to the phoneme before; phonemes that
        espeak blends into one sound share it by halves.
    """

    waveform: np.ndarray
    rate: int
    alignment: tuple[tuple[str, int, int], ...]

    @property
    def seconds(self) -> float:
        return len(self.waveform) / self.rate

    @property
    def phonemes(self) -> str:
        """Symbols separated by single spaces."""
        return " ".join(symbol for symbol, _, _ in self.alignment)


def speak(text: str, voice: Voice) -> Spoken:
    """Speaks ``text``; equal arguments give equal bytes, in any order and in any process.

    Safe to call from threads, which take turns.

    Raises:
      SynthesisError: unknown voice or variant, rate or pitch out of range, nothing to speak.
    """
    _check(voice)
    pcm: list[bytes] = []
    events: list[tuple[int, str]] = []  # (first sample, label)
    trace: list[str] = []  # one string of phonemes a clause

    def on_audio(samples, count, event):
        if count > 0:
            pcm.append(ctypes.string_at(samples, 2 * count))
        index = 0
        while event[index].type:
            if event[index].type == _PHONEME_EVENT:
                # espeak keeps 8 bytes of a label, which may cut one of its characters.
                events.append((event[index].sample, event[index].label.decode("utf-8", "ignore")))
            index += 1
        return 0

    def on_trace(phonemes):
        trace.append(phonemes.decode("utf-8", "ignore"))
        return 0

    data = text.encode() + b"\0"
    with _lock, _library() as library, _no_stream() as stream:
        callbacks = _AudioCallback(on_audio), _TraceCallback(on_trace)  # alive until spoken
        library.espeak_SetSynthCallback(callbacks[0])
        library.espeak_SetPhonemeCallback(callbacks[1])
        trace_mode = _IPA_TRACE | ord(_SEPARATOR) << 8
        library.espeak_SetPhonemeTrace(trace_mode, ctypes.c_void_p(stream))
        name = f"{voice.language}+{voice.variant}" if voice.variant else voice.language
        if library.espeak_SetVoiceByName(name.encode()):
            raise SynthesisError(f"espeak-ng has no voice {voice.language!r}")
        library.espeak_SetParameter(_RATE, voice.rate, 0)
        library.espeak_SetParameter(_PITCH, voice.pitch, 0)
        library.espeak_ng_SetRandSeed(ctypes.c_long(1))
        status = library.espeak_Synth(
            data, ctypes.c_size_t(len(data)), 0, _POSITION_CHARACTER, 0, _UTF8, None, None
        )
    if status:
        raise SynthesisError(f"espeak-ng failed with status {status} on {text!r}")
    waveform = np.frombuffer(b"".join(pcm), "<i2").astype(np.float32) * np.float32(1 / 32768)
    alignment = _alignment(events, len(waveform), trace)
    if not alignment:
        raise SynthesisError(f"nothing to speak in {text!r}")
    return Spoken(waveform, SAMPLE_RATE, alignment)


def versions() -> dict[str, str]:
    """Versions of all that shapes the audio and the labels."""
    from importlib.metadata import version

    with _lock, _library() as library:
        library.espeak_Info.restype = ctypes.c_char_p
        return {
            "espeak-ng": library.espeak_Info(None).decode(),
            "espeakng-loader": version("espeakng-loader"),
        }


def _alignment(
    events: list[tuple[int, str]], samples: int, trace: list[str]
) -> tuple[tuple[str, int, int], ...]:
    """Phones from the phoneme events; the full symbols from the trace where the two agree.

    Events have the times and lack length marks and tones, beside their limit of 8 bytes; the trace
    has full symbols in the same order.
    """
    phones: list[tuple[str, int, int]] = []
    ends = [start for start, _ in events[1:]] + [samples]
    for (start, label), end in zip(events, ends, strict=True):
        symbol = _STRESS.sub("", label)
        if not symbol or symbol.startswith("("):  # a pause, or a switch of language: "(en)"
            continue
        if _MODIFIER.match(symbol) and phones and phones[-1][2] == start:
            phones[-1] = (phones[-1][0] + symbol, phones[-1][1], end)
        else:
            phones.append((symbol, start, end))
    names = [name for clause in trace for name in _names(clause)]
    agree = len(names) == len(phones) and all(
        name.startswith(phone[0]) for name, phone in zip(names, phones, strict=True)
    )
    if agree:
        phones = [(name, *phone[1:]) for name, phone in zip(names, phones, strict=True)]
    return tuple(phone for phone in _with_room(phones) if phone[1] < phone[2])


def _with_room(phones: list[tuple[str, int, int]]) -> list[tuple[str, int, int]]:
    """Gives a phone of no length half of the longer neighbour that it touches.

    espeak blends some phones into the next or the last one, as l in "twelve" or the second phone
    of French "roi", and reports both at the same sample.
    """
    phones = list(phones)
    for index, (symbol, at, end) in enumerate(phones):
        if at < end:
            continue
        _, *before = phones[index - 1] if index else (symbol, at, at)
        _, *after = phones[index + 1] if index + 1 < len(phones) else (symbol, at, at)
        room_before = before[1] - before[0] if before[1] == at else 0
        room_after = after[1] - after[0] if after[0] == at else 0
        if room_before > room_after:
            middle = at - room_before // 2
            phones[index - 1] = (phones[index - 1][0], before[0], middle)
            phones[index] = (symbol, middle, at)
        elif room_after:
            middle = at + room_after // 2
            phones[index] = (symbol, at, middle)
            phones[index + 1] = (phones[index + 1][0], middle, after[1])
    return phones


def _names(clause: str) -> list[str]:
    tokens = re.split(f"[ {_SEPARATOR}]+", _STRESS.sub("", clause))
    return [token for token in tokens if token and not token.startswith("(")]


def _check(voice: Voice) -> None:
    if not SLOWEST <= voice.rate <= FASTEST:
        raise SynthesisError(f"rate must be {SLOWEST} to {FASTEST} words/min; got {voice.rate}")
    if not 0 <= voice.pitch <= 99:
        raise SynthesisError(f"pitch must be 0 to 99; got {voice.pitch}")
    # espeak itself passes over a variant that it does not know.
    if voice.variant and not (_data_path() / "voices" / "!v" / voice.variant).is_file():
        raise SynthesisError(f"espeak-ng has no voice variant {voice.variant!r}")


class _Event(ctypes.Structure):
    """espeak_EVENT of speak_lib.h."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("label", ctypes.c_char * 8),
    )


_AudioCallback = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.POINTER(_Event)
)
_TraceCallback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_char_p)


@contextlib.contextmanager
def _library() -> Iterator[ctypes.CDLL]:
    """A library in its initial state, unloaded at the end."""
    import _ctypes

    import espeakng_loader

    path = espeakng_loader.get_library_path()
    with contextlib.suppress(OSError):
        _ctypes.dlclose(ctypes.CDLL(path, mode=os.RTLD_NOLOAD)._handle)
        raise SynthesisError(
            "espeak-ng is already loaded in this process and would speak with another caller's "
            "state; speak in a process of its own"
        )
    library = ctypes.CDLL(path)
    try:
        options = _PHONEME_EVENTS | _IPA_EVENTS | _DO_NOT_EXIT
        data = os.fsencode(_data_path())
        if library.espeak_Initialize(_SYNCHRONOUS, _BUFFER_MS, data, options) != SAMPLE_RATE:
            raise SynthesisError(f"espeak-ng cannot read its data in {_data_path()}; "
                                 "install espeakng-loader again")
        yield library
        library.espeak_Terminate()
    finally:
        _ctypes.dlclose(library._handle)


@contextlib.contextmanager
def _no_stream() -> Iterator[int]:
    """A C stream to nowhere: espeak prints the IPA that it hands to the trace callback."""
    libc = ctypes.CDLL(None)
    libc.fopen.restype = ctypes.c_void_p
    stream = libc.fopen(os.devnull.encode(), b"w")
    try:
        yield stream
    finally:
        libc.fclose(ctypes.c_void_p(stream))


def _data_path() -> Path:
    import espeakng_loader

    return Path(espeakng_loader.get_data_path())
