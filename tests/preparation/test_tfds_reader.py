"""The reader of TFDS data, on what TFDS itself writes, without TensorFlow."""

import io
import json
import pickle
import struct
import sys

import numpy as np
import pytest
import soundfile
from array_record.python.array_record_module import ArrayRecordReader

from tests.preparation import read_back
from xlsr_jax.data import records
from xlsr_jax.data.records import CorpusError
from xlsr_jax.preparation.corpora.embedded import Rules
from xlsr_jax.preparation.corpora.tfds import Tfds
from xlsr_jax.prepare import main

tfds = pytest.importorskip("tensorflow_datasets")

RATE = 16_000
# What TFDS notes for tfds.features.Audio(sample_rate=16000), whose making takes TensorFlow. Its
# samples are written as those of a Tensor are.
AUDIO = {
    "audio": {
        "dtype": "int64", "encoding": "NONE", "sampleRate": "16000",
        "shape": {"dimensions": ["-1"]},
    },
    "pythonClassName": "tensorflow_datasets.core.features.audio_feature.Audio",
}  # fmt: skip


def wave(number, samples=1_000):
    """[samples] int64, negative and positive 16-bit samples that tell the utterance."""
    return np.arange(samples, dtype=np.int64) * (number + 1) % 30_000 - 15_000


class Tiny(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """LibriSpeech's features, few and short."""

    VERSION = tfds.core.Version("1.2.0")
    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=each) for each in ("es", "lazy_decode")]
    SPEECH = tfds.features.Tensor(shape=(None,), dtype=np.int64)

    def _info(self):
        features = {
            "speech": self.SPEECH,
            "text": tfds.features.Text(),
            "speaker_id": np.int64,
            "id": np.str_,
            "lang_id": tfds.features.ClassLabel(names=["es", "fr_fr"]),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, _):
        return {"train_clean100": self.examples(0, 5), "validation": self.examples(5, 7)}

    def _generate_examples(self):
        raise NotImplementedError

    def examples(self, begin, end):
        for n in range(begin, end):
            labels = {"text": f"frase nº {n}", "speaker_id": 100 + n, "id": f"u-{n}"}
            yield n, {"speech": self.speech(n), "lang_id": n % 2, **labels}

    def speech(self, number):
        return wave(number)


def file_of(number):
    buffer = io.BytesIO()
    soundfile.write(buffer, wave(number).astype(np.int16), RATE, format="FLAC")
    return buffer.getvalue()


class Lazy(Tiny, skip_registration=True):
    """Audio as files; the last of train is cut."""

    SPEECH = tfds.features.Tensor(shape=(), dtype=np.str_)

    def speech(self, number):
        return file_of(number)[: 200 if number == 4 else None]


class Stereo(Tiny, skip_registration=True):
    """Floats in two channels."""

    SPEECH = tfds.features.Tensor(shape=(None, 2), dtype=np.float32)

    def speech(self, number):
        mono = wave(number).astype(np.float32) / 32_768
        return np.stack([mono + 0.25, mono - 0.25], 1)


class Zipped(Tiny, skip_registration=True):
    """Samples of 16 bits, compressed."""

    SPEECH = tfds.features.Tensor(shape=(None,), dtype=np.int16, encoding="zlib")

    def speech(self, number):
        return wave(number).astype(np.int16)


def build(root, builder=Tiny, config="es", **audio):
    """Prepares a builder; returns the folder of its files."""
    made = builder(data_dir=root, config=config, file_format="array_record")
    made.download_and_prepare()
    path = root / builder.__name__.lower() / config / "1.2.0"
    told = json.loads((path / "features.json").read_text())
    changed = {**AUDIO, "audio": {**AUDIO["audio"], **audio}}
    told["featuresDict"]["features"]["speech"] = changed
    (path / "features.json").write_text(json.dumps(told))
    return path


def as_tf_records(path):
    """Turns ArrayRecord into TFRecord, which TFDS writes with TensorFlow alone."""
    for file in path.glob("*.array_record-*"):
        reader = ArrayRecordReader(str(file))
        with open(str(file).replace("array_record", "tfrecord"), "wb") as out:
            for data in reader.read_all():
                out.write(struct.pack("<QI", len(data), 0) + data + struct.pack("<I", 0))
        reader.close()
        file.unlink()
    info = json.loads((path / "dataset_info.json").read_text()) | {"fileFormat": "tfrecord"}
    (path / "dataset_info.json").write_text(json.dumps(info))


