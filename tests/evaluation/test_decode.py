import itertools
import math

import numpy as np
import pytest
from brute_force import brute_force, random_log_probs

from xlsr_jax.evaluation import ngram
from xlsr_jax.evaluation.decode import BeamDecoder, DecodeConfig, greedy
from xlsr_jax.evaluation.language_model import Lexicon, read_lexicon
from xlsr_jax.schema import ConfigError

pytest.importorskip("flashlight.lib.text", reason="pip install -e '.[lm]'")

ARPA = """\\data\\
ngram 1=5
ngram 2=4

\\1-grams:
-99\t<s>\t-0.3
-0.6\t</s>
-1.5\t<unk>
-0.5\ta\t-0.2
-0.7\tb\t-0.1

\\2-grams:
-0.1\t<s> a
-0.4\ta b
-0.2\tb </s>
-0.9\ta </s>

\\end\\
"""
PAPER = {  # log10 of whole sentences, added up by hand from the table above
    (): -0.3 - 0.6,
    ("a",): -0.1 - 0.9,
    ("b",): (-0.3 - 0.7) - 0.2,
    ("a", "b"): -0.1 - 0.4 - 0.2,
    ("b", "a"): (-0.3 - 0.7) + (-0.1 - 0.5) - 0.9,
    ("a", "a"): -0.1 + (-0.2 - 0.5) - 0.9,
    ("b", "b", "a"): (-0.3 - 0.7) + (-0.1 - 0.7) + (-0.1 - 0.5) - 0.9,
}


@pytest.fixture(scope="module")
def arpa(tmp_path_factory):
    path = tmp_path_factory.mktemp("lm") / "lm.arpa"
    path.write_text(ARPA)
    return path


@pytest.mark.parametrize("log_add", [True, False])
def test_without_a_model_it_is_the_likeliest_sequence(log_add):
    differ = 0
    for seed in range(40):
        log_probs = random_log_probs(seed, 6, 4, sharpness=2.0)
        expected = brute_force(log_probs, 3, log_add)
        best = max(expected, key=expected.get)
        decoder = BeamDecoder("abc-", 3, config=DecodeConfig(beam=2000, log_add=log_add))
        found = decoder.decode(log_probs)
        assert found.ids == best and found.tokens == tuple("abc-"[i] for i in best)
        assert found.score == pytest.approx(expected[best], abs=1e-9)
        assert (found.language, found.words) == (0.0, ())
        differ += tuple(greedy(log_probs, 3)) != best
    assert differ > 5 if log_add else differ == 0  # the best single alignment is greedy's


@pytest.mark.parametrize("log_add", [True, False])
def test_with_a_model_over_symbols_it_is_the_best_total(arpa, log_add):
    """Against all sequences, the language model's part computed on paper or by the table."""
    config = DecodeConfig(beam=2000, lm_weight=1.5, symbol_score=0.0, log_add=log_add)
    decoder = BeamDecoder(["-", "a", "b"], 0, arpa, config=config)
    for tokens, logarithm in PAPER.items():
        total = decoder.total_score(np.zeros((6, 3), np.float32), tokens)
        free = BeamDecoder(["-", "a", "b"], 0, config=config).total_score(np.zeros((6, 3)), tokens)
        assert total - free == pytest.approx(1.5 * logarithm, abs=1e-5)
    changed = 0
    for seed in range(30):
        log_probs = random_log_probs(seed, 5, 3, sharpness=2.0)
        totals = {
            ids: acoustic + 1.5 * paper_score(["-ab"[i] for i in ids])
            for ids, acoustic in brute_force(log_probs, 0, log_add).items()
        }
        found = decoder.decode(log_probs)
        assert found.score == pytest.approx(max(totals.values()), abs=1e-4)
        assert totals[found.ids] == pytest.approx(found.score, abs=1e-4)
        changed += found.ids != tuple(greedy(log_probs, 0))
    assert changed > 3


def paper_score(words):
    """The bigram table by its definition: the pair, else backoff and the single word."""
    single = {"</s>": -0.6, "a": -0.5, "b": -0.7}
    backoff = {"<s>": -0.3, "a": -0.2, "b": -0.1}
    pairs = {("<s>", "a"): -0.1, ("a", "b"): -0.4, ("b", "</s>"): -0.2, ("a", "</s>"): -0.9}
    sentence = ["<s>", *words, "</s>"]
    return sum(
        pairs.get((left, right), backoff[left] + single[right])
        for left, right in itertools.pairwise(sentence)
    )


def test_the_paper_agrees_with_itself():
    for words, logarithm in PAPER.items():
        assert paper_score(words) == pytest.approx(logarithm)


