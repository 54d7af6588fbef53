"""Sentences of real words in eleven languages, without a text corpus.

The words are those of the Unicode CLDR as Babel carries it: names of places, languages, currencies
and cities; dates, quantities with units, sums of money, spans of time, each in the language's own
order and inflection; and the conjunctions of its lists. Numbers are written in words.

One name in five is held out from training, half of them for validation and half for test (the name
as a whole; its words may occur in other names). Every sentence of those splits has at least one
name of its own, so no text is in two splits.
"""

import dataclasses
import datetime
import functools
import hashlib
import re
import unicodedata

import numpy as np

from xlsr_jax.text.numerals import number_words

LANGUAGES = ("es", "fr", "it", "ky", "nl", "ru", "sv", "tr", "tt", "zh", "en")
SPLITS = ("train", "valid", "test")
CYRILLIC, HAN = ("ky", "ru", "tt"), ("zh",)
MOST_PARTS, DRAFTS = 24, 4  # of one sentence

_FIRST_DAY, _DAYS = datetime.date(1850, 1, 1), 66_000  # to 2030
_UNITS = (
    "length-meter", "length-kilometer", "length-centimeter", "length-mile", "length-foot",
    "mass-gram", "mass-kilogram", "mass-ton", "mass-pound", "volume-liter",
    "volume-cubic-meter", "area-hectare", "area-square-kilometer", "temperature-celsius",
    "speed-kilometer-per-hour", "duration-year", "duration-month", "duration-week",
    "duration-day", "duration-hour", "duration-minute", "duration-second", "energy-calorie",
    "power-watt", "electric-volt", "frequency-hertz", "angle-degree", "concentr-percent",
)  # fmt: skip
_SPANS = (60, 3600, 86_400, 604_800, 2_592_000, 31_536_000)  # seconds: a minute to a year


@dataclasses.dataclass(frozen=True)
class Names:
    """Names that a split may use: ``shared`` are free to all, ``own`` are in no other split."""

    shared: tuple[str, ...]
    own: tuple[str, ...]


def sentence(language: str, split: str, characters: float, rng: np.random.Generator) -> str:
    """A sentence of about ``characters``: of a few drafts, the one that comes nearest.

    Letters, spaces, apostrophes, hyphens, commas and one mark at the end; no digits.
    """
    drafts = [_draft(language, split, characters, rng) for _ in range(DRAFTS)]
    return min(drafts, key=lambda draft: abs(len(draft) - characters))


def _draft(language: str, split: str, characters: float, rng: np.random.Generator) -> str:
    names, (comma, conjunctions) = _names(language, split), _joints(language)
    makers = (_date, _quantity, _money, _span, _number)
    parts: list[str] = []
    length = 0
    while len(parts) < MOST_PARTS:
        if not parts and names.own:
            part = _pick(names.own, rng)
        elif rng.random() < 0.5:
            own = names.own and rng.random() < 0.2
            part = _pick(names.own if own else names.shared, rng)
        else:
            part = _clean(_pick(makers, rng)(language, rng), language)
        if not part or part in parts:
            continue
        grown = length + len(part) + len(comma) * bool(parts)
        if parts and grown - characters > characters - length:
            break
        parts.append(part)
        length = grown
    rng.shuffle(parts)
    text = _pick(conjunctions, rng).join(
        piece for piece in (comma.join(parts[:-1]), parts[-1]) if piece
    )
    ends = "。？！" if language in HAN else ".?!"
    first = "İ" if language == "tr" and text[0] == "i" else text[0].upper()
    return first + text[1:] + ends[int(rng.choice(3, p=(0.7, 0.2, 0.1)))]


def _pick(choices, rng: np.random.Generator):
    return choices[int(rng.integers(len(choices)))]


def _clean(text: str, language: str) -> str:
    """``text`` as it is spoken, digits in words; "" where it is not all words of the script."""
    text = re.sub(r"\s*[(（\[].*?[)）\]]", "", unicodedata.normalize("NFC", text))
    text = text.replace("\u2019", "'").replace("\u00a0", " ").replace("\u202f", " ")
    text = re.sub(r"-?[^\W\d]+\.", " ", text)  # abbreviations, as in 2019-ж. and 2019 г.
    text = re.sub(r"(\d+)-?", lambda found: _spoken(int(found[1]), language), text)
    text = re.sub(r"\s+(?=,)|\s+$", "", re.sub(r"\s+", " ", text)).strip(" ,")
    words = re.findall(r"[^\s,'-]+", text)
    if not words or not all(_is_word(word, language) for word in words):
        return ""
    return text.replace(" ", "").replace(",", "，") if language in HAN else text


