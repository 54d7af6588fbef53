"""The TIMIT reader, on miniatures of the releases that laboratories have."""

import io
import json
import pickle

import numpy as np
import pytest
import soundfile

from tests.preparation.read_back import packed_bytes
from xlsr_jax import prepare as entry
from xlsr_jax.data import records
from xlsr_jax.data.records import CorpusError, Manifest, Record
from xlsr_jax.preparation import prepare
from xlsr_jax.preparation.corpora import timit
from xlsr_jax.preparation.corpora.timit import Timit

SAMPLES = 8_000
SENTENCES = {  # (part, dialect, speaker, sentence): text
    ("TRAIN", "DR1", "FCJF0", "SA1"): "She had your dark suit in greasy wash water all year.",
    ("TRAIN", "DR1", "FCJF0", "SI1027"): "Even then, if she took one step forward, it'd bend.",
    ("TRAIN", "DR8", "MBCG0", "SX57"): "He asked: twice?",
    ("TEST", "DR1", "FAKS0", "SI943"): "A development speaker.",
    ("TEST", "DR1", "FELC0", "SX126"): "A core speaker.",
    ("TEST", "DR1", "MSJS1", "SX279"): "A speaker of neither set.",
    ("TEST", "DR1", "FELC0", "SA2"): "Don't ask me to carry an oily rag like that.",
}
PHN = (
    "0 1500 h#\n1500 1600 q\n1600 2400 ix\n2400 2900 gcl\n2900 3000 g\n3000 3900 axr\n"
    "3900 4700 ao\n4700 5300 tcl\n5300 5800 pau\n5800 6400 zh\n6400 7000 en\n7000 8002 h#\n"
)  # the last beyond the audio by two samples
SYMBOLS = {
    61: "h# q ix gcl g axr ao tcl pau zh en h#",
    48: "sil ix vcl g er ao cl sil zh en sil",
    39: "sil ih sil g er aa sil sil sh n sil",
}
PLACES = [0, 1500, 2400, 2900, 3000, 3900, 4700, 5300, 5800, 6400, 7000, 8000]  # without q


def pcm(key):
    return np.random.default_rng(sorted(SENTENCES).index(key)).integers(
        -9_000, 9_000, SAMPLES, "<i2"
    )


def sphere(samples):
    """The bytes of a file as on the disc of 1990."""
    head = (
        "NIST_1A\n   1024\ndatabase_id -s5 TIMIT\ndatabase_version -s3 1.0\n"
        "utterance_id -s8 cjf0_sa1\nchannel_count -i 1\n"
        f"sample_count -i {len(samples)}\nsample_rate -i 16000\n"
        "sample_min -i -9000\nsample_max -i 9000\nsample_n_bytes -i 2\n"
        "sample_byte_format -s2 01\nsample_sig_bits -i 16\nend_head\n"
    )
    return head.encode().ljust(1024) + samples.astype("<i2").tobytes()


def riff(samples):
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, 16_000, format="WAV", subtype="PCM_16")
    return buffer.getvalue()


def files(release):
    """{name: bytes} of a release."""
    made = {}
    for key, text in SENTENCES.items():
        part, dialect, speaker, sentence = key
        end = "\r\n" if release == "newer" else "\n"
        labels = {
            ".WAV": sphere(pcm(key)),
            ".PHN": PHN.replace("\n", end).encode(),
            ".WRD": f"1500 7000 {text}{end}".encode(),
            ".TXT": f"0 {SAMPLES} {text} {end}".encode(),
        }
        stem = f"{part}/{dialect}/{speaker}/{sentence}"
        for suffix, data in labels.items():
            if release == "disc":
                made[f"TIMIT/{stem}{suffix}"] = data
            elif release == "lower":
                made[f"timit/timit/{stem}{suffix}".lower()] = data
            else:
                made[f"data/{stem}{suffix}"] = b"no sound" if suffix == ".WAV" else data
        if release == "newer":  # beside a SPHERE file, which is not to be read
            made[f"data/{stem}.WAV.wav"] = riff(pcm(key))
    made["TIMIT/DOC/README.DOC"] = b"\xff\xfe no UTF-8"
    return made


def lay(made, root, packed=False, links=()):
    if not packed:
        for name, data in made.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(data)
        return str(root)
    root.mkdir(parents=True, exist_ok=True)
    return packed_bytes(made, root / "timit_LDC93S1.tgz", links)


def prepared(corpus, output):
    """({split: {id: Record}}, {id: (split, reason)})."""
    manifest = prepare.prepare(corpus, output, workers=1, progress_bar=False)
    found = {}
    for split in {shard.split for shard in manifest.shards}:
        data = records.open_shards(output, manifest.split(split))
        each = [Record.from_bytes(data[number]) for number in range(len(data))]
        found[split] = {record.id: record for record in each}
    lines = [json.loads(line) for line in (output / "rejected.jsonl").read_text().splitlines()]
    return found, {line["id"]: (line["split"], line["reason"]) for line in lines}


