"""Transcripts made alike, by rules that hold in every language and are stated here whole.

``text`` is one of

- as_is: as the corpus has it.
- nfc: Unicode's composed form, NFC.
- plain: NFC; characters that are not seen are removed (categories Cc and Cf: control, zero-width,
  soft hyphen, direction marks; Persian and Indic joiners too); white space of any kind becomes one
  space, none at the ends; curly, low, modifier and fullwidth quotes become ' and ", guillemets
  too; hyphens of all kinds, the minus, figure and en dash become -, the em dash and the bar, which
  stand between words, become a - of their own. Case and all other marks stay.

``remove_punctuation`` puts a space for every mark and symbol (categories P and S), but an
apostrophe or hyphen between letters, digits or their accents stays ("l'eau", "so-called"), as does
an apostrophe that is a letter. ``lower`` is Unicode's lower case; in Turkish, Azerbaijani, Tatar
and Crimean Tatar of Latin letters I is ı and İ is i. After either, white space is as in plain.
"""

import re
import unicodedata

RULES = ("as_is", "nfc", "plain")
DOTTED = {"tr", "az", "tt", "crh"}  # languages with ı and i
_JOINING = "'\u2019\uff07-\u2010\u2011"  # apostrophes and hyphens, where they stand within a word
_PLAIN = str.maketrans(
    dict.fromkeys("\u2018\u2019\u201a\u201b\u2032\u02bc\u02b9\u2039\u203a\uff07`\u00b4", "'")
    | dict.fromkeys("\u201c\u201d\u201e\u201f\u2033\u00ab\u00bb\uff02", '"')
    | dict.fromkeys("\u2010\u2011\u2012\u2013\u2212\ufe63\uff0d", "-")
    | dict.fromkeys("\u2014\u2015", " - ")
)


def normalise(
    text: str,
    rule: str = "as_is",
    *,
    lower: bool = False,
    remove_punctuation: bool = False,
    language: str = "",
) -> str:
    """``text`` by the rules of the module's docstring; again by the same rules it does not change.

    Args:
      rule: one of ``RULES``.
      language: code, of which ``lower`` asks only whether it has a dotless ı.

    Raises:
      ValueError: unknown rule.
    """
    if rule not in RULES:
        raise ValueError(f"unknown text rule {rule!r}; use {', '.join(RULES)}")
    if rule != "as_is":
        text = unicodedata.normalize("NFC", text)
    if rule == "plain":
        text = _spaced("".join(c for c in _spaced(text) if _seen(c)).translate(_PLAIN))
    if remove_punctuation:
        text = _spaced(_without_marks(text))
    if lower:
        if language.split("-")[0] in DOTTED:
            text = text.replace("I\u0307", "i").replace("I", "\u0131").replace("\u0130", "i")
        text = _spaced(text.lower())
    return text if rule == "as_is" else unicodedata.normalize("NFC", text)


def _spaced(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip()


def _seen(character: str) -> bool:
    return unicodedata.category(character) not in ("Cc", "Cf")


def _without_marks(text: str) -> str:
    kinds = [unicodedata.category(character)[0] for character in text]
    kept = []
    for place, (character, kind) in enumerate(zip(text, kinds, strict=True)):
        inside = 0 < place < len(text) - 1 and {kinds[place - 1], kinds[place + 1]} <= set("LMN")
        kept.append(" " if kind in "PS" and not (inside and character in _JOINING) else character)
    return "".join(kept)
