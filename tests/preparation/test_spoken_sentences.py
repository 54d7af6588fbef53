"""Sentence lists spoken by voices of their own."""

import json

import numpy as np
import pytest

from xlsr_jax import prepare
from xlsr_jax.data import records
from xlsr_jax.preparation.corpora import voices
from xlsr_jax.preparation.corpora.spoken_sentences import SpokenSentences
from xlsr_jax.text import espeak


def _write(folder, **lists):
    (folder / "sv").mkdir(parents=True)
    for name, sentences in lists.items():
        lines = [f"{name}-{n}\t{text}\n" for n, text in enumerate(sentences)]
        (folder / "sv" / f"{name}.text").write_text("".join(lines), encoding="utf-8")
    return folder


def test_a_list_becomes_a_corpus_with_its_ids_texts_and_phonemes(tmp_path):
    source = _write(tmp_path / "lists", train=["Det är för varmt."], val=["Ja.", "Nej.", "Hej."])
    output = tmp_path / "corpus"
    assert prepare.main(["spoken_sentences", f"--source={source}", f"--output={output}"]) == 0
    manifest = records.Manifest.load(output)
    stored = records.open_shards(output, manifest.shards)
    found = [records.Record.from_bytes(stored[number]) for number in range(len(stored))]
    assert [(record.id, record.text) for record in found] == [
        ("train-0", "Det är för varmt."), ("val-0", "Ja."), ("val-2", "Hej."), ("val-1", "Nej."),
    ]  # fmt: skip
    assert found[0].phonemes == "d eː t ɛː r f øː r v a r m t"
    made_with = json.loads((output / records.MANIFEST).read_text())["made_with"]
    assert made_with["splits"] == "train valid test"
    assert "sv/train.text" in made_with


def test_no_voice_is_one_of_the_demonstration_corpus():
    seen = {**voices.DEMONSTRATION.shared, **voices.DEMONSTRATION.held_out}
    others = {**voices.OTHERS.shared, **voices.OTHERS.held_out}
    assert not {v[0] for v in seen.values()} & {v[0] for v in others.values()}
    # espeak passes over a variant that it has not: each must sound different.
    waves = [
        espeak.speak("hej", espeak.Voice("sv", *(variant, 170, 50))).waveform
        for variant in ["", *(v[0] for v in [*seen.values(), *others.values()])]
    ]
    assert len({wave.tobytes() for wave in waves}) == len(waves)


def test_training_hears_the_shared_voices_and_the_test_all(tmp_path):
    drawn = {
        split: {
            voices.OTHERS.draw("sv", split, np.random.default_rng(n))[1].variant for n in range(300)
        }
        for split in ("train", "test")
    }
    assert drawn["train"] == {v[0] for v in voices.OTHERS.shared.values()}
    assert drawn["test"] - drawn["train"] == {v[0] for v in voices.OTHERS.held_out.values()}


def test_what_is_missing_or_malformed_is_named(tmp_path):
    with pytest.raises(records.CorpusError, match="no folder"):
        SpokenSentences(str(tmp_path / "no")).splits()
    source = _write(tmp_path / "lists", train=["Ja."])
    with pytest.raises(records.CorpusError, match="has no ky/train.text; it has sv"):
        SpokenSentences(str(source), ("ky",)).splits()
    (source / "sv" / "train.text").write_text("no tab here\n")
    with pytest.raises(records.CorpusError, match="train.text, line 1 must be an id, a tab"):
        SpokenSentences(str(source)).splits()
    (source / "sv" / "train.text").write_bytes(b"id\t\xe9\n")
    with pytest.raises(records.CorpusError, match="cannot be read as UTF-8"):
        SpokenSentences(str(source)).splits()
