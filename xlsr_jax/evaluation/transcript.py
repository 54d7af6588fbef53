"""What a recognizer heard, with times, as plain text, JSON, SRT subtitles or a Praat TextGrid."""

import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from xlsr_jax.schema import ConfigError
from xlsr_jax.text.vocabulary import DELIMITER, Vocabulary

Span = tuple[str, float, float]  # what, from, to: seconds since the recording's start

LINE_CHARACTERS = 42  # of a subtitle: the usual bounds of readability
LINE_SECONDS = 7.0
SHORTEST_SECONDS = 1.0  # a subtitle stays at least so long where the next one leaves the time
PAUSE_SECONDS = 1.0  # silence that ends a subtitle


@dataclass(frozen=True)
class Transcript:
    """One recording's transcript.

    Attributes:
      path: the recording as it was named.
      text: the whole.
      tokens: (symbol, start, end) in seconds, word delimiters included.
      words: (word, start, end) in seconds; () where the vocabulary has no word delimiter.
      seconds: length of the recording.
      unit: "phonemes" or "characters", what the tokens are.
    """

    path: str
    text: str
    tokens: tuple[Span, ...]
    words: tuple[Span, ...]
    seconds: float
    unit: str = "phonemes"


def closed_to(vocabulary: Vocabulary, language: str) -> np.ndarray | None:
    """[V] bool: the symbols of other languages than ``language``; None where that is "".

    Raises:
      ConfigError: where the vocabulary is shared or lacks the language.
    """
    if not language:
        return None
    if not vocabulary.separate:
        raise ConfigError(
            f"language={language} picks from a separate vocabulary, and this run shares one "
            "among its languages; leave it out"
        )
    try:
        open_ids = vocabulary.of_language(language)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    closed = np.ones(len(vocabulary.symbols), bool)
    closed[open_ids] = False
    return closed


def assemble(
    path: str,
    spans: Iterable[tuple[int, int, int]],
    vocabulary: Vocabulary,
    frame_rate: float,
    seconds: float,
) -> Transcript:
    """A transcript from decoded symbols.

    Args:
      spans: (symbol id, start frame, end frame), the end exclusive.
      frame_rate: frames a second.
      seconds: length of the recording.
    """
    times = [
        (symbol, min(start / frame_rate, seconds), min(end / frame_rate, seconds))
        for symbol, start, end in spans
    ]
    names = vocabulary.decode(symbol for symbol, _, _ in times)
    tokens = tuple((name, *time[1:]) for name, time in zip(names, times, strict=True))
    words = ()
    if any(symbol.endswith(DELIMITER) for symbol in vocabulary.symbols):  # "|" or "(es)|"
        words = tuple(_words(tokens, vocabulary))
    return Transcript(path, vocabulary.text(names), tokens, words, seconds, vocabulary.unit)


def _words(tokens: Sequence[Span], vocabulary: Vocabulary) -> Iterator[Span]:
    word: list[Span] = []
    for token in (*tokens, (DELIMITER, 0.0, 0.0)):
        if token[0] != DELIMITER:
            word.append(token)
        elif word:
            yield vocabulary.text([symbol for symbol, _, _ in word]), word[0][1], word[-1][2]
            word = []


def to_text(transcript: Transcript) -> str:
    """One line."""
    return transcript.text + "\n"


def to_json(transcript: Transcript) -> str:
    """One line: {path, seconds, unit, text, words, tokens}, times in seconds."""
    fields = {
        "path": transcript.path,
        "seconds": transcript.seconds,
        "unit": transcript.unit,
        "text": transcript.text,
        "words": [{"word": w, "start": start, "end": end} for w, start, end in transcript.words],
        "tokens": [
            {"symbol": s, "start": start, "end": end} for s, start, end in transcript.tokens
        ],
    }
    return json.dumps(fields, ensure_ascii=False) + "\n"


def to_srt(transcript: Transcript) -> str:
    """SubRip subtitles of words, or of tokens where there are no words."""
    lines = list(_lines(transcript.words or _symbols(transcript)))
    after = ("", transcript.seconds, transcript.seconds)
    cues = []
    for number, (line, following) in enumerate(itertools.pairwise([*lines, after]), 1):
        text, start, end = line
        end = max(end, min(start + SHORTEST_SECONDS, following[1]))
        cues.append(f"{number}\n{_clock(start)} --> {_clock(end)}\n{text}\n")
    return "\n".join(cues)


def _symbols(transcript: Transcript) -> list[Span]:
    return [token for token in transcript.tokens if token[0] != DELIMITER]


def _lines(spans: Iterable[Span]) -> Iterator[Span]:
    """Spans joined by spaces into lines of bounded characters and seconds, without long pauses."""
    line: Span | None = None
    for text, start, end in spans:
        joined = f"{line[0]} {text}" if line else text
        if line and (
            len(joined) > LINE_CHARACTERS
            or end - line[1] > LINE_SECONDS
            or start - line[2] > PAUSE_SECONDS
        ):
            yield line
            line = None
        line = (joined, line[1], end) if line else (text, start, end)
    if line:
        yield line


def _clock(seconds: float) -> str:
    minutes, milliseconds = divmod(round(seconds * 1000), 60_000)
    return (
        f"{minutes // 60:02}:{minutes % 60:02}:{milliseconds // 1000:02},{milliseconds % 1000:03}"
    )


def to_textgrid(transcript: Transcript) -> str:
    """Praat's long text format: tier "words" where there are words, and "phones" or "chars"."""
    has_words = transcript.words or transcript.unit == "characters"
    tiers = [("words", transcript.words)] if has_words else []
    tiers.append(("phones" if transcript.unit == "phonemes" else "chars", _symbols(transcript)))
    lines = [
        'File type = "ooTextFile"',
        'Object class = "TextGrid"',
        "",
        "xmin = 0",
        f"xmax = {transcript.seconds}",
        "tiers? <exists>",
        f"size = {len(tiers)}",
        "item []:",
    ]
    for number, (name, spans) in enumerate(tiers, 1):
        intervals = list(_intervals(spans, transcript.seconds))
        lines += [
            f"    item [{number}]:",
            '        class = "IntervalTier"',
            f'        name = "{name}"',
            "        xmin = 0",
            f"        xmax = {transcript.seconds}",
            f"        intervals: size = {len(intervals)}",
        ]
        for interval, (text, start, end) in enumerate(intervals, 1):
            lines += [
                f"        intervals [{interval}]:",
                f"            xmin = {start}",
                f"            xmax = {end}",
                '            text = "{}"'.format(text.replace('"', '""')),
            ]
    return "\n".join(lines) + "\n"


def _intervals(spans: Iterable[Span], seconds: float) -> Iterator[Span]:
    """Spans and the empty intervals between them, from 0 to the end without a gap."""
    at: float = 0
    for text, start, end in spans:
        if start > at:
            yield "", at, start
        yield text, start, end
        at = end
    if at < seconds or not at:
        yield "", at, seconds


FORMATS = {  # name: (suffix of the file, function)
    "txt": (".txt", to_text),
    "json": (".json", to_json),
    "srt": (".srt", to_srt),
    "textgrid": (".TextGrid", to_textgrid),
}