@pytest.mark.parametrize(
    ("release", "phones", "packed"),
    [("disc", 61, False), ("disc", 39, True), ("newer", 39, False), ("lower", 48, True)],
)
def test_every_release_gives_the_same_records(release, phones, packed, tmp_path):
    corpus = Timit(lay(files(release), tmp_path / "in", packed), phones)
    found, aside = prepared(corpus, tmp_path / "out")
    assert not aside
    wanted = {
        "train": {"FCJF0_SI1027", "MBCG0_SX57"}, "valid": {"FAKS0_SI943"}, "test": {"FELC0_SX126"}
    }  # fmt: skip
    assert {split: set(by_id) for split, by_id in found.items()} == wanted
    symbols = SYMBOLS[phones].split()
    places = sorted([*PLACES, 1600]) if phones == 61 else PLACES
    for (_, _, speaker, sentence), text in SENTENCES.items():
        for by_id in found.values():
            record = by_id.get(f"{speaker}_{sentence}")
            if record is None:
                continue
            key = next(key for key in SENTENCES if key[2:] == (speaker, sentence))
            assert record == Record(
                id=f"{speaker}_{sentence}",
                language="en",
                audio=pcm(key).tobytes(),
                encoding="pcm16",
                samples=SAMPLES,
                speaker=speaker,
                text=text,
                phonemes=SYMBOLS[phones],
                alignment=tuple(zip(symbols, places[:-1], places[1:], strict=True)),
            )
    for split in corpus.splits():
        for _ in range(2):  # it may be asked again
            listed = {u.id: u.seconds for u in corpus.utterances(split)}
            assert listed == dict.fromkeys(wanted[split], SAMPLES / 16_000)
    made_with = Manifest.load(tmp_path / "out").made_with
    assert made_with["left out"] == "2 of SA1 and SA2, 1 of speakers in neither valid nor test"
    assert pickle.loads(pickle.dumps(corpus)) == corpus


def test_the_full_test_set_takes_the_development_speakers_along(tmp_path):
    corpus = Timit(lay(files("disc"), tmp_path / "in"), full_test=True)
    assert corpus.splits() == ("train", "test")
    found = [utterance.id for utterance in corpus.utterances("test")]
    assert found == ["FAKS0_SI943", "FELC0_SX126", "MSJS1_SX279"]
    assert corpus.fingerprint()["left out"].endswith(" 0 of speakers in neither valid nor test")


# Lee & Hon (1989), written by class: what is scored as one, and what is trained as one.
CLASSES_39 = """
iy|ih ix|eh|ae|ah ax ax-h|uw ux|uh|aa ao|ey|ay|oy|aw|ow|l el|r|y|w|er axr|m em|n en nx|ng eng|ch|jh
dh|b|d|dx|g|p|t|k|z|sh zh|v|f|th|s|hh hv|sil pcl tcl kcl bcl dcl gcl h# pau epi
"""
CLASSES_48 = """
iy|ih|ix|eh|ae|ah|ax ax-h|uw ux|uh|aa|ao|ey|ay|oy|aw|ow|l|el|r|y|w|er axr|m em|n nx|en|ng eng|ch|jh
dh|b|d|dx|g|p|t|k|z|zh|sh|v|f|th|s|hh hv|cl pcl tcl kcl|vcl bcl dcl gcl|epi|sil h# pau
"""


@pytest.mark.parametrize(("phones", "classes"), [(48, CLASSES_48), (39, CLASSES_39)])
def test_folding_is_the_published_one(phones, classes):
    classes = [line.split() for line in classes.strip().replace("\n", "|").split("|")]
    assert len(classes) == phones and len(set(timit.PHONES)) == 61
    wanted = {symbol: each[0] for each in classes for symbol in each} | {"q": ""}
    assert {symbol: timit.fold(symbol, phones) for symbol in timit.PHONES} == {
        symbol: wanted[symbol] for symbol in timit.PHONES
    }
    assert all(timit.fold(symbol, 61) == symbol for symbol in timit.PHONES)


def test_the_sets_of_speakers_have_their_published_sizes():
    core, valid = timit.CORE_SPEAKERS, timit.VALID_SPEAKERS
    assert not core & valid
    men = [sum(speaker[0] == "M" for speaker in each) for each in (core, valid)]
    assert (len(core), len(valid), men) == (24, 50, [16, 32])


