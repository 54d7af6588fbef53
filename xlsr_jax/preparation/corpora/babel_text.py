"""BABEL's transcripts: what stands between two times, and the marks in it.

[0.000]
<no-speech>
[1.420]
halo *halo* <breath> na-
[2.735]
"""

import re
from collections.abc import Iterator

from xlsr_jax.data.records import CorpusError
from xlsr_jax.preparation.archives import Tree

NOISES = ("drop", "keep", "drop_segment")
MARK = re.compile(r"<[^<>\s]+>|\(\(\)\)|~")
TIME = re.compile(r"\[\s*(\d+(?:\.\d*)?|\.\d+)\s*\]")


def clean(words: str, noise: str = "drop") -> str:
    """The text of a segment, by the rules of the reader's docstring."""
    words = words.replace("<no-speech>", " ")
    if noise == "keep":
        return " ".join(words.split())
    stripped = (word.strip("*-") for word in MARK.sub(" ", words).split())
    return " ".join(word for word in stripped if word)


def marks(words: str) -> list[str]:
    """What ``clean`` changes in a segment's text, but for <no-speech>; each once, sorted."""
    words = words.replace("<no-speech>", " ")
    changed = (word for word in MARK.sub(" ", words).split() if word != word.strip("*-"))
    return sorted({*MARK.findall(words), *changed})


def objection(words: str, noise: str = "drop") -> str:
    """The reason for which a segment is set aside, "" where there is none."""
    if not words:
        return "no text: between two times"
    if not words.replace("<no-speech>", "").strip():
        return "no speech: <no-speech>"
    if noise == "drop_segment" and (found := marks(words)):
        return f"marked segment: {' '.join(found)}"
    return "" if clean(words, noise) else f"no words: {words}"


def read(tree: Tree, name: str) -> Iterator[tuple[int, float, float, str, str]]:
    """(line, start, end, words, reason why not) of what a transcript has between its times.

    Times are in seconds. There is one at least, be it the reason why there is no segment.
    """
    number, start, texts, some = 0, None, [], False
    try:
        for number, line in tree.lines(name):
            line = line.strip() if line is not None else "(too long)"
            time = TIME.fullmatch(line)
            if time:
                if start is not None:
                    yield number, start, float(time[1]), " ".join(texts), ""
                    some = True
                start, texts = float(time[1]), []
            elif line and start is None:
                yield number, 0, 0, "", f"line before the first time: {line[:80]}"
                some = True
            elif line:
                texts.append(line)
    except CorpusError:
        yield number + 1, 0, 0, "", "unreadable transcript: no UTF-8 text"
        return
    if texts:
        yield number, 0, 0, "", f"line after the last time: {' '.join(texts)[:80]}"
    elif not some:
        yield number, 0, 0, "", "no segment in the transcript"
