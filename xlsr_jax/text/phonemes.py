"""Text to phonemes: the ``phonemizer`` package over the espeak-ng library of ``espeakng-loader``.

One token a phoneme, as espeak cuts them: affricates, diphthongs, length marks and tones stay with
their phoneme ("tʃ", "aɪ", "oː", "ɑ5"). Stress marks are left out. A foreign word is read by the
voice of its language; the flags "(en)" that espeak puts around it are removed and counted.

Where XLSR and UniSpeech were evaluated (es fr it ky nl ru sv), the published Common Voice labels
come from an older espeak-ng and from texts in which every mark separates words. ``Phonemizer``
follows them unless told otherwise, so that error rates compare:

- Marks separate words, apostrophes and hyphens too: "l'eau" is read as "l" and "eau". This is the
  published reading, not the right one, and most of all in French and Italian.
- es: the trill is two taps unless it follows a consonant or ends the word ("karo" k a ɾ ɾ o, "ser"
  s e r); y after a vowel is j j ("mayor", "muy"); n before f is m.
- nl: ɣ before b, d and z is x.
- ru: n and ɭ have no palatalised partner, and ə is a.

Without them (``as_published=False``) the phonemes are those of the installed espeak-ng.
"""

import contextlib
import functools
import logging
import re
import shutil
import tempfile
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path

# espeak's voices of the papers' languages. English is American, as in published vocabularies.
VOICES = {
    "es": "es", "fr": "fr-fr", "it": "it", "ky": "ky", "nl": "nl", "ru": "ru", "sv": "sv",
    "tr": "tr", "tt": "tt", "zh": "cmn", "en": "en-us",
}  # fmt: skip

# Codes of corpora that espeak-ng has under another, beside regions, which are left off ("ga-IE").
_OTHERS = {"zh-HK": "yue", "kmr": "ku", "nn": "nb", "no": "nb"}

# What a newer espeak-ng writes otherwise than the published labels do: a pattern and what it
# becomes, on a sentence with " " between the phonemes of a word and "|" between words.
_PUBLISHED = {
    "es": (
        (r"(?:(?<![^|])|(?<=[aeiouɛɪʊ] ))r(?= )", "ɾ ɾ"),
        (r"(?<=[aeiouɛɪʊ] )ʝ", "j j"),
        (r"(?<= )j(?![^|])", "j j"),
        (r"n(?=[ |]f)", "m"),
    ),
    "fr": (),
    "it": (),
    "ky": (),
    "nl": ((r"ɣ(?=[ |][bdz])", "x"),),
    "ru": ((r"(?<=[nɭ])ʲ", ""), (r"ə", "a")),
    "sv": (),
}
# All but letters, digits, a Russian stress mark, and what numbers are written with.
_MARK = re.compile("[^\\w\\s\u0300-\u036f.,%$€£°]|_")
_FLAG = re.compile(r"\([^)]*\)")


def voice(language: str) -> str | None:
    """espeak-ng's voice for a language code as corpora have it ("sv-SE", "de"); None for none."""
    base = language.partition("-")[0]
    for code in (language, base):
        found = VOICES.get(code) or _OTHERS.get(code) or code.lower()
        if found in VOICES.values() or found in _espeak_codes():
            return found
    return None


@functools.cache
def _espeak_codes() -> frozenset[str]:
    from phonemizer.backend import EspeakBackend

    with _library():
        return frozenset(EspeakBackend.supported_languages())


def versions() -> dict[str, str]:
    """Versions of all that shapes the phonemes."""
    from importlib.metadata import version

    from phonemizer.backend import EspeakBackend

    with _library():
        espeak = ".".join(map(str, EspeakBackend.version()))
    packages = {name: version(name) for name in ("espeakng-loader", "phonemizer")}
    return {"espeak-ng": espeak} | packages


class Phonemizer:
    """Phonemes of one language, from an espeak-ng library of its own.

    Equal texts give equal phonemes, whatever was read before and by whichever other phonemizer.
    One thread at a time.

    Attributes:
      language: a code that ``voice`` knows.
      switches: language-switch flags removed so far; a foreign passage has two, into and back.
    """

    def __init__(self, language: str, as_published: bool = True):
        """Loads the voice, about 30 ms.

        Args:
          as_published: follow the published Common Voice labels, where the language has them.

        Raises:
          ValueError: unknown language.
        """
        name = voice(language)
        if name is None:
            raise ValueError(f"espeak-ng has no voice for language {language!r}")
        import phonemizer.separator
        from phonemizer.backend import EspeakBackend

        rules = _PUBLISHED.get(language.partition("-")[0]) if as_published else None
        self.language = language
        self.switches = 0
        self._marks_separate = rules is not None
        self._rules = [(re.compile(pattern), becomes) for pattern, becomes in rules or ()]
        self._separator = phonemizer.separator.Separator(phone=" ", syllable="", word="|")
        # phonemizer warns of every switch, which ``switches`` counts.
        logger = logging.getLogger(__name__)
        logger.setLevel(logging.ERROR)
        with _library():
            self._espeak = EspeakBackend(name, logger=logger)

    def phonemize(self, texts: Sequence[str]) -> list[list[list[str]]]:
        """The words of each text, each word its phonemes; [] for a text with nothing to read.

        Several words that espeak reads as one ("of the") are one.
        """
        if isinstance(texts, str):
            raise TypeError("phonemize takes a sequence of texts; put the one text in a list")
        lines = self._espeak.phonemize(
            [self._readable(text) for text in texts], separator=self._separator, strip=True
        )
        return [self._words(line) for line in lines]

    def tokens(self, texts: Sequence[str]) -> list[list[str]]:
        """The phonemes of each text, without word boundaries."""
        return [[phoneme for word in words for phoneme in word] for words in self.phonemize(texts)]

    def _readable(self, text: str) -> str:
        # espeak's rules know composed letters, and its C interface stops at a zero.
        text = unicodedata.normalize("NFC", text).replace("\0", " ")
        return _MARK.sub(" ", text) if self._marks_separate else text

    def _words(self, line: str) -> list[list[str]]:
        line, flags = _FLAG.subn(" ", line)
        self.switches += flags
        words = [" ".join(word.split()) for word in line.split("|")]
        line = "|".join(word for word in words if word)
        for pattern, becomes in self._rules:
            line = pattern.sub(becomes, line)
        return [word.split(" ") for word in line.split("|") if word]


@contextlib.contextmanager
def _library() -> Iterator[None]:
    """Points phonemizer at a copy of espeak-ng while it loads one.

    phonemizer never unloads the file that it is given, and speech synthesis must load the original
    afresh (see ``text/espeak.py``).
    """
    import espeakng_loader
    from phonemizer.backend.espeak.wrapper import EspeakWrapper

    original = Path(espeakng_loader.get_library_path())
    EspeakWrapper.set_data_path(espeakng_loader.get_data_path())
    with tempfile.TemporaryDirectory() as folder:
        EspeakWrapper.set_library(str(shutil.copy(original, folder)))
        try:
            yield
        finally:
            EspeakWrapper.set_library(str(original))
