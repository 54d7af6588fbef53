"""Vocabularies: numbers and symbols, shared or apart by language."""

import json

import pytest

from xlsr_jax.text import vocabulary
from xlsr_jax.text.vocabulary import BLANK, Vocabulary

SPOKEN = [("es", ["t", "a", "tʃ"]), ("sv", ["t", "aː"]), ("es", [])]


def test_languages_share_a_symbol_or_not():
    shared = vocabulary.build(SPOKEN, "phonemes")
    assert shared.symbols == (BLANK, "a", "aː", "t", "tʃ")
    assert shared.encode(["t", "a"], "es") == shared.encode(["t", "a"], "sv") == ([3, 1], [])
    apart = vocabulary.build(SPOKEN, "phonemes", separate=True)
    assert apart.symbols == (BLANK, "(es)a", "(es)t", "(es)tʃ", "(sv)aː", "(sv)t")
    assert apart.encode(["t", "a"], "es") == ([2, 1], [])
    assert apart.encode(["t", "a"], "sv") == ([5], ["a"])
    assert apart.decode([0, 2, 5, 4]) == ["t", "t", "aː"]
    assert apart.of_language("sv") == [0, 4, 5]
    assert shared.of_language("sv") == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match="no language 'fr'; it has es, sv"):
        apart.of_language("fr")


def test_symbols_with_parentheses_survive():
    apart = vocabulary.build([("en", ["(", ")", "(a)"])], "characters", separate=True)
    numbers, unknown = apart.encode(["(a)", ")", "("], "en")
    assert apart.decode(numbers) == ["(a)", ")", "("] and not unknown


def test_saved_and_read_back():
    made = vocabulary.build(SPOKEN, "phonemes", separate=True)
    assert Vocabulary.from_dict(json.loads(json.dumps(made.to_dict()))) == made


def test_a_label_is_never_the_blank():
    made = vocabulary.build(SPOKEN, "phonemes")
    assert made.encode([BLANK, "a"], "es") == ([1], [BLANK])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  Hej, du!  ", "hej|du"),
        ("L’Été d'or 'x'", "l'été|d'or|x"),
        ("a\u0301b", "áb"),  # composed
        ("हिन्दी", "हिन्दी"),  # vowel signs are marks, not letters
        ("--", ""),
    ],
)
def test_characters_of_a_transcript(text, expected):
    tokens = vocabulary.characters(text)
    assert "".join(tokens) == expected
    unit = Vocabulary((BLANK, *sorted(set(tokens) | {"|"})), "characters", False, ("xx",))
    assert unit.text(tokens) == expected.replace("|", " ")


def test_no_labels_is_an_error():
    with pytest.raises(ValueError, match="no utterance has a label"):
        vocabulary.build([("es", [])], "phonemes")