def _spoken(number: int, language: str) -> str:
    if number > 9999:
        return "#"  # no word of any script
    return f" {number_words(number, language)} "


def _is_word(word: str, language: str) -> bool:
    script = "CYRILLIC" if language in CYRILLIC else "CJK" if language in HAN else "LATIN"
    abbreviation = len(word) > 1 and word.isupper() and language not in HAN
    return not abbreviation and all(
        unicodedata.name(letter, "").startswith(script) or unicodedata.combining(letter)
        for letter in word
    )


@functools.cache
def _names(language: str, split: str) -> Names:
    """The names open to ``split``: a digest of the name decides, so the rule outlives releases."""
    buckets: dict[str, set[str]] = {split: set() for split in SPLITS}
    for name in _all_names(language):
        digest = hashlib.blake2b(f"{language}/{name.casefold()}".encode(), digest_size=2).digest()
        bucket = int.from_bytes(digest, "little") % 10
        buckets[("valid", "test")[bucket] if bucket < 2 else "train"].add(name)
    own = () if split == "train" else tuple(sorted(buckets[split]))
    return Names(tuple(sorted(buckets["train"])), own)


@functools.cache
def _all_names(language: str) -> frozenset[str]:
    locale = _locale(language)
    zones = locale.time_zones.items()
    cities = [
        zone.get("city") or identifier.rsplit("/", 1)[-1].replace("_", " ")
        for identifier, zone in zones
    ]
    groups = (
        [name for code, name in locale.territories.items() if code != "ZZ"],
        locale.languages.values(),
        [name for code, name in locale.currencies.items() if code not in ("XXX", "XTS")],
        cities,
    )
    cleaned = {_clean(name, language) for group in groups for name in group}
    # A comma would make one name look like two; long ones leave a short sentence no choice.
    return frozenset(
        name for name in cleaned if 1 < len(name) <= 40 and not re.search("[,，]", name)
    )


@functools.cache
def _joints(language: str) -> tuple[str, tuple[str, ...]]:
    """What stands between the parts of a list, and before its last ("and", "or")."""
    patterns = _locale(language).list_patterns

    def between(pattern: str) -> str:
        return re.sub(r"\{\d\}", "", pattern)

    last = tuple(between(patterns[style]["end"]) for style in ("standard", "or"))
    return ("，" if language in HAN else ", "), last


def _date(language: str, rng: np.random.Generator) -> str:
    from babel.dates import format_date

    day = _FIRST_DAY + datetime.timedelta(days=int(rng.integers(_DAYS)))
    text = format_date(day, _pick(("full", "long"), rng), _locale(language))
    if language in HAN:  # the digits of a year are read one by one
        text = re.sub(r"\d{4}", lambda year: "".join(map(_han_digit, year[0])), text)
    return text


def _han_digit(digit: str) -> str:
    return number_words(int(digit), "zh")


def _quantity(language: str, rng: np.random.Generator) -> str:
    from babel.units import format_unit

    patterns = _locale(language)._data["unit_patterns"]
    long = [unit for unit in _UNITS if "long" in patterns.get(unit, ())]
    if not long:
        return ""
    unit = _pick(long, rng)
    text = format_unit(_amount(rng), unit, "long", "0", _locale(language))
    return "" if unit in text else text  # a unit without a name in this language


def _money(language: str, rng: np.random.Generator) -> str:
    from babel.numbers import format_currency

    return format_currency(
        _amount(rng),
        _pick(_open_currencies(language), rng),
        "0",
        _locale(language),
        currency_digits=False,
        format_type="name",
    )


@functools.cache
def _open_currencies(language: str) -> tuple[str, ...]:
    """Codes of the currencies whose names are not held out."""
    shared = set(_names(language, "train").shared)
    names = sorted(_locale(language).currencies.items())
    return tuple(code for code, name in names if _clean(name, language) in shared)


def _span(language: str, rng: np.random.Generator) -> str:
    from babel.dates import format_timedelta

    seconds = _pick(_SPANS, rng) * int(rng.integers(1, 13)) * (1 if rng.random() < 0.5 else -1)
    span = datetime.timedelta(seconds=seconds)
    return format_timedelta(span, threshold=1, add_direction=True, locale=_locale(language))


def _number(language: str, rng: np.random.Generator) -> str:
    return str(_amount(rng))


def _amount(rng: np.random.Generator) -> int:
    """1 to 9999, each number of digits up to three as likely as the next, four seldom."""
    return int(10 ** rng.uniform(0, 3.3)) if rng.random() < 0.9 else int(rng.integers(1000, 10_000))


@functools.cache
def _locale(language: str):
    from babel import Locale

    return Locale.parse(language)
