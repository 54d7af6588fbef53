"""TED-LIUM: miniatures of releases 2 and 3 as they unpack, links and all, and as archives."""

import dataclasses
import functools
import json
import tarfile

import numpy as np
import pytest

from xlsr_jax import prepare as entry
from xlsr_jax.data import records
from xlsr_jax.data.records import CorpusError, Manifest, Record
from xlsr_jax.preparation.corpora.tedlium3 import Tedlium, clean
from xlsr_jax.preparation.prepare import prepare

make = functools.partial(prepare, workers=1, progress_bar=False)


@pytest.fixture(autouse=True)
def without_processes(request, monkeypatch):
    """Starting a worker takes longer than a test here; one test has one."""
    if "processes" not in request.node.name:
        serial = lambda function, tasks, _: ((task, function(task)) for task in tasks)  # noqa: E731
        monkeypatch.setattr("xlsr_jax.preparation.prepare.run", serial)


def pcm(talk: str, seconds: float = 4.0) -> np.ndarray:
    seed = sum(talk.encode())
    return np.random.default_rng(seed).integers(-3_000, 3_000, int(16_000 * seconds), "i2")


def sph(talk: str) -> bytes:
    head = (
        "NIST_1A\n   1024\nsample_count -i 64000\nsample_n_bytes -i 2\nchannel_count -i 1\n"
        "sample_byte_format -s2 01\nsample_rate -i 16000\nsample_coding -s3 pcm\nend_head\n"
    )
    return head.encode().ljust(1024) + pcm(talk).astype("<i2").tobytes()


def put(root, place, talk, stm: str | bytes | None = None, audio=True):
    for kind, data in (("sph", sph(talk) if audio else None), ("stm", stm)):
        path = root / place / kind / f"{talk}.{kind}"
        path.parent.mkdir(parents=True, exist_ok=True)
        if data is not None:
            path.write_bytes(data if isinstance(data, bytes) else data.encode())


def link(root, name, to):
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).symlink_to(to)


ALGORE = (
    "\ufeff;; a comment\r\n\r\n"
    "AlGore_2009 1 AlGore_2009 0.5 1.25 <NA> it 's what they 've read(2) <unk> {NOISE} cafés\r\n"
    "AlGore_2009 1 AlGore_2009 1.25 2.00 <NA> ignore_time_segment_in_scoring\r\n"
    "AlGore_2009 1 AlGore_2009 2.00 2.50 <NA> <sil>\r\n"
    "AlGore_2009 1 AlGore_2009 2.5 4.05 <NA> rock 'n roll\r\n"
    "AlGore_2009 1 AlGore_2009 3.9 4.2 <NA> beyond the end\r\n"
    "AlGore_2009 1 AlGore_2009 3.0 2.0 <NA> backwards\r\n"
    "AlGore_2009 1 AlGore_2009 2.5 4.05 <NA> said twice\r\n"
    "Other_2001 1 Other_2001 0.0 1.0 <NA> another talk\r\n"
    "AlGore_2009 1 AlGore_2009 soon later <NA> no times\r\n"
    "AlGore_2009 1\r\n"
)


def plain(talk, *words):
    lines = (f"{talk} 1 {talk} {n} {n + 1} <o,f0,female> {text}" for n, text in enumerate(words))
    return "\n".join(lines) + "\n"


@pytest.fixture(params=["folders", "files"])
def release3(tmp_path, request):
    """legacy/train is a pair of links in some copies, a folder of links in others."""
    root = tmp_path / "TEDLIUM_release-3"
    put(root, "data", "AlGore_2009", ALGORE)
    put(root, "data", "Zoë_2010", plain("Zoë_2010", "one two", "three"))
    put(root, "data", "Held_2011", plain("Held_2011", "held out"))
    put(root, "data", "Mute_2012", plain("Mute_2012", "no audio"), audio=False)
    put(root, "data", "Quiet_2013")
    put(root, "data", "Latin_2014", "Latin_2014 1 L 0 1 <NA> caf\xe9\n".encode("latin-1"))
    put(root, "legacy/dev", "Dev_2010", plain("Dev_2010", "we 're in dev"))
    put(root, "legacy/test", "Test_2010", plain("Test_2010", "tested"))
    (root / "README").write_text("read me\n")
    for kind in ("sph", "stm"):
        if request.param == "folders":
            link(root, f"legacy/train/{kind}", f"../../data/{kind}")
        for path in sorted((root / "data" / kind).iterdir()):
            to = f"../../../data/{kind}/{path.name}"
            split = "dev" if path.name.startswith("Held") else "train"
            link(root, f"speaker-adaptation/{split}/{kind}/{path.name}", to)
            if request.param == "files":
                link(root, f"legacy/train/{kind}/{path.name}", to)
    return root


