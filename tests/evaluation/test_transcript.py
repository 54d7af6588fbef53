"""Transcripts and their formats, read back by parsers that share nothing with the writers."""

import json
import re

import numpy as np
import pytest

from xlsr_jax.evaluation import transcript
from xlsr_jax.evaluation.transcript import Transcript
from xlsr_jax.schema import ConfigError
from xlsr_jax.text import vocabulary

CHARACTERS = vocabulary.build([("en", list("|abcdeht'\""))], "characters")
SEPARATE = vocabulary.build([("es", ["t", "a"]), ("fr", ["t", "y"])], "phonemes", separate=True)
PHONEMES = vocabulary.build([("es", ["tʃ", "a", "aɪ"])], "phonemes")


def spans(symbols, vocab, start=10, hold=2, apart=5):
    ids = [vocab.symbols.index(symbol) for symbol in symbols]
    return [(id_, start + apart * n, start + apart * n + hold) for n, id_ in enumerate(ids)]


def heard(symbols, vocab, seconds=10.0, **how):
    return transcript.assemble("a.wav", spans(symbols, vocab, **how), vocab, 50.0, seconds)


def parse_srt(text):
    """[(number, start, end, line)]; whatever is not a cue of one line is an error."""
    time = r"(\d\d):(\d\d):(\d\d),(\d{3})"
    cues = []
    for block in text.removesuffix("\n").split("\n\n") if text else []:
        number, *times, line = re.fullmatch(rf"(\d+)\n{time} --> {time}\n(.+)", block).groups()
        hour, minute, second, millisecond = np.array(times, int).reshape(2, 4).T
        start, end = (hour * 3600 + minute * 60 + second + millisecond / 1000).tolist()
        cues.append((int(number), start, end, line))
    return cues


def parse_textgrid(text):
    """{tier: [(text, xmin, xmax)]}, after checking that sizes and bounds are what they say."""
    head, *items = re.split(r"item \[\d+\]:", text)
    assert head.startswith('File type = "ooTextFile"\nObject class = "TextGrid"\n\nxmin = 0\nxmax')
    xmax = float(re.search(r"xmax = (\S+)", head)[1])
    assert int(re.search(r"tiers\? <exists>\s+size = (\d+)", head)[1]) == len(items)
    tiers = {}
    for item in items:
        assert 'class = "IntervalTier"' in item
        name = re.search(r'name = "(\w+)"', item)[1]
        assert re.search(r"xmin = 0\s+xmax = (\S+)\s+intervals: size", item)[1] == str(xmax)
        rows = re.findall(
            r'intervals \[(\d+)\]:\s+xmin = (\S+)\s+xmax = (\S+)\s+text = "((?:[^"]|"")*)"', item
        )
        assert int(re.search(r"size = (\d+)", item)[1]) == len(rows)
        assert [int(row[0]) for row in rows] == list(range(1, len(rows) + 1))
        tiers[name] = [(row[3].replace('""', '"'), float(row[1]), float(row[2])) for row in rows]
        ends = [0.0, *(end for _, _, end in tiers[name])]
        assert [start for _, start, _ in tiers[name]] == ends[:-1], "no gap and no overlap"
        assert ends[-1] == xmax and all(a < b for a, b in zip(ends, ends[1:], strict=False))
    return tiers


def test_words_have_the_times_of_their_symbols():
    found = heard("he|ate", CHARACTERS)
    assert found.text == "he ate" and found.unit == "characters" and found.seconds == 10.0
    assert found.words == (("he", 0.2, 0.34), ("ate", 0.5, 0.74))
    assert found.tokens[:3] == (("h", 0.2, 0.24), ("e", 0.3, 0.34), ("|", 0.4, 0.44))


def test_delimiters_at_the_ends_and_in_a_row_make_no_words():
    found = heard("|a||bad|", CHARACTERS)
    assert [word for word, _, _ in found.words] == ["a", "bad"] and found.text == "a bad"


def test_phonemes_have_no_words_and_no_language():
    found = heard(["(es)t", "(es)a", "(fr)y"], SEPARATE)
    assert [symbol for symbol, _, _ in found.tokens] == ["t", "a", "y"]
    assert found.text == "t a y" and found.words == ()
    assert heard(["tʃ", "aɪ"], PHONEMES).text == "tʃ aɪ"


def test_times_end_with_the_recording():
    found = heard("ab", CHARACTERS, seconds=0.31)
    assert found.tokens == (("a", 0.2, 0.24), ("b", 0.3, 0.31))


def test_a_language_closes_the_others():
    closed = transcript.closed_to(SEPARATE, "fr")
    left = {symbol for symbol, shut in zip(SEPARATE.symbols, closed, strict=True) if not shut}
    assert left == {vocabulary.BLANK, "(fr)t", "(fr)y"}
    assert transcript.closed_to(SEPARATE, "") is None
    with pytest.raises(ConfigError, match="no language 'it'; it has es, fr"):
        transcript.closed_to(SEPARATE, "it")
    with pytest.raises(ConfigError, match="language=es .* shares one .* leave it out"):
        transcript.closed_to(PHONEMES, "es")


