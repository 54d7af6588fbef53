"""Multilingual LibriSpeech in miniature, FLAC and Opus: every clip a record or set aside."""

import os
import pickle
import shutil

import numpy as np
import pytest
import soundfile
import soxr

from tests.preparation.read_back import noise, packed, prepared
from xlsr_jax import prepare as entry
from xlsr_jax.data.records import CorpusError
from xlsr_jax.preparation.corpora import lookup
from xlsr_jax.preparation.corpora.mls import LANGUAGES, MLS

URL = "http://www.archive.org/download/x_librivox/x_01_64kb.mp3"
POLISH = {
    "train": {f"1_{book}_{n:06d}": f"w końcu {book} {n}" for book in (10, 11) for n in range(5)},
    "dev": {"2_20_000000": "cóż to było", "2_20_000001": 'rzekł "tak" i poszedł'},
    "test": {"3_30_000000": "żółte liście-na wietrze"},
}
DUTCH = {
    "dev": {"4_40_000000": "het was één uur", "5_50_000003": "zo'n dag"},
    "test": {"6_60_000000": "ja"},
}
SPLITS = {"train": "train", "dev": "valid", "test": "test"}


def release(folder, splits, suffix=".flac", end="\n", bom=b""):
    """Writes a language; returns {id: (split, text, speaker, path)}."""
    made = {}
    for split, texts in splits.items():
        for n, (identity, text) in enumerate(texts.items()):
            speaker, book, _ = identity.split("_")
            path = folder / split / "audio" / speaker / book / (identity + suffix)
            if suffix == ".opus":
                noise(path, 9_600, 48_000, format="OGG", subtype="OPUS")
            else:
                noise(path, 700 + 50 * n)
            made[identity] = (SPLITS[split], text, speaker, path)
        rows = [f"{identity}\t{text}{end}" for identity, text in texts.items()]
        (folder / split / "transcripts.txt").write_bytes(bom + "".join(rows).encode())
        times = [f"{each}\t{URL}\t401.76\t{417.57 + n}{end}" for n, each in enumerate(texts)]
        (folder / split / "segments.txt").write_bytes("".join(times[::-1]).encode())
    (folder / "metainfo.txt").write_text(" SPEAKER   |   GENDER   | PARTITION\n 1 | M | train\n")
    (folder / "README").write_text("INTRODUCTION\n============\n")
    return made


def handles(folder, **lists):
    """Writes the lists of limited supervision, those not given empty."""
    for place in [*(f"1hr/{n}" for n in range(6)), "9hr"]:
        path = folder / "train/limited_supervision" / place / "handles.txt"
        path.parent.mkdir(parents=True)
        path.write_text("".join(f"{each}\n" for each in lists.get(place[0] + place[-1], ())))


def check(found, language, expected):
    for identity, (split, text, speaker, path) in expected.items():
        where, record = found[identity]
        assert (where, record.id, record.language) == (split, identity, language)
        assert (record.text, record.speaker) == (text, speaker)
        assert (record.phonemes, record.alignment) == ("", ())
        wave, rate = soundfile.read(path, dtype="float32")
        wave = wave if rate == 16_000 else soxr.resample(wave, rate, 16_000, quality="HQ")
        assert record.samples == len(wave)
        np.testing.assert_allclose(record.waveform(), wave, rtol=0, atol=0.51 / 32768)


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """(folder with mls_polish and mls_dutch_opus, their expected records)."""
    folder = tmp_path_factory.mktemp("mls")
    polish = release(folder / "mls_polish", POLISH)
    dutch = release(folder / "mls_dutch_opus", DUTCH, ".opus", end="\r\n", bom=b"\xef\xbb\xbf")
    handles(folder / "mls_polish", **{
        "10": ["1_10_000003"], "11": ["1_10_000000", "", "1_10_000003"], "15": ["1_11_000001"],
        "9r": ["1_11_000004", "1_10_000000"],
    })  # fmt: skip
    return folder, polish, dutch