def prepared(corpus, out):
    """{id: (split, record)} and {id: reason}."""
    found, aside = read_back.prepared(corpus, out)
    return found, {identity: reason for identity, (_, _, reason) in aside.items()}


def check(found, numbers=range(7)):
    """Every field, for a corpus in which train_clean100 is train."""
    assert sorted(found) == [f"u-{n}" for n in numbers]
    for n in numbers:
        split, record = found[f"u-{n}"]
        assert split == ("train" if n < 5 else "valid")
        assert (record.text, record.speaker) == (f"frase nº {n}", str(100 + n))
        assert record.language == ("es", "fr_fr")[n % 2]
        np.testing.assert_array_equal(record.waveform() * 32_768, wave(n))


RENAMED = Rules(renamed=(("train_clean100", "train"),))


@pytest.mark.parametrize("form", ["array_record", "tfrecord"])
def test_every_field_of_both_formats(form, tmp_path):
    path = build(tmp_path)
    if form == "tfrecord":
        as_tf_records(path)
    assert form in {file.name.split(".")[1].split("-")[0] for file in path.glob("tiny-*")}.pop()
    corpus = Tfds("tiny/es", str(tmp_path), RENAMED)
    assert list(corpus.splits()) == ["train", "valid"]
    found, aside = prepared(corpus, tmp_path / "out")
    assert not aside
    check(found)
    utterance = next(iter(corpus.utterances("valid")))
    assert utterance.seconds == 1_000 / RATE
    assert pickle.loads(pickle.dumps(utterance)).load().rate == RATE
    assert [u.id for u in corpus.utterances("valid")] == [u.id for u in corpus.utterances("valid")]
    assert "tensorflow" not in sys.modules


def test_audio_kept_as_files_is_decoded_and_a_cut_one_set_aside(tmp_path):
    build(tmp_path, Lazy, "lazy_decode", lazyDecode=True)
    found, aside = prepared(Tfds("lazy/lazy_decode", str(tmp_path), RENAMED), tmp_path / "out")
    check(found, (0, 1, 2, 3, 5, 6))
    assert list(aside) == ["u-4"] and aside["u-4"].split(":")[0] in ("damaged audio", "truncated")


def test_floats_in_two_channels_and_compressed_samples(tmp_path):
    build(tmp_path / "a", Stereo, dtype="float32", shape={"dimensions": ["-1", "2"]})
    check(prepared(Tfds("stereo", str(tmp_path / "a"), RENAMED), tmp_path / "out-a")[0])
    build(tmp_path / "b", Zipped, dtype="int16", encoding="ZLIB")
    check(prepared(Tfds("zipped", str(tmp_path / "b"), RENAMED), tmp_path / "out-b")[0])


def test_the_language_is_the_flag_or_the_utterance_or_the_config(tmp_path):
    build(tmp_path)

    def languages(**rules):
        corpus = Tfds("tiny/es:1.2.0", str(tmp_path), Rules(**rules))
        return {u.language for split in corpus.splits() for u in corpus.utterances(split)}

    assert languages() == {"es", "fr_fr"}
    assert languages(columns=(("language", ""),)) == {"es"}
    only = Tfds("tiny", str(tmp_path), Rules((("language", ""),)))
    assert {u.language for u in only.utterances("valid")} == {"es"}
    assert languages(language="en") == {"en"}
    build(tmp_path, config="lazy_decode")
    corpus = Tfds("tiny/lazy_decode", str(tmp_path), Rules(columns=(("language", ""),)))
    with pytest.raises(CorpusError, match="tiny/lazy_decode names no language; give --language"):
        list(corpus.utterances("valid"))


def test_other_features_by_name_and_rate(tmp_path):
    path = build(tmp_path)
    told = json.loads((path / "features.json").read_text())
    feature = told["featuresDict"]["features"]["speech"]
    feature["audio"]["sampleRate"] = "0"
    (path / "features.json").write_text(json.dumps(told))
    columns = (("audio", "speech"), ("text", "id"), ("id", ""), ("speaker", "lang_id"))
    with pytest.raises(CorpusError, match="'speech' does not tell its sampling rate; give --rate"):
        list(Tfds("tiny/es", str(tmp_path)).utterances("valid"))
    corpus = Tfds("tiny/es", str(tmp_path), Rules(columns), rate=8_000)
    assert {(u.id, u.text, u.speaker) for u in corpus.utterances("valid")} == {
        (f"tiny-validation.array_record-00000-of-00001:{at}", u.text, u.speaker)
        for at, u in enumerate(corpus.utterances("valid"))
    }
    shown = {u.text: (u.speaker, u.load().rate) for u in corpus.utterances("valid")}
    assert shown == {"u-5": ("fr_fr", 8_000), "u-6": ("es", 8_000)}
    with pytest.raises(CorpusError, match="'text' has no samples but no numbers"):
        list(Tfds("tiny/es", str(tmp_path), Rules((("audio", "text"),))).utterances("valid"))