@pytest.mark.parametrize("packed", [False, True], ids=["folder", "archive"])
def test_what_cannot_be_used_is_set_aside_by_reason(packed, tmp_path):
    made, folder = files("disc"), "TIMIT/TRAIN/DR2/FAEM0/"
    good = {
        ".WAV": sphere(pcm(("TRAIN", "DR1", "FCJF0", "SA1"))),
        ".PHN": PHN.encode(),
        ".TXT": b"0 8000 Fine.\n",
    }
    changes = {
        "SI1": {".WAV": None},
        "SI2": {".PHN": None},
        "SI3": {".TXT": None},
        "SI4": {".PHN": b"0 1500 h#\n\n1500 aa\n"},
        "SI5": {".PHN": PHN.replace("zh", "zz").encode()},
        "SI6": {".WAV": good[".WAV"][:9_000]},
        "SI7": {".PHN": b"0 8000 aa\n8000 9000 h#\n"},
        "SI8": {".TXT": b"0 8000 caf\xe9\n"},
        "SI9": {".PHN": b"0 1500 h#\n1500 1400 aa\n"},
        "SX1": {".PHN": b"0 1500 q\n"},
        "SX2": {".WAV": b""},
        "SX3": {".PHN": b"\n"},
    }
    for sentence, change in changes.items():
        for suffix, data in (good | change).items():
            if data is not None:
                made[f"{folder}{sentence}{suffix}"] = data
    links = [f"{folder}SX4.WAV", f"../{folder}SX5.WAV", f"{folder}SA1.WAV", f"{folder}SX2.WAV"]
    source = lay(made, tmp_path / "in", packed, links[:3])
    found, aside = prepared(Timit(source), tmp_path / "out")
    assert {identity.removeprefix("FAEM0_"): reason for identity, (_, reason) in aside.items()} == {
        "SI1": "file is missing: SI1.WAV",
        "SI2": "label file is missing: SI2.PHN",
        "SI3": "label file is missing: SI3.TXT",
        "SI4": "malformed label file: SI4.PHN has a line that is not START END LABEL",
        "SI5": "unknown phone: 'zz'",
        "SI6": "truncated: 3988 of 8000 samples",
        "SI7": "phones beyond the audio: the last begins at 8000, of 8000 samples at 16000 Hz",
        "SI8": "label file cannot be read as UTF-8: SI8.TXT",
        "SI9": "phone ends before it starts: 1500 1400 aa",
        "SX1": "no phones: nothing but q",
        "SX2": "zero-length file",
        "SX3": "malformed label file: SX3.PHN has a line that is not START END LABEL",
    } | (
        {
            "SX4": f"link in an archive: {links[0]}",
            "SX5": f"link in an archive: {links[1]}",
        }
        if packed
        else {}
    )
    assert {split for split, _ in aside.values()} == {"train"}
    assert set(found["train"]) == {"FCJF0_SI1027", "MBCG0_SX57"}


def test_the_fingerprint_knows_the_data_and_not_the_place(tmp_path):
    one, other = (lay(files("disc"), tmp_path / place) for place in ("a", "b"))
    before = Timit(one).fingerprint()
    assert Timit(other).fingerprint() == before
    assert str(tmp_path) not in str(before)
    (tmp_path / "b/TIMIT/TEST/DR1/FELC0/SX126.PHN").write_text("0 8000 h#\n")
    after = Timit(other).fingerprint()
    assert [key for key in before if after[key] != before[key]] == ["source"]
    assert Timit(one, 48).fingerprint()["phones"] == "48"
    one, other = (lay(files("disc"), tmp_path / place, packed=True) for place in ("c", "d"))
    assert Timit(one).fingerprint() == Timit(other).fingerprint()
    size = (tmp_path / "c/timit_LDC93S1.tgz").stat().st_size
    assert Timit(one).fingerprint()["source"] == f"archive timit_LDC93S1.tgz, {size} bytes"


def test_a_source_that_is_no_timit_or_two_is_named(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(CorpusError, match="no utterances of TIMIT in .*holds TRAIN and TEST"):
        Timit(str(tmp_path / "empty")).splits()
    twice = lay(files("disc") | files("lower"), tmp_path / "in")
    with pytest.raises(CorpusError, match="twice: TIMIT/T.* and timit/.*; give one copy of TIMIT"):
        Timit(twice).splits()
    with pytest.raises(CorpusError, match="are 61, 48 or 39; got 40"):
        Timit(twice, 40)


def test_the_command_prepares_it(tmp_path, capsys):
    source = lay(files("newer"), tmp_path / "in", packed=True)
    command = ["timit", f"--source={source}", f"--output={tmp_path / 'out'}", "--workers=1"]
    assert entry.main([*command, "--phones=61", "--full-test"]) == 0
    table = [line.split()[:3] for line in capsys.readouterr().out.splitlines()]
    assert ["train", "en", "2"] in table and ["test", "en", "3"] in table
    assert Manifest.load(tmp_path / "out").made_with["phones"] == "61"