def test_folders_and_archives_of_both_encodings_give_the_same_records(both, tmp_path):
    folder, polish, dutch = both
    downloads = tmp_path / "downloads"
    downloads.mkdir()
    packed(folder, downloads / "mls_polish.tar.gz", "mls_polish")
    packed(folder, downloads / "mls_dutch_opus.tar.gz", "mls_dutch_opus")
    (downloads / "mls_lm_polish.tar.gz").write_bytes(b"a language model, never opened")
    for source in (folder, downloads):
        found, aside = prepared(MLS(str(source)), tmp_path / f"out-{source.name}")
        assert sorted(found) == sorted({**polish, **dutch})
        assert not aside
        check(found, "pl", polish)
        check(found, "nl", dutch)
    shutil.copytree(folder / "mls_dutch_opus", downloads / "mls_dutch_opus")
    (downloads / "mls_dutch_opus.tar.gz").write_bytes(b"there unpacked, so never opened")
    assert list(MLS(str(downloads)).splits()) == ["train", "valid", "test"]
    shutil.copytree(folder / "mls_dutch_opus", downloads / "mls_dutch")
    with pytest.raises(CorpusError, match="nl valid is there twice: .*mls_dutch/dev/ of .*_opus/d"):
        MLS(str(downloads)).splits()


def test_an_archive_is_listed_in_its_own_order_and_again(both, tmp_path):
    folder, polish, _ = both
    source = packed(folder, tmp_path / "mls_polish.tar.gz", "mls_polish")
    corpus = MLS(str(source))
    listed = list(corpus.utterances("train"))
    assert [u.member.number for u in listed] == sorted(u.member.number for u in listed)
    assert {u.id: u.text for u in listed} == POLISH["train"]
    assert {u.id: u.seconds for u in listed} == {
        identity: round(15.81 + n, 3) for n, identity in enumerate(POLISH["train"])
    }
    assert list(corpus.utterances("train")) == listed
    again = pickle.loads(pickle.dumps(corpus))
    assert again == corpus and list(again.utterances("train")) == listed


@pytest.mark.parametrize(("limited", "chosen"), [
    ("10m", ["1_10_000003"]),
    ("1h", ["1_10_000000", "1_10_000003", "1_11_000001"]),
    ("10h", ["1_10_000000", "1_10_000003", "1_11_000001", "1_11_000004"]),
])  # fmt: skip
def test_limited_train_is_the_union_of_the_lists(limited, chosen, both):
    corpus = MLS(str(both[0] / "mls_polish"), limited=limited)
    assert sorted(u.id for u in corpus.utterances("train")) == chosen
    assert {u.id: u.text for u in corpus.utterances("valid")} == POLISH["dev"]
    assert {u.id: u.text for u in corpus.utterances("test")} == POLISH["test"]


def damaged(folder):
    """A language with one fault of each kind, and why each is set aside."""
    release(folder, {"train": POLISH["train"]})
    place = folder / "train"
    (place / "audio/1/10/1_10_000001.flac").unlink()
    os.truncate(place / "audio/1/10/1_10_000002.flac", 900)
    noise(place / "audio/1/11/1_11_000009.flac", 700)
    noise(place / "audio/1/11/2_11_000009.flac", 700)
    noise(place / "audio/ś.flac", 700)
    table = place / "transcripts.txt"
    text = table.read_text().replace("1_11_000000\tw końcu 11 0", "1_11_000000")
    table.write_text(text + "\n1_11_000001\tinaczej\nbez numeru\n")
    with open(place / "segments.txt", "a") as file:
        file.write("1_11_000001\t\n1_11_000002\tu\tx\ty\n")
    return {
        "1_10_000001": "file is missing",
        "1_10_000002": "damaged audio",
        "1_11_000000": "no transcript",
        "1_11_000009": "no transcript",
        "pl/train/audio/1/11/2_11_000009.flac": "not named as in MLS",
        "pl/train/audio/ś.flac": "not named as in MLS",
        "pl/train/transcripts.txt:12": "second line of one id: 1_11_000001",
        "pl/train/transcripts.txt:13": "line without id: bez numeru",
    }


def test_what_is_wrong_is_set_aside_with_its_reason(tmp_path):
    expected = damaged(tmp_path / "mls_polish")
    links = [("mls_polish/train/audio/1/10/1_10_000001.flac", "a"), ("../out.opus", "a"),
             ("mls_polish/train/audio/1/10/1_10_000008.flac", "a"), ("../transcripts.txt", "a"),
             ("../mls_polish/train/audio/x.flac", "a")]  # fmt: skip
    source = packed(tmp_path, tmp_path / "mls_polish.tar.gz", "mls_polish", links=links)
    barred = {links[n][0]: "link in an archive" for n in (1, 2, 4)}
    barred["1_10_000001"] = "link in an archive"
    for place, reasons in ((tmp_path / "mls_polish", expected), (source, expected | barred)):
        found, aside = prepared(MLS(str(place)), tmp_path / f"out-{place.name}")
        good = POLISH["train"].keys() - expected.keys()
        assert {i: record.text for i, (_, record) in found.items()} == {
            identity: POLISH["train"][identity] for identity in good
        }
        assert aside.keys() == reasons.keys()
        for identity, reason in reasons.items():
            assert aside[identity][:2] == ("train", "pl")
            assert aside[identity][2].startswith(reason)