def test_the_highest_version_and_the_only_config_are_found(tmp_path):
    path = build(tmp_path)
    path.rename(path.with_name("1.10.0"))
    (path.with_name("1.9.0")).mkdir()
    assert Tfds("tiny", str(tmp_path)).fingerprint()["builder"] == "tiny/es/1.10.0"
    build(tmp_path, config="lazy_decode")
    with pytest.raises(CorpusError, match="NAME/CONFIG, with one of es, lazy_decode"):
        Tfds("tiny", str(tmp_path)).splits()
    with pytest.raises(CorpusError, match="has no version 3.0.0; it has 1.10.0, 1.9.0"):
        Tfds("tiny/es:3.0.0", str(tmp_path)).splits()
    with pytest.raises(CorpusError, match=f"no librispeech in {tmp_path}; it has downloads, tiny"):
        Tfds("librispeech", str(tmp_path)).splits()
    with pytest.raises(CorpusError, match="has no split 'test'; it has validation, train_clean100"):
        Tfds("tiny/lazy_decode", str(tmp_path), Rules(take=("test",))).splits()


def test_damage_is_named_with_the_mend(tmp_path):
    path = build(tmp_path)

    def complaint(split="train_clean100"):
        with pytest.raises(CorpusError) as error:
            list(Tfds("tiny/es", str(tmp_path)).utterances(split))
        return str(error.value)

    whole = next(path.glob("tiny-train*"))
    data = whole.read_bytes()
    whole.write_bytes(data[: len(data) // 2])
    assert "array_record-00000-of-00001 holds 0 of 5 records; copy or prepare" in complaint()
    whole.write_bytes(data[:300] + bytes(10) + data[310:])
    assert "train_clean100.array_record-00000-of-00001 is damaged" in complaint()
    whole.unlink()
    assert "lacks tiny-train_clean100.array_record-00000-of-00001; copy it again" in complaint()
    whole.write_bytes(data)
    as_tf_records(path)
    whole = next(path.glob("tiny-train*"))
    data = whole.read_bytes()
    whole.write_bytes(data[:-3])
    assert "tfrecord-00000-of-00001 holds 4 of 5 records" in complaint()
    broken = bytearray(data)
    broken[12:20] = b"\xff" * 8  # within the first message
    whole.write_bytes(broken)
    listed = list(Tfds("tiny/es", str(tmp_path)).utterances("train_clean100"))
    assert [u.id.split(":")[0] for u in listed if not u.id.startswith("u-")] == [whole.name]
    info = json.loads((path / "dataset_info.json").read_text()) | {"fileFormat": "riegeli"}
    (path / "dataset_info.json").write_text(json.dumps(info))
    assert "is in the format riegeli" in complaint()


def test_the_fingerprint_follows_the_files_and_not_their_place(tmp_path):
    before = [build(tmp_path / each) and Tfds("tiny", str(tmp_path / each)).fingerprint()
              for each in "ab"]  # fmt: skip
    assert before[0] == before[1] and str(tmp_path) not in str(before)
    as_tf_records(tmp_path / "a/tiny/es/1.2.0")
    after = Tfds("tiny", str(tmp_path / "a")).fingerprint()
    assert [key for key in after if before[0][key] != after[key]] == ["source"]


def test_the_command(tmp_path, capsys):
    build(tmp_path / "in")
    command = ["tfds", "--builder", "tiny/es", "--data_dir", str(tmp_path / "in")]
    command += ["--splits", "train_clean100", "--split-as", "train_clean100=train"]
    assert main([*command, "--output", str(tmp_path / "out"), "--workers", "1"]) == 0
    hours = records.Manifest.load(tmp_path / "out").hours("train")
    assert hours == pytest.approx({"es": 3_000 / RATE / 3600, "fr_fr": 2_000 / RATE / 3600})
