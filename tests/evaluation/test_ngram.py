import math
import re

import numpy as np
import pytest

from xlsr_jax.evaluation import ngram
from xlsr_jax.evaluation.language_model import LanguageModel
from xlsr_jax.schema import ConfigError

pytest.importorskip("flashlight.lib.text", reason="pip install -e '.[lm]'")
WORDS = ["a", "b", "tʃ", "|", "aɪ"]


@pytest.fixture(scope="module")
def text():
    rng = np.random.default_rng(0)
    return [list(rng.choice(WORDS[:4], rng.integers(1, 7))) for _ in range(30)]


def after(model, history):
    """log10 probabilities of everything that may follow, by KenLM."""
    state = model.model.start(False)
    for word in history:
        state = model.model.score(state, model.words.index(word))[0]
    known = [model.model.score(state, i)[1] for i in range(len(model.words))]
    return known + [model.model.finish(state)[1]]


@pytest.mark.parametrize("order", [2, 3, 4])
def test_probabilities_sum_to_one_in_kenlm(tmp_path, text, order):
    path = ngram.write_arpa(tmp_path / "lm.arpa", text, order, words=WORDS)
    model = LanguageModel(path, [*WORDS, "<unk>"])
    assert model.unknown == ("aɪ",)  # never seen, so as probable as any unknown word
    histories = [[], ["a"], ["a", "b"], ["b", "tʃ", "|"], ["aɪ"], ["a", "aɪ"], ["<unk>", "a"]]
    for history in histories:
        assert sum(10**p for p in after(model, history)) == pytest.approx(1.0, abs=1e-5)


def test_a_bigram_by_hand(tmp_path):
    """Two sentences "a b", "a": Witten-Bell on paper."""
    model = LanguageModel(ngram.write_arpa(tmp_path / "lm", [["a", "b"], ["a"]], 2), ["a", "b"])
    # 5 unigrams counted (a a b </s> </s>), 3 distinct, 4 outcomes with <unk>: 3/4 of a count each.
    a, b, end = (2 + 0.75) / 8, (1 + 0.75) / 8, (2 + 0.75) / 8
    first = (2 + 1 * a) / (2 + 1)  # <s>: seen twice, followed by a alone
    then = (1 + 2 * b) / (2 + 2)  # a: seen twice, followed by b and </s>
    last = (1 + 1 * end) / (1 + 1)
    assert model.score([0, 1]) == pytest.approx(math.log10(first * then * last), abs=1e-5)
    unseen = (2 / 4) * a  # a after a
    assert model.score([0, 0]) == pytest.approx(
        math.log10(first * unseen * (1 + 2 * end) / 4), abs=1e-5
    )


def test_the_file_is_well_formed(tmp_path, text):
    lines = ngram.write_arpa(tmp_path / "lm.arpa", text, 3).read_text("utf-8").splitlines()
    for n in (1, 2, 3):
        stated = int(next(line for line in lines if line.startswith(f"ngram {n}=")).split("=")[1])
        start = lines.index(f"\\{n}-grams:") + 1
        section = lines[start : lines.index("", start)]
        assert len(section) == len({line.split("\t")[1] for line in section}) == stated
        for line in section:
            assert re.fullmatch(rf"-?[\d.]+\t\S+( \S+){{{n - 1}}}(\t-?[\d.]+)?", line)
            assert float(line.split("\t")[0]) <= 0
    assert lines[-1] == "\\end\\"


def test_it_prefers_text_like_its_own(tmp_path):
    model = LanguageModel(ngram.write_arpa(tmp_path / "lm", [list("abab")] * 9, 3), ["a", "b"])
    assert model.score([0, 1, 0, 1]) > model.score([1, 1, 0, 0]) + 2


@pytest.mark.parametrize("bad", [["a b"], [""], ["<s>"], ["\u00a0"]])
def test_words_that_the_format_cannot_hold(tmp_path, bad):
    with pytest.raises(ConfigError, match="cannot be a word"):
        ngram.write_arpa(tmp_path / "lm", [bad])


def test_nothing_to_count(tmp_path):
    with pytest.raises(ConfigError, match="needs text.*1 sequences, 0 not empty"):
        ngram.write_arpa(tmp_path / "lm", [[]])
    with pytest.raises(ConfigError, match="order 1"):
        ngram.write_arpa(tmp_path / "lm", [["a"]], order=1)