def test_what_a_list_names_and_is_not_there_is_set_aside(tmp_path):
    damaged(tmp_path / "mls_polish")
    (tmp_path / "mls_polish/train/audio/1/10/1_10_000004.flac").unlink()  # no list names it
    lists = {"10": ["1_10_000000", "1_10_000001", "1_77_000000"], "12": ["1_11_000009", "?"]}
    handles(tmp_path / "mls_polish", **lists)
    found, aside = prepared(MLS(str(tmp_path / "mls_polish"), limited="1h"), tmp_path / "out")
    assert list(found) == ["1_10_000000"]
    assert {identity: reason for identity, (_, _, reason) in aside.items()} == {
        "1_10_000001": "file is missing",
        "1_77_000000": "file is missing",
        "1_11_000009": "no transcript",
        "pl/train/audio/1/11/2_11_000009.flac": "not named as in MLS",
        "pl/train/audio/ś.flac": "not named as in MLS",
        "pl/train/transcripts.txt:13": "line without id: bez numeru",
        "pl/train/limited_supervision/1hr/2/handles.txt:2": "line without id: ?",
    }


def test_languages_are_the_releases_and_a_flag_names_others(both, tmp_path):
    names = ["english", "german", "dutch", "french", "spanish", "italian", "portuguese", "polish"]
    assert list(LANGUAGES) == names
    assert list(LANGUAGES.values()) == ["en", "de", "nl", "fr", "es", "it", "pt", "pl"]
    shutil.copytree(both[0] / "mls_polish", tmp_path / "polski")
    with pytest.raises(CorpusError, match="language of polski/.* not in its name, .* --language"):
        MLS(str(tmp_path / "polski")).splits()
    corpus = MLS(str(tmp_path / "polski"), language="pl-PL")
    assert {u.language for u in corpus.utterances("test")} == {"pl-PL"}


def test_errors_say_the_mend(both, tmp_path):
    shutil.copytree(both[0] / "mls_dutch_opus", tmp_path / "mls_dutch_opus")
    noise(tmp_path / "mls_dutch_opus/train/audio/1/10/1_10_000001.flac", 700)
    corpus = MLS(str(tmp_path), limited="10h")
    with pytest.raises(CorpusError, match="lacks .*1hr/0/handles.txt, which --limited 10h needs"):
        list(corpus.utterances("train"))
    with pytest.raises(CorpusError, match="audio but no mls_dutch_opus/train/transcripts.txt; "):
        list(MLS(str(tmp_path)).utterances("train"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(CorpusError, match="nor archives named as mls_polish.tar.gz"):
        MLS(str(tmp_path / "empty")).splits()


def test_the_fingerprint_follows_the_data_and_not_its_place(both, tmp_path):
    here = MLS(str(both[0] / "mls_polish"))
    shutil.copytree(both[0] / "mls_polish", tmp_path / "b/mls_polish")
    there = MLS(str(tmp_path / "b"))
    assert here.fingerprint() == there.fingerprint()
    assert here.fingerprint() != MLS(here.source, limited="1h").fingerprint()
    (tmp_path / "b/mls_polish/dev/segments.txt").unlink()
    assert here.fingerprint() != MLS(there.source).fingerprint()
    one = packed(both[0], tmp_path / "mls_polish.tar.gz", "mls_polish")
    prints = MLS(str(one)).fingerprint()
    assert prints["source of pl train"] == f"archive mls_polish.tar.gz, {one.stat().st_size} bytes"


def test_ids_of_one_hash_find_their_own_texts(monkeypatch):
    monkeypatch.setattr(lookup, "hash", len, raising=False)
    texts = lookup.Texts([("aa", "ą\tb"), ("b", "2"), ("cc", ""), ("aa", "late")])
    assert [texts.get(each) for each in ("aa", "b", "cc", "dd")] == ["ą\tb", "2", "", ""]
    assert texts.repeated == {2}
    assert lookup.Texts([]).get("a") == ""


def test_the_command_prepares_it(both, tmp_path, capsys):
    command = ["mls", "--source", str(both[0] / "mls_polish"), "--output", str(tmp_path / "out")]
    assert entry.main([*command, "--limited", "1h", "--workers", "1"]) == 0
    shown = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["train", "pl", "3", "0.000", "0"] in shown
    assert ["valid", "pl", "2", "0.000", "0"] in shown
