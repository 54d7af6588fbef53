import json

import numpy as np
import pytest

from xlsr_jax.evaluation import lm_search, ngram
from xlsr_jax.evaluation.decode import BeamDecoder, DecodeConfig
from xlsr_jax.schema import ConfigError

pytest.importorskip("flashlight.lib.text", reason="pip install -e '.[lm]'")
SYMBOLS = ["-", "a", "b", "c", "|"]


@pytest.fixture(scope="module")
def lm(tmp_path_factory):
    return ngram.write_arpa(tmp_path_factory.mktemp("lm") / "lm", [list("abcabc")] * 20, 3)


@pytest.fixture(scope="module")
def examples():
    """Utterances "abcabc" in noise: the language model helps, its weight 0 is not the best."""
    rng = np.random.default_rng(0)
    made = []
    for _ in range(8):
        logits = np.eye(5)[[1, 0, 2, 0, 3, 0, 1, 0, 2, 0, 3]] * 2.0 + rng.normal(size=(11, 5)) * 1.2
        logits[:, 4] = -9
        log_probs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
        made.append((log_probs.astype(np.float32), tuple("abcabc")))
    return made


def test_it_finds_better_than_it_was_given(lm, examples, tmp_path):
    decoder = BeamDecoder(SYMBOLS, 0, lm, config=DecodeConfig(lm_weight=0.0))
    best_decoder, best = lm_search.search(decoder, examples, tmp_path / "s.jsonl", trials=24)
    heading, *lines = map(json.loads, (tmp_path / "s.jsonl").read_text().splitlines())
    assert heading["search"] == "symbol_score"
    assert [line["number"] for line in lines] == list(range(24))
    assert (lines[0]["lm_weight"], lines[0]["score"]) == (0.0, 0.0)
    assert all(0 <= line["lm_weight"] <= 5 and -5 <= line["score"] <= 5 for line in lines)
    assert best.errors == min(line["errors"] for line in lines) < lines[0]["errors"]
    assert lines[0]["corpus_rate"] == lines[0]["errors"] / 48
    config = best_decoder.config
    assert (config.lm_weight, config.symbol_score) == (best.lm_weight, best.score)
    # Counted again, without the search.
    wrong = [best_decoder.decode(log_probs).tokens != ref for log_probs, ref in examples]
    assert (sum(wrong) == 0) == (best.errors == 0)


def test_a_search_goes_on_where_it_was_cut(lm, examples, tmp_path, monkeypatch):
    decoder = BeamDecoder(SYMBOLS, 0, lm=lm)
    _, whole = lm_search.search(decoder, examples, tmp_path / "whole.jsonl", trials=10)
    lm_search.search(decoder, examples, tmp_path / "cut.jsonl", trials=6)
    text = (tmp_path / "cut.jsonl").read_text()
    (tmp_path / "cut.jsonl").write_text(text[:-9])  # as a kill amid a line leaves it
    decoded = []
    decode = BeamDecoder.decode
    monkeypatch.setattr(BeamDecoder, "decode", lambda s, x: decoded.append(1) or decode(s, x))
    _, best = lm_search.search(decoder, examples, tmp_path / "cut.jsonl", trials=10)
    assert best == whole and len(decoded) == 5 * len(examples)
    assert (tmp_path / "cut.jsonl").read_text() == (tmp_path / "whole.jsonl").read_text()
    _, other = lm_search.search(decoder, examples, tmp_path / "other.jsonl", trials=10, seed=1)
    assert (tmp_path / "other.jsonl").read_text() != (tmp_path / "whole.jsonl").read_text()
    with pytest.raises(ConfigError, match="other settings, seed or utterances"):
        lm_search.search(decoder, examples[1:], tmp_path / "cut.jsonl", trials=10)


def test_with_a_lexicon_words_are_counted(tmp_path):
    lm = ngram.write_arpa(tmp_path / "lm", [["abc", "ab"]] * 5, 2)
    decoder = BeamDecoder(SYMBOLS, 0, lm, {"abc": "abc", "ab": "ab"}, "|")
    frames = np.log(np.eye(5)[[1, 2, 3, 4, 1, 2]] + 0.01).astype(np.float32)
    best_decoder, best = lm_search.search(
        decoder, [(frames, ("abc", "ab"))], tmp_path / "folder/s.jsonl", trials=2
    )
    assert (best.number, best.errors, best.length) == (0, 0, 2)
    assert best_decoder.config.word_score == -1.0


def test_points_fill_the_published_ranges():
    points = np.array(lm_search._points(128, 0))
    cells = {(int(w * 0.8), int((s + 5) * 0.4)) for w, s in points}
    assert len(cells) == 16  # each cell of a 4 by 4 grid
    assert lm_search._points(8, 0) == lm_search._points(128, 0)[:8]


def test_errors_say_the_mend(lm, examples, tmp_path):
    with pytest.raises(ConfigError, match="no language model whose weight"):
        lm_search.search(BeamDecoder(SYMBOLS, 0), examples, tmp_path / "s.jsonl")
    with pytest.raises(ConfigError, match="no reference tokens"):
        lm_search.search(BeamDecoder(SYMBOLS, 0, lm=lm), [(examples[0][0], ())], tmp_path / "s")
