"""Inspection: the records asked for, what they hold, and one of them as it is on disk."""

import functools
import json

import numpy as np
import pytest
import soundfile

from tests.data.corpora import make_corpus
from xlsr_jax import prepare as entry
from xlsr_jax.data import records
from xlsr_jax.data.records import CorpusError, Manifest, Record
from xlsr_jax.preparation import inspection


def tone(key: int, samples: int) -> np.ndarray:
    """[samples] float32 of whole periods, amplitude 0.5 / (key + 1)."""
    return (0.5 / (key + 1) * np.sin(2 * np.pi * np.arange(samples) / 40)).astype(np.float32)


@pytest.fixture
def corpus(tmp_path):
    root = tmp_path / "corpus"
    made = make_corpus(root, {"es": [4_000] * 6, "fr": [8_000] * 3}, waveform=tone)
    make_corpus(root, {"tt": [2_000] * 2}, "test", tone, "flac", made)
    line = {"id": "es-gone", "split": "train", "language": "es", "reason": "not audio: no header"}
    (root / "rejected.jsonl").write_text(json.dumps(line) + "\n")
    return root


def ids(chosen) -> list[str]:
    return [record.id for _, record in chosen]


def test_records_are_spread_over_what_was_chosen(corpus):
    choose = functools.partial(inspection.choose, corpus)
    assert ids(choose(count=3)) == ["es-0", "es-5", "tt-1"]  # numbers 0, 5, 10 of 11
    assert ids(choose(split="train", count=2)) == ["es-0", "fr-2"]
    assert ids(choose(language="fr", count=50)) == ["fr-0", "fr-1", "fr-2"]
    assert ids(choose(split="test", language="tt", count=1)) == ["tt-0"]
    ((shard, record),) = choose(identity="fr-1")
    assert (shard.path, record.id, record.samples) == ("train/fr-00000.array_record", "fr-1", 8_000)


def test_what_is_not_there_is_named_with_what_is(corpus):
    choose = functools.partial(inspection.choose, corpus)
    with pytest.raises(CorpusError, match="has no split 'dev'; it has test, train"):
        choose(split="dev")
    with pytest.raises(CorpusError, match="split train of .* no language 'tt'; it has es, fr"):
        choose(split="train", language="tt")
    with pytest.raises(CorpusError, match="none of 11 records .* id 'es_4'; there are es-4"):
        choose(identity="es_4")
    with pytest.raises(CorpusError, match="none of 2 records .* id 'es-4'; there are tt-0, tt-1"):
        choose(identity="es-4", split="test")
    with pytest.raises(CorpusError, match="es-gone .* it was set aside: not audio: no header"):
        choose(identity="es-gone")
    with pytest.raises(CorpusError, match="count must be 1 or more; got 0"):
        choose(count=0)


def test_a_damaged_shard_is_named_with_the_mend(corpus):
    path = corpus / "train" / "es-00000.array_record"
    data = bytearray(path.read_bytes())
    for at in range(200, 600):  # in the first record
        data[at] ^= 255
    path.write_bytes(data)
    with pytest.raises(CorpusError, match="^record 0 of train/es-00000.array_record .* check --o"):
        inspection.choose(corpus)


def test_a_record_is_described_by_its_fields_and_levels(corpus):
    ((shard, plain),) = inspection.choose(corpus, identity="fr-1")  # amplitude 0.5 / 8
    assert inspection.describe(shard, plain).splitlines() == [
        "fr-1  (train, fr, train/fr-00000.array_record)",
        "  speaker   unknown",
        "  seconds   0.50 (8,000 samples at 16 kHz)",
        "  audio     pcm16, 16,000 bytes",
        "  level     -27.1 dBFS RMS, peak -24.1 dBFS",
        "  text      none",
        "  phonemes  none",
        "  alignment none",
    ]
    silent = Record(
        "q", "tt", bytes(3_200), "pcm16", 1_600, "ann", "ж" * 150, "a b",
        (("a", 160, 400), ("b", 400, 1_600)),
    )  # fmt: skip
    text = inspection.describe(shard, silent)
    assert "  speaker   ann\n" in text and "  level     silence RMS, peak silence\n" in text
    assert f"  text      {'ж' * 100}... (150 characters)\n  phonemes  a b\n" in text
    assert text.endswith("  alignment 2 phones, the first a at 0.010 to 0.025 s")


@pytest.mark.parametrize("identity, number", [("es-3", 3), ("tt-1", 1)])
def test_the_wav_has_the_samples_of_the_record(identity, number, corpus, tmp_path, capsys):
    wav = tmp_path / "heard.WAV"
    command = ["inspect", str(corpus), f"--id={identity}", f"--wav={wav}"]
    assert entry.main(command) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"{identity}  (") and shown.endswith(f"{identity} is in {wav}\n")
    assert soundfile.info(wav).subtype == "PCM_16"
    pcm, rate = soundfile.read(wav, dtype="int16")
    assert rate == records.SAMPLE_RATE
    samples = 4_000 if identity == "es-3" else 2_000
    expected = np.rint(tone(number, samples) * 32768)
    np.testing.assert_array_equal(pcm, expected)


def test_the_command_shows_several_and_fails_in_one_line(corpus, tmp_path, capsys):
    assert entry.main(["inspect", str(corpus), "--count", "2", "--language", "es"]) == 0
    blocks = capsys.readouterr().out.split("\n\n")
    assert [block.split()[0] for block in blocks] == ["es-0", "es-5"]
    for flags, said in (
        (["--split", "dev"], "has no split 'dev'"),
        (["--wav", str(tmp_path / "a.mp3")], "a.mp3 must end in .wav"),
        (["--wav", str(tmp_path / "no" / "a.wav")], "cannot write"),
    ):
        assert entry.main(["inspect", str(corpus), *flags]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ") and said in line
    assert entry.main(["inspect", str(tmp_path)]) == 1
    assert f"no corpus at {tmp_path}" in capsys.readouterr().err


def test_a_corpus_without_a_list_of_what_was_set_aside_is_fine(corpus):
    (corpus / "rejected.jsonl").unlink()
    assert Manifest.load(corpus).shards
    with pytest.raises(CorpusError, match="none of 11 records looked through has the id 'gone'"):
        inspection.choose(corpus, identity="gone")