@pytest.mark.parametrize("log_add", [True, False])
def test_with_a_lexicon_it_is_the_best_total_over_its_words(arpa, log_add):
    """Words "a" = x, "b" = xy and yx; only sequences that they spell, delimiters between."""
    symbols = ["x", "|", "y", "-"]
    config = DecodeConfig(beam=5000, lm_weight=1.5, word_score=0.4, log_add=log_add)
    lexicon = {"a": "x", "b": [("x", "y"), ("y", "x")]}
    decoder = BeamDecoder(symbols, 3, arpa, lexicon, "|", config)
    spelled = {"x": "a", "xy": "b", "yx": "b"}
    several = same = 0
    for seed in range(25):
        log_probs = random_log_probs(seed, 6, 4, sharpness=2.0)
        log_probs[:, 1] += 1.0
        totals = {}
        for ids, acoustic in brute_force(log_probs, 3, log_add).items():
            parts = "".join(symbols[i] for i in ids).split("|")
            words = tuple(spelled.get(part, "?") for part in parts if part)
            if "?" not in words and "||" not in "".join(symbols[i] for i in ids):
                totals[ids] = acoustic + 1.5 * paper_score(words) + 0.4 * len(words), words
        best = max(totals, key=totals.get)
        found = decoder.decode(log_probs)
        assert found.score >= totals[best][0] - 1e-4  # two delimiters side by side may be better
        if found.ids in totals:
            assert found.score == pytest.approx(totals[best][0], abs=1e-4)
            assert found.words == totals[found.ids][1]
            same += 1
        several += len(found.words) > 1
    assert several > 2 and same > 12
    assert decoder.total_score(log_probs, ["y"]) == -np.inf


@pytest.mark.parametrize("log_add", [True, False])
@pytest.mark.parametrize("spelled", [True, False])
def test_the_settings_steer_a_narrow_beam(arpa, spelled, log_add):
    """A beam of 4 mostly finds what one of 3000 finds: both are cut by the total that counts."""
    config = DecodeConfig(beam=4, word_score=-3.0, log_add=log_add)
    symbols = ["-", "a", "b", "|"] if spelled else ["-", "a", "b"]
    lexicon = {"a": "a", "b": [("b",), ("a", "b")]} if spelled else None
    narrow = BeamDecoder(symbols, 0, arpa, lexicon, "|", config)
    wide = narrow.with_settings(beam=3000)
    same = 0
    for seed in range(40):
        log_probs = random_log_probs(seed, 12, len(symbols), sharpness=1.0)
        same += narrow.decode(log_probs).score >= wide.decode(log_probs).score - 1e-6
    assert same >= (24 if spelled else 33)


def test_symbols_are_scored_as_they_are_counted(arpa):
    decoder = BeamDecoder("-ab", 0, arpa, config=DecodeConfig(symbol_score=0.7))
    log_probs = random_log_probs(0, 8, 3)
    plain = decoder.with_settings(symbol_score=0.0)
    for tokens in ("", "a", "bba"):
        gained = decoder.total_score(log_probs, tokens) - plain.total_score(log_probs, tokens)
        assert gained == pytest.approx(0.7 * len(tokens))
    longer = decoder.with_settings(symbol_score=5.0).decode(log_probs)
    assert len(longer.tokens) > len(plain.decode(log_probs).tokens)


def test_spellings_shared_by_words_get_the_likelier_reading(arpa):
    lexicon = {"b": "x", "a": "x"}
    decoder = BeamDecoder(["-", "x", "|"], 0, arpa, lexicon, "|")
    log_probs = np.log(np.eye(3)[[1, 2, 0, 1]] + 1e-3)
    assert decoder.decode(log_probs).words == ("a", "b")
    single = DecodeConfig().lm_weight * PAPER[("a", "b")] + 2 * DecodeConfig().word_score
    assert decoder.decode(log_probs).language == pytest.approx(single, abs=1e-5)


@pytest.mark.parametrize("beam", [1, 3, 50])
def test_never_below_greedy(tmp_path, beam):
    """However narrow the beam: totals of the result and of greedy's tokens under one model."""
    rng = np.random.default_rng(0)
    symbols = ["-", *(f"p{i}" for i in range(11)), "|"]
    text = [list(rng.choice(symbols[1:], 8)) for _ in range(40)]
    lm = ngram.write_arpa(tmp_path / "lm", text, 3, symbols[1:])
    above = 0
    for weight, score in ((2.0, -1.0), (5.0, -5.0), (0.3, 4.0)):
        config = DecodeConfig(beam=beam, beam_threshold=5, lm_weight=weight, symbol_score=score)
        decoder = BeamDecoder(symbols, 0, lm, None, "|", config)
        for seed in range(12):
            log_probs = random_log_probs(seed, 30, 13, sharpness=0.3)
            found = decoder.decode(log_probs)
            floor = decoder.total_score(log_probs, greedy(log_probs, 0))
            assert found.score >= floor
            assert found.score == pytest.approx(decoder.total_score(log_probs, found.tokens))
            assert found.score == pytest.approx(found.acoustic + found.language)
            above += found.score > floor + 1e-6
    assert above > 10


