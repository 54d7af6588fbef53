"""Labels of records, and plans of whole labelled utterances."""

import json

import numpy as np
import pytest

from xlsr_jax.data import labelled, labels, pipeline
from xlsr_jax.data.index import DataConfig, load_index
from xlsr_jax.data.labels import LabelsConfig
from xlsr_jax.data.records import CorpusError, Manifest, Record, encode_audio, write_shard

WINDOW, HOP = 400, 320
SAMPLES = (8_000, 4_000, 16_000, 720, 32_000)
PHONEMES = ("a b a", "b b", "tʃ a", "a a a", "")


@pytest.fixture
def corpus(tmp_path):
    shards = []
    for split in ("train", "valid"):
        for language in ("es", "sv"):
            found = []
            for number, (samples, phonemes) in enumerate(zip(SAMPLES, PHONEMES, strict=True)):
                waveform = np.full(samples, (number + 1) / 100, np.float32)
                third = samples // 3
                found.append(
                    Record(
                        f"{language}-{split}-{number}", language, encode_audio(waveform, "pcm16"),
                        "pcm16", samples, text="Hej, du", phonemes=phonemes,
                        alignment=(("a", 0, third), ("b", third, 2 * third)),
                    )  # fmt: skip
                )
            path = f"{split}/{language}-00000.array_record"
            shards.append(write_shard(tmp_path, path, split, language, found))
    Manifest("test", tuple(shards), {}, {}).save(tmp_path)
    return tmp_path


def config(corpus, **changes):
    settings = {"path": str(corpus), "batch_seconds": 4.0, "alpha": 1.0, "buckets": 2,
                "min_samples": 400, "max_crop_samples": 20_000}  # fmt: skip
    return DataConfig(**(settings | changes))


def opened(corpus, unit="recorded", separate=False, **changes):
    data = config(corpus, **changes)
    index = load_index(data, "train")
    settings = LabelsConfig(unit=unit, separate=separate)
    tokens = labels.load(settings, index)
    chosen = labelled.choose(data, index)
    made = labels.make_vocabulary(index, tokens, settings, chosen)
    encoded, unknown = labels.encode(index, tokens, made)
    assert not unknown
    return data, index, encoded, made, chosen


def test_labels_are_made_once_and_beside_the_shards(corpus):
    _, index, _, _, _ = opened(corpus)
    path = corpus / "labels/recorded/train/es-00000.tsv"
    lines = path.read_text().splitlines()
    assert lines[1:4] == ["es-train-0\ta b a", "es-train-1\tb b", "es-train-2\ttʃ a"]
    path.write_text(path.read_text().replace("tʃ a", "b a"))
    assert labels.load(LabelsConfig(unit="recorded"), index)[2] == ("es-train-2", ("b", "a"))
    # Labels of another shard are made anew.
    path.write_text(path.read_text().replace(index.shards[0].sha256, "0" * 64))
    assert labels.load(LabelsConfig(unit="recorded"), index)[2] == ("es-train-2", ("tʃ", "a"))


def test_phonemes_are_made_with_their_versions(corpus):
    _, index, _, _, _ = opened(corpus, unit="phonemes")
    made = json.loads((corpus / "labels/phonemes/manifest.json").read_text())
    assert made["sv"]["utterances"] == 5 and made["sv"]["language switches removed"] == 0
    assert {"espeak-ng", "phonemizer"} <= made["sv"].keys()


def test_what_cannot_be_trained_on_is_named(corpus):
    data, index, encoded, _, chosen = opened(corpus)
    plan = labelled.plan_labelled(data, index, encoded, chosen=chosen)
    assert dict(plan.refused) == {
        3: "fewer frames than labels", 4: "no label",  # 2 frames for a a a, which needs 5
        8: "fewer frames than labels", 9: "no label",
    }  # fmt: skip
    assert "left out: fewer frames than labels 2, no label 2" in plan.summary()
    assert labelled.reasons_of(plan)[0] == {
        "id": "es-train-3", "language": "es", "reason": "fewer frames than labels"
    }  # fmt: skip
    with pytest.raises(CorpusError, match="no utterance .* can be trained on"):
        labelled.plan_labelled(config(corpus, min_samples=19_000), index, encoded, chosen=chosen)


def test_batches_hold_whole_utterances_and_their_labels(corpus):
    data, index, encoded, made, chosen = opened(corpus, separate=True)
    plan = labelled.plan_labelled(data, index, encoded, chosen=chosen)
    stream = pipeline.train_batches(plan, seed=0)
    seen = []
    for _, batch in zip(range(60), stream, strict=False):
        for row, record in enumerate(batch["record"]):
            seen.append(record)
            samples = SAMPLES[record % 5]
            assert batch["samples"][row] == samples
            value = np.float32(round((record % 5 + 1) / 100 * 32768) / 32768)
            np.testing.assert_allclose(batch["waveform"][row, :samples], value)
            assert not batch["waveform"][row, samples:].any()
            count = batch["label_count"][row]
            tokens = [made.symbols[n] for n in batch["labels"][row, :count]]
            language = index.languages[index.language[record]]
            assert tokens == [f"({language}){p}" for p in PHONEMES[record % 5].split()]
            assert not batch["labels"][row, count:].any()
    stream.close()
    counts = np.bincount(seen, minlength=10)
    assert not counts[[3, 4, 8, 9]].any()
    kept = counts[[0, 1, 2, 5, 6, 7]] / len(seen)
    np.testing.assert_allclose(kept, 1 / 6, atol=0.03)  # alpha 1: every utterance equally often


def test_some_seconds_of_labels_are_always_the_same(corpus):
    data = config(corpus, label_seconds=1.5)
    index = load_index(data, "train")
    chosen = labelled.choose(data, index)
    for language in (0, 1):
        mine = chosen[index.language[chosen] == language]
        assert len(mine) and (len(mine) == 1 or index.samples[mine].sum() <= 24_000)
    assert np.array_equal(chosen, labelled.choose(data, index))


def test_a_frame_has_the_phone_that_covers_most_of_it(corpus):
    data = config(corpus)
    index = load_index(data, "train", ("es", "sv"))
    settings = LabelsConfig(unit="aligned")
    tokens = labels.load(settings, index)
    made = labels.make_vocabulary(index, tokens, settings, np.arange(10))
    found = labels.encode_frames(index, tokens, made, WINDOW, HOP)
    third = SAMPLES[0] // 3
    for frame, number in enumerate(found.of(0)):
        covered = [
            max(0, min(frame * HOP + WINDOW, end) - max(frame * HOP, start))
            for start, end in ((0, third), (third, 2 * third))
        ]
        wanted = "" if not any(covered) else "ab"[int(np.argmax(covered))]
        assert (made.symbols[number] if number else "") == wanted, frame
    assert len(found.of(0)) == (SAMPLES[0] - WINDOW) // HOP + 1


def test_a_file_of_other_utterances_is_refused(corpus, tmp_path):
    index = load_index(config(corpus), "train")
    (tmp_path / "other.tsv").write_text("x-1\ta b\n")
    with pytest.raises(CorpusError, match="'x-1' there and 'es-train-0' here"):
        labels.load(LabelsConfig(file=str(tmp_path / "other.tsv")), index)
    (tmp_path / "broken.tsv").write_text("es-train-0 a b\n")
    with pytest.raises(CorpusError, match="line 1: id, a tab and tokens"):
        labels.load(LabelsConfig(file=str(tmp_path / "broken.tsv")), index)