def pack(root, path):
    with tarfile.open(path, "w:gz") as tar:
        tar.add(root, root.name)
    return path


def found(root) -> dict[str, tuple[str, Record]]:
    every = {}
    manifest = Manifest.load(root)
    for shard in manifest.shards:
        source = records.open_shards(root, [shard])
        for number in range(len(source)):
            record = Record.from_bytes(source[number])
            every[record.id] = (shard.split, record)
    return every


def aside(root) -> dict[str, tuple[str, str]]:
    lines = (json.loads(line) for line in (root / "rejected.jsonl").read_text().splitlines())
    return {line["id"]: (line["split"], line["reason"]) for line in lines}


LEGACY = {  # id: split, text, first and last sample
    "AlGore_2009-0000050-0000125": ("train", "it's what they've read cafés", 8_000, 20_000),
    "AlGore_2009-0000250-0000405": ("train", "rock 'n roll", 40_000, 64_000),
    "AlGore_2009-0000250-0000405-2": ("train", "said twice", 40_000, 64_000),
    "Zoë_2010-0000000-0000100": ("train", "one two", 0, 16_000),
    "Zoë_2010-0000100-0000200": ("train", "three", 16_000, 32_000),
    "Held_2011-0000000-0000100": ("train", "held out", 0, 16_000),
    "Dev_2010-0000000-0000100": ("valid", "we're in dev", 0, 16_000),
    "Test_2010-0000000-0000100": ("test", "tested", 0, 16_000),
}
ASIDE = {
    "AlGore_2009-0000125-0000200": "excluded by the transcript: ignore_time_segment_in_scoring",
    "AlGore_2009-0000200-0000250": "no words: <sil>",
    "AlGore_2009-0000390-0000420": "segment beyond the end: 3.9 to 4.2 of 4.00 s",
    "AlGore_2009-0000300-0000200": "empty segment: 3 to 2 s",
    "AlGore_2009-0000000-0000100": "line of another recording: Other_2001",
    "AlGore_2009-line00011": "malformed line: AlGore_2009 1 AlGore_2009 soon later <NA> no times",
    "AlGore_2009-line00012": "malformed line: AlGore_2009 1",
    "Mute_2012": "file is missing: Mute_2012.sph",
    "Quiet_2013": "file is missing: Quiet_2013.stm",
    "Latin_2014-line00001": "unreadable transcript: no UTF-8 text",
}


def agrees(everything, expected):
    assert sorted(everything) == sorted(expected)
    for identity, (split, text, first, last) in expected.items():
        where, record = everything[identity]
        talk = identity.split("-")[0]
        assert (where, record.text, record.speaker) == (split, text, talk)
        assert (record.language, record.phonemes, record.alignment) == ("en", "", ())
        assert (record.encoding, record.samples) == ("pcm16", last - first)
        assert record.audio == pcm(talk)[first:last].astype("<i2").tobytes()


@pytest.mark.parametrize("kind", ["folder", "archive"])
def test_release_3_in_its_legacy_partition(kind, release3, tmp_path):
    source = release3 if kind == "folder" else pack(release3, tmp_path / "TEDLIUM_release-3.tgz")
    corpus = Tedlium(str(source))
    assert list(corpus.splits()) == ["train", "valid", "test"]
    manifest = make(corpus, tmp_path / "out")
    agrees(found(tmp_path / "out"), LEGACY)
    assert aside(tmp_path / "out") == {key: ("train", reason) for key, reason in ASIDE.items()}
    assert manifest.rejected["train"]["en"] == {
        "excluded by the transcript": 1, "no words": 1, "segment beyond the end": 1,
        "empty segment": 1, "line of another recording": 1, "malformed line": 2,
        "file is missing": 2, "unreadable transcript": 1,
    }  # fmt: skip


def test_release_3_for_speaker_adaptation(release3, tmp_path):
    archive = pack(release3, tmp_path / "TEDLIUM_release-3.tgz")
    corpus = Tedlium(str(archive), layout="speaker-adaptation")
    listed = {u.id: u.text for split in corpus.splits() for u in corpus.utterances(split)}
    folder = dataclasses.replace(corpus, source=str(release3))
    assert listed == {u.id: u.text for split in folder.splits() for u in folder.utterances(split)}
    make(corpus, tmp_path / "out")
    held = "Held_2011-0000000-0000100"
    expected = {key: row for key, row in LEGACY.items() if row[0] == "train"}
    agrees(found(tmp_path / "out"), expected | {held: ("valid", *LEGACY[held][1:])})
    assert aside(tmp_path / "out") == {key: ("train", reason) for key, reason in ASIDE.items()}