def test_a_model_mends_what_is_heard(tmp_path):
    """Text always has "a b"; the second sound is a coin's toss that falls for "c"."""
    lm = ngram.write_arpa(tmp_path / "lm", [list("abab")] * 20, 3, words="abc")
    log_probs = np.log(np.eye(4)[[1, 0, 3, 0, 1, 2]] * 0.9 + 0.025)
    log_probs[2] = np.log([0.02, 0.02, 0.46, 0.50])
    assert "".join(BeamDecoder("-abc", 0).decode(log_probs).tokens) == "acab"
    assert "".join(BeamDecoder("-abc", 0, lm=lm).decode(log_probs).tokens) == "abab"


def test_symbols_that_cannot_be_stay_out(arpa):
    """-inf, as for the symbols of other languages."""
    log_probs = random_log_probs(0, 8, 3)
    log_probs[:, 2] = -np.inf
    for lm in (None, arpa):
        found = BeamDecoder("-ab", 0, lm=lm).decode(log_probs)
        assert "b" not in found.tokens and math.isfinite(found.score)
    assert BeamDecoder("-ab", 0, lm=arpa).decode(log_probs[:0]).tokens == ()


def test_words_stand_between_delimiters():
    log_probs = np.log(np.eye(4)[[3, 1, 2, 3, 0, 1, 3]] + 1e-6)
    assert BeamDecoder("-ab|", 0, word_delimiter="|").decode(log_probs).words == ("ab", "a")


def test_settings_change_without_reading_again(arpa):
    decoder = BeamDecoder("-ab", 0, lm=arpa)
    other = decoder.with_settings(lm_weight=0.0)
    log_probs = random_log_probs(1, 6, 3)
    assert other.lm is decoder.lm and decoder.config.lm_weight == 2.0
    plain = BeamDecoder("-ab", 0).decode(log_probs)
    assert other.decode(log_probs).score == pytest.approx(plain.score)


def test_published_settings():
    config = DecodeConfig()
    assert (config.beam, config.beam_threshold) == (50, 50)
    assert (config.lm_weight, config.word_score) == (2, -1)


def test_errors_say_the_mend(tmp_path, arpa):
    with pytest.raises(ConfigError, match="no language model at .*nowhere.arpa; give"):
        BeamDecoder("-ab", 0, lm=tmp_path / "nowhere.arpa")
    (tmp_path / "prose").write_text("no model\n")
    with pytest.raises(ConfigError, match="prose is no n-gram model"):
        BeamDecoder("-ab", 0, lm=tmp_path / "prose")
    with pytest.raises(ConfigError, match=r"knows none of .*\(x y"):
        BeamDecoder(["<s>", "x", "y"], 0, lm=arpa)
    assert BeamDecoder("-ax", 0, lm=arpa).lm.unknown == ("x",)
    with pytest.raises(ConfigError, match="no lexicon at"):
        BeamDecoder("-ab", 0, lm=arpa, lexicon=tmp_path / "nowhere.txt")
    with pytest.raises(ConfigError, match="needs a word delimiter"):
        BeamDecoder("-ab", 0, lm=arpa, lexicon={"a": "a"})
    with pytest.raises(ConfigError, match="spell none"):
        BeamDecoder("-ab|", 0, lm=arpa, lexicon={"a": "é"}, word_delimiter="|")
    with pytest.raises(ValueError, match=r"\[frames, 3 symbols\]"):
        BeamDecoder("-ab", 0).decode(np.zeros((5, 4)))
    with pytest.raises(ValueError, match="nan"):
        BeamDecoder("-ab", 0).decode(np.full((5, 3), np.nan))
    with pytest.raises(ConfigError, match="blank 3 is none of the 3"):
        BeamDecoder("-ab", 3)


def test_lexicon_files(tmp_path):
    path = tmp_path / "lexicon.txt"
    path.write_text("the\tð ə |\n\nthe ð i\ncat k æ t |\n", encoding="utf-8")
    spellings = read_lexicon(path)
    assert spellings == {"the": [("ð", "ə", "|"), ("ð", "i")], "cat": [("k", "æ", "t", "|")]}
    lexicon = Lexicon(spellings, ["-", "ð", "ə", "i", "|"], "|")
    assert (lexicon.words, lexicon.left_out) == (("the",), ("cat",))
    assert lexicon.readings == {(1, 2): [0], (1, 3): [0]}
    path.write_text("the\n")
    with pytest.raises(ConfigError, match="line 1: 'the' has no symbols"):
        read_lexicon(path)
    path.write_text("\n")
    with pytest.raises(ConfigError, match="is empty"):
        read_lexicon(path)
