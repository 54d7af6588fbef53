"""BABEL: miniatures of two packs as the LDC ships them, in mu-law, A-law and 48 kHz WAV."""

import io
import json
import tarfile

import numpy as np
import pytest
import soundfile

from xlsr_jax import prepare as entry
from xlsr_jax.data import records
from xlsr_jax.data.records import CorpusError, Manifest, Record
from xlsr_jax.preparation.corpora.babel import Babel
from xlsr_jax.preparation.corpora.babel_text import clean, marks, objection
from xlsr_jax.preparation.prepare import prepare

SECONDS = 3.0
BENGALI = "BABEL_OP1_103_10066_20120406_230124"
VALID = "BABEL_OP1_103_20000_20120501_120000"  # the drawn one of ten


@pytest.fixture(autouse=True)
def without_processes(monkeypatch):
    """Starting a worker takes longer than a test here."""
    serial = lambda function, tasks, _: ((task, function(task)) for task in tasks)  # noqa: E731
    monkeypatch.setattr("xlsr_jax.preparation.prepare.run", serial)


def frequency(name: str) -> int:
    return 300 + sum(name.encode()) % 7 * 100  # Hz


def waveform(name: str, rate: int) -> np.ndarray:
    """A tone of the name's pitch that grows, so that a part tells where it was cut."""
    time = np.arange(int(rate * SECONDS)) / rate
    return (0.1 + 0.2 * time) * np.sin(2 * np.pi * frequency(name) * time)


def sph(name: str, coding: str, seconds: float = SECONDS) -> bytes:
    raw = io.BytesIO()
    samples = np.resize(waveform(name, 8_000), int(8_000 * seconds))
    soundfile.write(raw, samples, 8_000, format="RAW", subtype=coding.upper())
    head = (
        f"NIST_1A\n   1024\nsample_count -i {len(samples)}\nsample_n_bytes -i 1\n"
        f"channel_count -i 1\nsample_byte_format -s1 1\nsample_rate -i 8000\n"
        f"sample_coding -s4 {coding}\ndatabase_id -s6 BABEL1\nend_head\n"
    )
    return head.encode().ljust(1024) + raw.getvalue()


def wav(name: str) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, waveform(name, 48_000), 48_000, format="WAV", subtype="PCM_24")
    return file.getvalue()


CALL = (
    "[0.000]\n<no-speech>\n[0.500]\nহ্যালো *হ্যালো* <breath> কে-\n[1.000]\n"
    "<no-speech> ভাল ~ (())\n[1.500]\n[2.000]\n<laugh> <hes>\n[2.500]\nআছি\n[3.050]\n"
)
SIMPLE = "\ufeff[0.0]\r\nএক দুই\r\n\r\n[2.25]\r\n"


