"""Number words from 0 to 9999: num2words where it writes them well, else a decimal table."""

import dataclasses

NUM2WORDS = ("en", "es", "fr", "it", "nl", "ru", "sv")


@dataclasses.dataclass(frozen=True)
class _Decimal:
    """Number words of languages that name digits and powers of ten and put them side by side.

    Attributes:
      digits: words of 0 to 9, with spaces between.
      tens: words of 10, 20 .. 90 likewise, or the one word that a digit multiplies.
      hundred, thousand: powers; a 1 before them is said where ``says_one``.
      between: between the words.
      gap: said once for the zeros inside a number.
    """

    digits: str
    tens: str
    hundred: str
    thousand: str
    between: str = " "
    says_one: bool = False
    gap: str = ""

    def spell(self, number: int) -> str:
        digits, tens = self.digits.split(), self.tens.split()
        if number == 0:
            return digits[0]
        words, skipped = [], False
        for power, name in ((1000, self.thousand), (100, self.hundred), (10, ""), (1, "")):
            digit, number = divmod(number, power)
            if not digit:
                skipped = bool(words)
                continue
            if skipped and self.gap:
                words.append(self.gap)
            skipped = False
            if power == 10 and len(tens) == 9:
                words.append(tens[digit - 1])
            elif power == 10:  # 10 to 19 alone are said without the 1
                words += [digits[digit]] * (digit > 1 or bool(words)) + [tens[0]]
            elif power == 1:
                words.append(digits[digit])
            else:
                words += [digits[digit]] * (digit > 1 or self.says_one) + [name]
        return self.between.join(words)


_TABLES = {
    "ky": _Decimal(
        "нөл бир эки үч төрт беш алты жети сегиз тогуз",
        "он жыйырма отуз кырк элүү алтымыш жетимиш сексен токсон",
        "жүз",
        "миң",
    ),
    "tr": _Decimal(
        "sıfır bir iki üç dört beş altı yedi sekiz dokuz",
        "on yirmi otuz kırk elli altmış yetmiş seksen doksan",
        "yüz",
        "bin",
    ),
    "tt": _Decimal(
        "нуль бер ике өч дүрт биш алты җиде сигез тугыз",
        "ун егерме утыз кырык илле алтмыш җитмеш сиксән туксан",
        "йөз",
        "мең",
    ),
    "zh": _Decimal("零 一 二 三 四 五 六 七 八 九", "十", "百", "千", "", True, "零"),
}


def number_words(number: int, language: str) -> str:
    """Cardinal ``number`` (0 to 9999) in words, without digits.

    Raises:
      ValueError: for a number or a language without words here.
    """
    if not 0 <= number <= 9999:
        raise ValueError(f"number words go from 0 to 9999; got {number}")
    if language in _TABLES:
        return _TABLES[language].spell(number)
    if language not in NUM2WORDS:
        raise ValueError(f"no number words for language {language!r}; "
                         f"there are {', '.join(sorted((*NUM2WORDS, *_TABLES)))}")
    import num2words

    words = num2words.num2words(number, lang=language).replace(",", "")  # one thousand, two
    # Swedish writes no consonant three times: ett + tusen is ettusen.
    return words.replace("ttt", "tt") if language == "sv" else words
