"""Number words against words that speakers of the languages write."""

import pytest

from xlsr_jax.text.numerals import number_words


@pytest.mark.parametrize(
    "language, number, words",
    [
        ("zh", 0, "零"),
        ("zh", 15, "十五"),
        ("zh", 20, "二十"),
        ("zh", 105, "一百零五"),
        ("zh", 110, "一百一十"),
        ("zh", 1005, "一千零五"),
        ("zh", 9876, "九千八百七十六"),
        ("tr", 1999, "bin dokuz yüz doksan dokuz"),
        ("tr", 2010, "iki bin on"),
        ("ky", 345, "үч жүз кырк беш"),
        ("tt", 1017, "мең ун җиде"),
        ("sv", 1000, "ettusen"),
        ("en", 1234, "one thousand two hundred and thirty-four"),
        ("fr", 91, "quatre-vingt-onze"),
        ("ru", 2001, "две тысячи один"),
    ],
)
def test_number_words(language, number, words):
    assert number_words(number, language) == words


@pytest.mark.parametrize("language", ["ky", "tr", "tt", "zh"])
def test_no_two_numbers_share_words(language):
    words = {number_words(number, language) for number in range(10_000)}
    assert len(words) == 10_000


def test_numbers_and_languages_without_words():
    with pytest.raises(ValueError, match="0 to 9999"):
        number_words(10_000, "es")
    with pytest.raises(ValueError, match="no number words for language 'xx'"):
        number_words(1, "xx")
