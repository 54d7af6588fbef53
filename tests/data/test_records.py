"""Records, shards, index and manifest: exact round trips, and damage noticed with its name."""

import json
import os

import numpy as np
import pytest

from xlsr_jax.data import records
from xlsr_jax.data.records import CorpusError, Manifest, Record

PCM = np.random.default_rng(0).integers(-32768, 32768, 20_000).astype(np.int16)
EXTREMES = np.array([-32768, -32767, -1, 0, 1, 32767] * 200, np.int16)


@pytest.mark.parametrize("encoding", ["pcm16", "flac"])
@pytest.mark.parametrize("pcm", [PCM, EXTREMES], ids=["noise", "extremes"])
def test_sixteen_bits_come_back_exactly(encoding, pcm):
    waveform = pcm.astype(np.float32) / 32768
    encoded = records.encode_audio(waveform, encoding)
    record = Record("a", "en", encoded, encoding, len(pcm))
    back = Record.from_bytes(record.to_bytes()).waveform()
    assert back.dtype == np.float32
    np.testing.assert_array_equal(back, waveform)


def test_what_exceeds_full_scale_is_clipped_and_not_wrapped():
    back = np.frombuffer(records.encode_audio(np.array([1.5, 1.0, -1.5]), "pcm16"), "<i2")
    np.testing.assert_array_equal(back, [32767, 32767, -32768])


def test_rounding_is_to_the_nearest_step():
    waveform = (np.array([10.4, 10.6, -10.6]) / 32768).astype(np.float32)
    back = np.frombuffer(records.encode_audio(waveform, "pcm16"), "<i2")
    np.testing.assert_array_equal(back, [10, 11, -11])


def test_all_fields_come_back():
    record = Record(
        "x/1", "sv-SE", b"\x01\x02", "pcm16", 1, "anna", "höst 秋", "h œ s t",
        (("h", 0, 80), ("œ", 80, 400)),
    )
    assert Record.from_bytes(record.to_bytes()) == record


def test_an_unknown_encoding_is_named():
    with pytest.raises(ValueError, match="'mp3'; use pcm16 or flac"):
        records.encode_audio(np.zeros(4, np.float32), "mp3")


def corpus(root, counts=(3, 5)):
    shards = []
    for number, count in enumerate(counts):
        items = [
            Record(f"{number}-{i}", "en", np.full(100 + i, i, "<i2").tobytes(), "pcm16", 100 + i)
            for i in range(count)
        ]
        path = f"train/en-{number:05d}.array_record"
        shards.append(records.write_shard(root, path, "train", "en", items))
    Manifest("test", tuple(shards), {"train": {"en": {"no samples": 2}}}, {"maker": "1"}).save(root)
    return Manifest.load(root)


def test_shards_and_index_and_manifest_agree(tmp_path):
    manifest = corpus(tmp_path)
    lengths = records.read_lengths(tmp_path, manifest.split("train"))
    np.testing.assert_array_equal(np.concatenate(lengths), [100, 101, 102, 100, 101, 102, 103, 104])
    source = records.open_shards(tmp_path, manifest.split("train"))
    read = [Record.from_bytes(source[i]) for i in range(len(source))]
    assert [record.id for record in read] == ["0-0", "0-1", "0-2", *(f"1-{i}" for i in range(5))]
    assert [record.samples for record in read] == list(np.concatenate(lengths))
    np.testing.assert_array_equal(read[5].waveform(), np.full(102, 2 / 32768, np.float32))
    assert manifest.hours("train") == {"en": pytest.approx(813 / 16_000 / 3600)}
    assert manifest.rejected == {"train": {"en": {"no samples": 2}}}
    assert manifest.made_with == {"maker": "1"}
    document = json.loads((tmp_path / "manifest.json").read_text())
    assert document["totals"]["train"]["en"]["utterances"] == 8
    assert records.damage(tmp_path, manifest.shards) == []