def pack(root) -> None:
    """conversational/ and scripted/ of Bengali, and a pack of Cantonese beside it."""
    files = {}

    def put(place, name, sound=None, text=None, suffix="sph", written="transcription"):
        if sound is not None:
            files[f"{place}/audio/{name}.{suffix}"] = sound
        if text is not None:
            files[f"{place}/{written}/{name}.txt"] = text.encode("utf-8", "surrogateescape")

    talk = "IARPA_BABEL_OP1_103/conversational"
    for side in ("inLine", "outLine"):
        name = f"{BENGALI}_{side}"
        put(f"{talk}/training", name, sph(name, "ulaw"), CALL if side == "inLine" else SIMPLE)
        name = f"{VALID}_{side}"
        put(f"{talk}/training", name, sph(name, "ulaw"), SIMPLE)
    name = f"{BENGALI}_inLine"
    put(f"{talk}/training", name, text="[0.0]\nhyalo\n[1.0]\n", written="transcript_roman")
    put(f"{talk}/sub-train", name, text=CALL)
    put(f"{talk}/dev", "BABEL_OP1_103_30001_20120601_101010_inLine",
        wav("BABEL_OP1_103_30001_20120601_101010_inLine"), SIMPLE, "wav")  # fmt: skip
    put(f"{talk}/eval", "BABEL_OP1_103_40001_20120601_101010_inLine", b"never opened")
    put(f"{talk}/training", "BABEL_OP1_103_50001_20120601_101010_inLine", text=SIMPLE)
    for stem, text in (
        ("60001", "[0.0]\n\udcff\n[1.0]\n"), ("60002", "hello\n[0.0]\n"), ("60003", "[0.0]\nx\n"),
        ("60004", ""), ("60005", "[1.0]\ny\n[0.5]\n"),
    ):  # fmt: skip
        name = f"BABEL_OP1_103_{stem}_20120601_101010_inLine"
        put(f"{talk}/training", name, sph(name, "ulaw"), text)
    put("IARPA_BABEL_OP1_103/scripted/training", "BABEL_OP1_103_10066_20120406_230000_O1_scripted",
        sph("BABEL_OP1_103_10066_20120406_230000_O1_scripted", "ulaw"), SIMPLE)  # fmt: skip
    name = "BABEL_OP1_103_70001_20120601_101010_outLine"
    put(f"{talk}/untranscribed-training", name, sph(name, "ulaw"))
    name = "BABEL_OP1_103_70002_20120601_101010_outLine"
    put(f"{talk}/untranscribed-training", name, sph(name, "ulaw").replace(b"sample_rate", b"s_r"))
    name = "BABEL_BP_101_10033_20111024_205740_inLine"
    put("BABEL_BP_101/conversational/training", name, sph(name, "alaw"),
        "[0.0]\n喂 <foreign>\n[1.5]\n")  # fmt: skip
    for path, data in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(data)


@pytest.fixture(params=["folder", "archive"])
def source(request, tmp_path):
    pack(tmp_path / "packs")
    if request.param == "folder":
        return str(tmp_path / "packs")
    with tarfile.open(tmp_path / "packs.tar.gz", "w:gz") as tar:
        tar.add(tmp_path / "packs", ".")
    return str(tmp_path / "packs.tar.gz")


def prepared(corpus, out) -> tuple[dict[str, tuple[str, Record]], dict[str, tuple[str, str]]]:
    """({id: (split, record)}, {id: (split, reason)})."""
    prepare(corpus, out, workers=1, progress_bar=False)
    made = {}
    for shard in Manifest.load(out).shards:
        shards = records.open_shards(out, [shard])
        for number in range(len(shards)):
            record = Record.from_bytes(shards[number])
            made[record.id] = (shard.split, record)
            assert record.language == shard.language
    lines = [json.loads(line) for line in (out / "rejected.jsonl").read_text().splitlines()]
    return made, {line["id"]: (line["split"], line["reason"]) for line in lines}


def holds(record: Record, start: float, end: float) -> None:
    """The record is [start, end) seconds of its recording's tone."""
    assert (record.encoding, record.phonemes, record.alignment) == ("pcm16", "", ())
    assert abs(record.samples - 16_000 * (end - start)) <= 1
    expected = waveform(record.id.split("-")[0], 16_000)[round(16_000 * start) :]
    inner = slice(400, record.samples - 400)
    np.testing.assert_allclose(record.waveform()[inner], expected[inner], atol=0.025)


def segments(name, *rows):
    return {f"{name}-{first}-{last}": rest for first, last, *rest in rows}