def test_json_holds_everything():
    found = heard(["tʃ", "a"], PHONEMES)
    line = transcript.to_json(found)
    assert line.count("\n") == 1 and "tʃ" in line
    assert json.loads(line) == {
        "path": "a.wav",
        "seconds": 10.0,
        "unit": "phonemes",
        "text": "tʃ a",
        "words": [],
        "tokens": [
            {"symbol": "tʃ", "start": 0.2, "end": 0.24},
            {"symbol": "a", "start": 0.3, "end": 0.34},
        ],
    }
    words = json.loads(transcript.to_json(heard("a|b", CHARACTERS)))["words"]
    assert words == [
        {"word": "a", "start": 0.2, "end": 0.24},
        {"word": "b", "start": 0.4, "end": 0.44},
    ]


def test_text_is_one_line():
    assert transcript.to_text(heard("a|b", CHARACTERS)) == "a b\n"
    assert transcript.to_text(heard("", CHARACTERS)) == "\n"


def of_words(words, seconds):
    return Transcript("a.wav", " ".join(w for w, _, _ in words), (), tuple(words), seconds)


def test_subtitles_keep_their_bounds():
    rng = np.random.default_rng(0)
    words, at = [], 3_590.0  # past the hour
    for _ in range(400):
        at += float(rng.choice([0.05, 0.2, 1.5], p=[0.5, 0.4, 0.1]))
        length = int(rng.integers(1, 12))
        words.append(("x" * length, at, at + 0.05 * length))
        at += 0.05 * length
    cues = parse_srt(transcript.to_srt(of_words(words, at + 5)))
    assert [number for number, *_ in cues] == list(range(1, len(cues) + 1))
    assert " ".join(text for *_, text in cues).split() == [word for word, _, _ in words]
    starts = {round(start, 3): end for _, start, end in words}
    for (_, start, end, text), following in zip(cues, [*cues[1:], None], strict=True):
        assert len(text) <= 42 and end - start <= 7 and round(start, 3) in starts
        assert following is None or end <= following[1]
        assert end - start >= 0.999 or end == following[1]
    filled = [len(text) for *_, text in cues]
    assert np.mean(filled) > 15, "words are joined"


def test_a_subtitle_ends_at_a_pause_and_stays_a_second():
    words = [("a", 0.0, 0.1), ("b", 0.3, 0.4), ("c", 1.5, 1.6), ("d", 2.0, 2.1)]
    assert parse_srt(transcript.to_srt(of_words(words, 9.0))) == [
        (1, 0.0, 1.0, "a b"),
        (2, 1.5, 2.5, "c d"),
    ]
    late = [("a", 8.8, 8.9)]
    assert parse_srt(transcript.to_srt(of_words(late, 9.0))) == [(1, 8.8, 9.0, "a")]


def test_a_subtitle_of_a_long_word_is_that_word():
    words = [("x" * 50, 0.0, 8.0), ("y", 8.1, 8.2)]
    assert [text for *_, text in parse_srt(transcript.to_srt(of_words(words, 9.0)))] == [
        "x" * 50,
        "y",
    ]


def test_subtitles_of_phonemes_are_lines_of_symbols():
    assert parse_srt(transcript.to_srt(heard(["tʃ", "a"], PHONEMES)))[0][3] == "tʃ a"
    assert transcript.to_srt(heard([], PHONEMES)) == ""
    assert transcript.to_srt(heard("|", CHARACTERS)) == ""


def test_a_textgrid_covers_the_recording():
    tiers = parse_textgrid(transcript.to_textgrid(heard('a"|b', CHARACTERS, seconds=2.5)))
    assert tiers == {
        "words": [
            ("", 0, 0.2),
            ('a"', 0.2, 0.34),
            ("", 0.34, 0.5),
            ("b", 0.5, 0.54),
            ("", 0.54, 2.5),
        ],
        "chars": [
            ("", 0, 0.2),
            ("a", 0.2, 0.24),
            ("", 0.24, 0.3),
            ('"', 0.3, 0.34),
            ("", 0.34, 0.5),
            ("b", 0.5, 0.54),
            ("", 0.54, 2.5),
        ],
    }


def test_a_textgrid_of_phonemes_that_touch_and_fill_it():
    found = heard(["tʃ", "a"], PHONEMES, seconds=0.2, start=0, hold=5)
    tiers = parse_textgrid(transcript.to_textgrid(found))
    assert tiers == {"phones": [("tʃ", 0, 0.1), ("a", 0.1, 0.2)]}


def test_a_textgrid_of_silence_is_one_empty_interval():
    tiers = parse_textgrid(transcript.to_textgrid(heard("", CHARACTERS, seconds=1.5)))
    assert tiers == {"words": [("", 0, 1.5)], "chars": [("", 0, 1.5)]}