def test_the_same_records_make_the_same_bytes(tmp_path):
    first, second = corpus(tmp_path / "a"), corpus(tmp_path / "b")
    assert first == second  # shard checksums included


def test_a_shard_that_fails_midway_leaves_nothing(tmp_path):
    def broken():
        yield Record("a", "en", b"\0\0", "pcm16", 1)
        raise KeyError("reader")

    with pytest.raises(KeyError, match="reader"):
        records.write_shard(tmp_path, "train/en-00000.array_record", "train", "en", broken())
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_missing_shard_is_named(tmp_path):
    manifest = corpus(tmp_path)
    (tmp_path / manifest.shards[1].path).unlink()
    with pytest.raises(CorpusError, match="lacks train/en-00001.array_record, .*prepare command"):
        records.read_lengths(tmp_path, manifest.shards)
    assert records.damage(tmp_path, manifest.shards) == ["train/en-00001.array_record is missing"]


@pytest.mark.parametrize("keep", [0, 70_000, -10])
def test_a_truncated_shard_is_noticed(tmp_path, keep):
    manifest = corpus(tmp_path, counts=(500,))
    path = tmp_path / manifest.shards[0].path
    assert path.stat().st_size > 70_000
    os.truncate(path, keep if keep >= 0 else path.stat().st_size + keep)
    with pytest.raises(CorpusError, match="cannot be opened .*compare sha256"):
        records.open_shards(tmp_path, manifest.shards)
    assert records.damage(tmp_path, manifest.shards) == [
        "train/en-00000.array_record differs from its checksum"
    ]


def test_a_shard_of_another_corpus_is_noticed(tmp_path):
    manifest = corpus(tmp_path, counts=(3,))
    corpus(tmp_path, counts=(4,))
    with pytest.raises(CorpusError, match="disagrees with the manifest: 4 records, expected 3"):
        records.read_lengths(tmp_path, manifest.shards)
    with pytest.raises(CorpusError, match="hold 4 records, the manifest says 3"):
        records.open_shards(tmp_path, manifest.shards)


def test_a_damaged_index_is_named(tmp_path):
    manifest = corpus(tmp_path)
    os.truncate(tmp_path / manifest.shards[0].index_path, 130)
    with pytest.raises(CorpusError, match="en-00000.samples.npy is truncated or damaged"):
        records.read_lengths(tmp_path, manifest.shards)


def test_manifest_errors_say_the_mend(tmp_path):
    with pytest.raises(CorpusError, match="manifest.json is missing; make it with python -m"):
        Manifest.load(tmp_path)
    manifest = corpus(tmp_path)
    with pytest.raises(CorpusError, match="no split 'dev'; it has train"):
        manifest.split("dev")
    path = tmp_path / "manifest.json"
    path.write_text(path.read_text().replace('"schema_version": 1', '"schema_version": 99'))
    with pytest.raises(CorpusError, match="record schema 99"):
        Manifest.load(tmp_path)
    path.write_text(path.read_text()[:100])
    with pytest.raises(CorpusError, match="is damaged"):
        Manifest.load(tmp_path)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full, a disk always full")
def test_a_full_disk_is_one_clear_line(tmp_path, monkeypatch):
    def items():
        for i in range(50):
            yield Record(str(i), "en", os.urandom(100_000), "pcm16", 50_000)

    path = tmp_path / "train" / "en-00000.array_record"
    path.parent.mkdir()
    # The partial file that the writer opens is a link to a device on which nothing fits.
    os.symlink("/dev/full", path.with_name(path.name + f".partial-{os.getpid()}"))
    with pytest.raises(CorpusError, match="cannot write .*en-00000.array_record: .*No space left"):
        records.write_shard(tmp_path, "train/en-00000.array_record", "train", "en", items())
    assert not path.exists()
    os.symlink("/dev/full", tmp_path / f"manifest.json.partial-{os.getpid()}")
    with pytest.raises(CorpusError, match="cannot write .*manifest.json: No space left"):
        Manifest("test", (), {}, {}).save(tmp_path)