CLEANED = ("000050", "000100", "হ্যালো হ্যালো কে", 0.5, 1.0), ("000100", "000150", "ভাল", 1.0, 1.5)
LAST = ("000250", "000305", "আছি", 2.5, 3.0)
ONE = ("000000", "000225", "এক দুই", 0.0, 2.25)
TRAIN = {
    **segments(f"{BENGALI}_inLine", *CLEANED, LAST),
    **segments(f"{BENGALI}_outLine", ONE),
    **segments("BABEL_BP_101_10033_20111024_205740_inLine", ("000000", "000150", "喂", 0, 1.5)),
}
VALIDATION = {**segments(f"{VALID}_inLine", ONE), **segments(f"{VALID}_outLine", ONE)}
TEST = segments("BABEL_OP1_103_30001_20120601_101010_inLine", ONE)
ASIDE = {
    f"{BENGALI}_inLine-000000-000050": "no speech: <no-speech>",
    f"{BENGALI}_inLine-000150-000200": "no text: between two times",
    f"{BENGALI}_inLine-000200-000250": "no words: <laugh> <hes>",
}
BROKEN = {
    "50001": ("", "file is missing: BABEL_OP1_103_50001_20120601_101010_inLine.sph"),
    "60001": ("-line00001", "unreadable transcript: no UTF-8 text"),
    "60002": ("-line00001", "line before the first time: hello"),
    "60003": ("-line00002", "line after the last time: x"),
    "60004": ("-line00000", "no segment in the transcript"),
    "60005": ("-000100-000050", "empty segment: 1 to 0.5 s"),
    "40001": ("", "no transcript: BABEL_OP1_103_40001_20120601_101010_inLine.txt"),
}


def test_conversations(source, tmp_path):
    corpus = Babel(source)
    assert list(corpus.splits()) == ["train", "valid", "test", "eval"]
    made, aside = prepared(corpus, tmp_path / "out")
    expected = {"train": TRAIN, "valid": VALIDATION, "test": TEST}
    assert sorted(made) == sorted(key for rows in expected.values() for key in rows)
    for split, rows in expected.items():
        for identity, (text, start, end) in rows.items():
            where, record = made[identity]
            assert (where, record.text) == (split, text)
            _, _, number, speaker, *_ = identity.split("_")
            assert record.speaker == f"{number}_{speaker}_{'AB'['outLine' in identity]}"
            assert record.language == {"101": "yue", "103": "bn"}[number]
            holds(record, start, end)
    broken = {f"BABEL_OP1_103_{key}_20120601_101010_inLine{end}": reason
              for key, (end, reason) in BROKEN.items()}  # fmt: skip
    assert {key: reason for key, (_, reason) in aside.items()} == ASIDE | broken


def test_other_choices(source, tmp_path):
    corpus = Babel(
        source, "xx", "both", "drop_segment", limited=True, untranscribed=True,
        piece_seconds=1.1, valid_share=0,
    )  # fmt: skip
    assert list(corpus.splits()) == ["train", "test", "eval", "untranscribed"]
    made, aside = prepared(corpus, tmp_path / "out")
    assert {record.language for _, record in made.values()} == {"xx"}
    name = "BABEL_OP1_103_70001_20120601_101010_outLine"
    pieces = segments(
        name, ("000000", "000100", 0, 1), ("000100", "000200", 1, 2), ("000200", "000300", 2, 3)
    )
    assert sorted(made) == sorted([f"{BENGALI}_inLine-000250-000305", *TEST, *pieces])
    for identity, (start, end) in pieces.items():
        split, record = made[identity]
        assert (split, record.text, record.speaker) == ("untranscribed", "", "103_70001_B")
        holds(record, start, end)
    first = aside[f"{BENGALI}_inLine-000050-000100"]
    assert first == ("train", "marked segment: *হ্যালো* <breath> কে-")
    assert aside["BABEL_OP1_103_70002_20120601_101010_outLine"] == (
        "untranscribed", "damaged audio: the SPHERE header has no sample_rate",
    )  # fmt: skip
    read = Babel(source, part="scripted")  # not in ``made``: scripted/ has no sub-train
    assert [u.id for split in read.splits() for u in read.utterances(split)] == [
        "BABEL_OP1_103_10066_20120406_230000_O1_scripted-000000-000225"
    ]
    roman = {u.id: u.text for u in Babel(source, roman=True).utterances("train") if u.text}
    assert roman == {f"{BENGALI}_inLine-000000-000100": "hyalo"}