@pytest.fixture
def release2(tmp_path):
    root = tmp_path / "TEDLIUM_release2"
    put(root, "train", "AlGore_2009", ALGORE.replace("\r\n", "\n"))
    put(root, "train", "Zoë_2010", (
        "Zoë_2010 1 Zoë 0.00 1.00 <o,f0,female> <sil> the <unk> 's end (Zoë_2010-0.00-1.00-<F0_F>)"
    ))  # fmt: skip
    put(root, "dev", "Dev_2010", plain("Dev_2010", "valid"))
    put(root, "test", "Test_2010", plain("Test_2010", "i 'll test"))
    return root


@pytest.mark.parametrize("kind", ["folder", pytest.param("archive", id="archive-processes")])
def test_release_2(kind, release2, tmp_path):
    source = release2 if kind == "folder" else pack(release2, tmp_path / "TEDLIUM_release2.tar.gz")
    out = tmp_path / "out"
    assert entry.main(
        ["tedlium3", "--source", str(source), "--output", str(out), "--workers", "1",
         "--unknown", "keep", "--apostrophes", "released"]
    ) == 0  # fmt: skip
    everything = found(out)
    assert {key: record.text for key, (_, record) in everything.items()} == {
        "AlGore_2009-0000050-0000125": "it 's what they 've read <unk> cafés",
        "AlGore_2009-0000250-0000405": "rock 'n roll",
        "AlGore_2009-0000250-0000405-2": "said twice",
        "Zoë_2010-0000000-0000100": "the <unk> 's end",
        "Dev_2010-0000000-0000100": "valid",
        "Test_2010-0000000-0000100": "i 'll test",
    }
    split, record = everything["Test_2010-0000000-0000100"]
    assert (split, record.speaker, record.samples) == ("test", "Test_2010", 16_000)
    assert record.audio == pcm("Test_2010")[:16_000].astype("<i2").tobytes()
    assert everything["Zoë_2010-0000000-0000100"][1].speaker == "Zoë"
    assert len(aside(out)) == 7


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ("that 's it 'S", "that's it'S"),
        ("the <unk> 's idea", "the idea"),
        ("'til i 'd 'em the boys ' toys", "'til i'd 'em the boys ' toys"),
        ("read(2) {BREATH} a(3)", "read a"),
        ("(a-1-2-<NA_NA>)", ""),
        ("so <sil> (AB_2010-1.0-2.0-<F0_M>)", "so"),
    ],
)
def test_text_rules(words, text):
    assert clean(words) == text


def test_members_that_reading_refuses_are_set_aside(release2, tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.add(release2, release2.name)
        for name in ("../train/sph/Out_2001.sph", "TEDLIUM_release2/train/sph/Link_2002.sph"):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
            if name.startswith(".."):
                info.type = tarfile.REGTYPE
            tar.addfile(info)
    make(Tedlium(str(tmp_path / "a.tar")), tmp_path / "out")
    reasons = aside(tmp_path / "out")
    assert reasons["Out_2001"] == ("train", "name that leads out of its archive")
    assert reasons["Link_2002"] == ("train", "file is missing: Link_2002.sph")


def test_the_fingerprint_knows_the_files_and_not_the_place(release3, tmp_path):
    before = Tedlium(str(release3)).fingerprint()
    moved = release3.rename(tmp_path / "elsewhere")
    assert Tedlium(str(moved)).fingerprint() == before
    put(moved, "data", "New_2020", plain("New_2020", "new"))
    after = Tedlium(str(moved)).fingerprint()
    assert [key for key in before if before[key] != after[key]] == ["source"]
    archive = pack(moved, tmp_path / "a.tgz")
    assert str(tmp_path) not in json.dumps(Tedlium(str(archive)).fingerprint())


def test_what_is_no_tedlium_is_named(tmp_path):
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(CorpusError, match="no talks in .*; give TEDLIUM_release-3"):
        Tedlium(str(tmp_path)).splits()
    with pytest.raises(CorpusError, match="unknown layout 'old'; use legacy or speaker-adaptation"):
        Tedlium(str(tmp_path), layout="old").splits()