def test_the_command_line_reads_a_pack(tmp_path, capsys):
    pack(tmp_path / "packs")
    source = tmp_path / "packs" / "BABEL_BP_101"
    out = tmp_path / "out"
    flags = ["--source", str(source), "--output", str(out), "--noise", "keep", "--workers", "1"]
    assert entry.main(["babel", *flags]) == 0
    (shard,) = Manifest.load(out).shards
    (record,) = map(Record.from_bytes, [records.open_shards(out, [shard])[0]])
    assert (record.text, record.language) == ("喂 <foreign>", "yue")
    assert entry.main(["babel", "--source", str(tmp_path), "--output", str(tmp_path / "no"),
                       "--part", "scripted", "--valid-share", "2"]) == 1  # fmt: skip
    assert "error: the share of valid must be 0 to 1" in capsys.readouterr().err


def test_a_tenth_of_the_conversations_validates_with_both_sides(tmp_path):
    root = tmp_path / "conversational" / "training" / "audio"
    root.mkdir(parents=True)
    for call in range(500):
        for side in ("inLine", "outLine"):
            (root / f"BABEL_OP1_404_{call:05d}_20140101_000000_{side}.sph").touch()
    corpus = Babel(str(tmp_path))
    drawn = {split: [u.id for u in corpus.utterances(split)] for split in corpus.splits()}
    assert len(drawn["train"]) + len(drawn["valid"]) == 1_000
    assert len(drawn["valid"]) == pytest.approx(100, abs=40)
    for names in drawn.values():
        calls = [name.rpartition("_")[0] for name in names]
        assert all(calls.count(call) == 2 for call in set(calls))


@pytest.mark.parametrize(
    ("words", "text", "found"),
    [
        ("<no-speech> a b <no-speech>", "a b", []),
        ("*mis* frag- -ment ~ well-being <male-to-female> (()) c", "mis frag ment well-being c",
         ["(())", "*mis*", "-ment", "<male-to-female>", "frag-", "~"]),
        ("<sta> <hes> - <overlap>", "", ["-", "<hes>", "<overlap>", "<sta>"]),
    ],
)  # fmt: skip
def test_marks_in_transcripts(words, text, found):
    assert clean(words) == text and marks(words) == found
    assert clean(words, "keep") == " ".join(words.replace("<no-speech>", "").split())
    assert bool(objection(words)) == (not text)
    assert objection(words, "drop_segment").startswith("marked segment" if found else "")


def test_members_that_reading_refuses_and_second_copies_are_set_aside(tmp_path):
    pack(tmp_path / "packs")
    audio = tmp_path / "packs/BABEL_BP_101/conversational/training/audio"
    name = "BABEL_BP_101_10033_20111024_205740_inLine"
    (audio / f"{name}.wav").write_bytes(wav(name))
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.add(tmp_path / "packs/BABEL_BP_101", "BABEL_BP_101")
        link = "BABEL_BP_101_10099_20111024_205740_inLine"
        info = tarfile.TarInfo(f"BABEL_BP_101/conversational/training/audio/{link}.sph")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(info)
    _, aside = prepared(Babel(str(tmp_path / "a.tar")), tmp_path / "out")
    assert aside[f"{name}.wav"][1] == f"second audio of a recording: {name}.wav"
    assert aside[link][1] == "link in an archive"


def test_what_is_no_babel_is_named(tmp_path):
    with pytest.raises(CorpusError, match="no recordings in .*; give a BABEL pack"):
        Babel(str(tmp_path)).splits()
    with pytest.raises(CorpusError, match="unknown noise 'loud'; use"):
        Babel(str(tmp_path), noise="loud").splits()
    folder = tmp_path / "conversational/dev/audio"
    folder.mkdir(parents=True)
    (folder / "BABEL_OP1_999_10033_20111024_205740_inLine.sph").touch()
    with pytest.raises(CorpusError, match="is of no known pack; name its language with --language"):
        list(Babel(str(tmp_path)).utterances("test"))


def test_the_fingerprint_knows_the_options_and_not_the_place(tmp_path):
    pack(tmp_path / "a")
    before = Babel(str(tmp_path / "a")).fingerprint()
    moved = str((tmp_path / "a").rename(tmp_path / "b"))
    assert Babel(moved).fingerprint() == before
    other = Babel(moved, noise="keep").fingerprint()
    assert [key for key in before if before[key] != other[key]] == ["noise"]
    assert str(tmp_path) not in json.dumps(before)
