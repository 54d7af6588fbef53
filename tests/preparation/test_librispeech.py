"""LibriSpeech in miniature, as it is laid out and packed: every clip a record or set aside."""

import os
import pickle
import shutil

import numpy as np
import pytest

from tests.preparation.read_back import noise, packed, prepared
from xlsr_jax import prepare as entry
from xlsr_jax.data.records import CorpusError, Manifest
from xlsr_jax.preparation.corpora.librispeech import LibriSpeech

# subset: split, and (speaker, chapter, texts) of it, written down from the release's rules.
SUBSETS = {
    "train-clean-100": ("train", [("103", "1240", ["CHAPTER ONE", "MISSUS RACHEL'S"]),
                                  ("103", "1241", ["MATTHEW CUTHBERT"])]),
    "train-other-500": ("train", [("20", "205", ["A B"])]),
    "dev-clean": ("valid", [("84", "121123", ["GO DO YOU HEAR", "BUT IN LESS THAN FIVE"])]),
    "dev-other": ("valid_other", [("116", "288045", ["AS I APPROACHED THE CITY"])]),
    "test-clean": ("test", [("61", "70968", ["HE BEGAN A CONFUSED COMPLAINT"])]),
    "test-other": ("test_other", [("367", "130732", ["LOBSTERS AND LOBSTERS"])]),
}  # fmt: skip


def chapter(folder, speaker, number, texts, end="\n"):
    """Writes a chapter; returns {id: (text, speaker, pcm)}."""
    made, place = {}, folder / speaker / number
    for n, text in enumerate(texts):
        identity = f"{speaker}-{number}-{n:04d}"
        made[identity] = (text, speaker, noise(place / f"{identity}.flac", 700 + 50 * n))
    lines = [f"{identity} {text}{end}" for identity, (text, *_) in made.items()]
    (place / f"{speaker}-{number}.trans.txt").write_bytes("".join(lines).encode())
    return made


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    """(folder that holds LibriSpeech/ unpacked, {id: (split, text, speaker, pcm)})."""
    folder = tmp_path_factory.mktemp("librispeech")
    expected = {}
    for subset, (split, chapters) in SUBSETS.items():
        for each in chapters:
            made = chapter(folder / "LibriSpeech" / subset, *each)
            expected |= {identity: (split, *fields) for identity, fields in made.items()}
    for name in ("README", "SPEAKERS", "CHAPTERS", "BOOKS", "LICENSE"):
        (folder / f"LibriSpeech/{name}.TXT").write_text(";ID |SEX| SUBSET\n14 | F | x\n")
    return folder, expected


def check(found, expected):
    assert sorted(found) == sorted(expected)
    for identity, (split, text, speaker, pcm) in expected.items():
        where, record = found[identity]
        assert where == split
        assert (record.id, record.language, record.text) == (identity, "en", text)
        assert (record.speaker, record.phonemes, record.alignment) == (speaker, "", ())
        assert record.samples == len(pcm)
        np.testing.assert_array_equal(record.waveform() * 32768, pcm)


def of(expected, *subsets):
    splits = {SUBSETS[subset][0] for subset in subsets}
    speakers = {each[0] for subset in subsets for each in SUBSETS[subset][1]}
    return {i: fields for i, fields in expected.items()
            if fields[0] in splits and fields[2] in speakers}  # fmt: skip


def labels(utterances):
    return {u.id: (u.text, u.speaker) for u in utterances}


def labels_of(expected, *subsets):
    return {i: (text, who) for i, (_, text, who, _) in of(expected, *subsets).items()}


def test_a_folder_its_archives_and_one_of_them_give_the_same_records(release, tmp_path):
    folder, expected = release
    found, aside = prepared(LibriSpeech(str(folder / "LibriSpeech")), tmp_path / "a")
    check(found, expected)
    assert not aside
    splits = ("train", "valid", "valid_other", "test", "test_other")
    assert {shard.split for shard in Manifest.load(tmp_path / "a").shards} == set(splits)
    downloads = tmp_path / "downloads"
    downloads.mkdir()
    for subset in SUBSETS:
        packed(folder, downloads / f"{subset}.tar.gz", f"LibriSpeech/{subset}")
    (downloads / "original-mp3.tar.gz").write_bytes(b"not asked for, so never opened")
    found, aside = prepared(LibriSpeech(str(downloads)), tmp_path / "b")
    check(found, expected)
    assert not aside
    one = LibriSpeech(str(downloads / "train-clean-100.tar.gz"))
    assert labels(one.utterances("train")) == labels_of(expected, "train-clean-100")
    subset = LibriSpeech(str(folder / "LibriSpeech/dev-other"))
    assert labels(subset.utterances("valid_other")) == labels_of(expected, "dev-other")


def test_subsets_are_chosen_and_other_archives_are_not_opened(release, tmp_path):
    folder, expected = release
    downloads = tmp_path / "downloads"
    shutil.copytree(folder / "LibriSpeech/train-clean-100", downloads / "train-clean-100")
    packed(folder, downloads / "dev-other.tar.gz", "LibriSpeech/dev-other")
    for name in ("dev-clean", "train-clean-100"):  # not chosen, and there unpacked
        (downloads / f"{name}.tar.gz").write_bytes(b"no archive")
    corpus = LibriSpeech(str(downloads), ("train-100", "dev-other"))
    assert list(corpus.splits()) == ["train", "valid_other"]
    check(prepared(corpus, tmp_path / "a")[0], of(expected, "train-clean-100", "dev-other"))
    with pytest.raises(CorpusError, match="has no train-clean-360, train-other-500; it has train-"):
        LibriSpeech(str(downloads), ("train-960",)).splits()
    with pytest.raises(CorpusError, match="'train-clean' is no subset .* train-100, train-460"):
        LibriSpeech(str(downloads), ("train-clean",)).splits()
    shutil.copytree(folder / "LibriSpeech/dev-other", downloads / "copy/dev-other")
    shutil.copytree(folder / "LibriSpeech/dev-other", downloads / "dev-other")
    with pytest.raises(CorpusError, match="dev-other is there twice: .*copy/dev-other/ of"):
        LibriSpeech(str(downloads), ("train-100",)).splits()


def test_an_archive_is_listed_in_its_own_order_and_again(release, tmp_path):
    folder, _ = release
    source = packed(folder, tmp_path / "train-clean-100.tar.gz", "LibriSpeech/train-clean-100")
    corpus = LibriSpeech(str(source))
    listed = list(corpus.utterances("train"))
    assert [u.member.number for u in listed] == sorted(u.member.number for u in listed)
    assert list(corpus.utterances("train")) == listed
    assert {u.member.archive for u in listed} == {str(source)}
    again = pickle.loads(pickle.dumps(corpus))
    assert again == corpus and list(again.utterances("train")) == listed


def damaged(folder):
    """A subset with one fault of each kind, and why each is set aside."""
    place = folder / "LibriSpeech/dev-clean"
    chapter(place, "84", "121123", ["ONE", "TWO", "THREE", "FOUR", "FIVE"], end="\r\n")
    chapter(place, "84", "121550", ["SIX"])
    inside = place / "84/121123"
    (inside / "84-121123-0001.flac").unlink()
    os.truncate(inside / "84-121123-0002.flac", 900)
    trans = inside / "84-121123.trans.txt"
    text = trans.read_bytes().decode().replace("84-121123-0003 FOUR\r\n", "\r\n")
    text += "84-121123-0000 AGAIN\r\nLOST WORDS\r\n84-121123-0005\r\n"
    trans.write_bytes(b"\xef\xbb\xbf" + text.encode())
    noise(inside / "84-121123-0005.flac", 700)
    noise(place / "84/121550/86-1-0000.flac", 700)
    noise(place / "stray é.flac", 700)
    line = "dev-clean/84/121123/84-121123.trans.txt:"
    return {
        "84-121123-0001": "file is missing",
        "84-121123-0002": "damaged audio",
        "84-121123-0003": "no transcript",
        "84-121123-0005": "no transcript",
        f"{line}6": "second line of one id: 84-121123-0000",
        f"{line}7": "line without id: LOST WORDS",
        "dev-clean/84/121550/86-1-0000.flac": "not named as in LibriSpeech",
        "dev-clean/stray é.flac": "not named as in LibriSpeech",
    }


def test_what_is_wrong_is_set_aside_with_its_reason(tmp_path):
    expected = damaged(tmp_path)
    links = [("LibriSpeech/dev-clean/84/121123/84-121123-0001.flac", "84-121123-0000.flac"),
             ("LibriSpeech/dev-clean/84/121123/84-121123-0009.flac", "84-121123-0000.flac"),
             ("../LibriSpeech/dev-clean/84/1/84-1-0000.flac", "a"), ("../out.flac", "a"),
             ("LibriSpeech/dev-other/1/2/1-2-0000.flac", "a"), ("../out.txt", "a")]  # fmt: skip
    source = packed(tmp_path, tmp_path / "dev-clean.tar.gz", "LibriSpeech", links=links)
    barred = {link: "link in an archive" for link, _ in links[1:4]}
    barred["84-121123-0001"] = "link in an archive"
    for place, reasons in ((tmp_path / "LibriSpeech", expected), (source, expected | barred)):
        found, aside = prepared(LibriSpeech(str(place)), tmp_path / f"out-{place.name}")
        assert {i: record.text for i, (_, record) in found.items()} == {
            "84-121123-0000": "ONE", "84-121123-0004": "FIVE", "84-121550-0000": "SIX",
        }  # fmt: skip
        assert aside.keys() == reasons.keys()
        for identity, reason in reasons.items():
            assert aside[identity][:2] == ("valid", "en")
            assert aside[identity][2].startswith(reason)


FOLDS = [(f"1h/{n}/{kind}", n) for n in range(6) for kind in ("clean", "other")]


@pytest.fixture(scope="module")
def limited(tmp_path_factory):
    """(folder, {id: (number of the fold, 6 for 9h; text, speaker, pcm)})."""
    folder = tmp_path_factory.mktemp("limited")
    expected = {}
    for speaker, (fold, n) in enumerate([*FOLDS, ("9h/clean", 6), ("9h/other", 6)], start=3526):
        made = chapter(folder / "librispeech_finetuning" / fold, str(speaker), "175658", [fold])
        expected |= {identity: (n, *fields) for identity, fields in made.items()}
    phones = folder / "librispeech_finetuning/phones/10h_phones.txt"
    phones.parent.mkdir()
    phones.write_text("3526-175658-0000 37 37 12\n")
    return folder, expected


@pytest.mark.parametrize(("name", "last", "count"), [("10m", 0, 2), ("1h", 5, 12), ("10h", 6, 14)])
def test_limited_sets_are_unions_of_folds_and_replace_train(
    name, last, count, limited, release, tmp_path
):
    folder, expected = limited
    chosen = {i: ("train", *rest) for i, (n, *rest) in expected.items() if n <= last}
    assert len(chosen) == count
    unpacked = LibriSpeech(str(folder / "librispeech_finetuning"), limited=name)
    assert list(unpacked.splits()) == ["train"]
    assert sorted(u.id for u in unpacked.utterances("train")) == sorted(chosen)
    downloads = tmp_path / "downloads"
    downloads.mkdir()
    packed(folder, downloads / "librispeech_finetuning.tgz", "librispeech_finetuning")
    packed(release[0], downloads / "dev-other.tar.gz", "LibriSpeech/dev-other")
    (downloads / "train-clean-100.tar.gz").write_bytes(b"never opened")
    found, aside = prepared(LibriSpeech(str(downloads), limited=name), tmp_path / "b")
    check(found, chosen | of(release[1], "dev-other"))
    assert not aside


def test_limited_errors_say_the_mend(limited, release, tmp_path):
    source = str(limited[0] / "librispeech_finetuning")
    with pytest.raises(CorpusError, match="no such data; it has 1h/0/clean, .*; .* give --limited"):
        LibriSpeech(source).splits()
    with pytest.raises(CorpusError, match="--limited takes the place of train-clean-100"):
        LibriSpeech(source, ("train-100",), limited="1h").splits()
    with pytest.raises(CorpusError, match="has no 1h/0/clean, 1h/0/other; it has dev-clean"):
        LibriSpeech(str(release[0]), limited="10m").splits()
    (tmp_path / "empty").mkdir()
    with pytest.raises(CorpusError, match="it has neither subsets nor archives of LibriSpeech"):
        LibriSpeech(str(tmp_path / "empty")).splits()


def test_the_fingerprint_follows_the_data_and_not_its_place(release, tmp_path):
    folder, _ = release
    here = LibriSpeech(str(folder / "LibriSpeech"), ("dev-clean",))
    shutil.copytree(folder / "LibriSpeech/dev-clean", tmp_path / "b/dev-clean")
    there = LibriSpeech(str(tmp_path / "b"), ("dev-clean",))
    alone = LibriSpeech(str(tmp_path / "b/dev-clean"))
    assert here.fingerprint() == there.fingerprint() == alone.fingerprint()
    (tmp_path / "b/dev-clean/84/121123/84-121123.trans.txt").write_text("84-121123-0000 X\n")
    assert here.fingerprint() != LibriSpeech(str(tmp_path / "b")).fingerprint()
    one = packed(folder, tmp_path / "dev-clean.tar.gz", "LibriSpeech/dev-clean")
    (tmp_path / "c").mkdir()
    two = shutil.copy(one, tmp_path / "c/dev-clean.tar.gz")
    prints = LibriSpeech(str(one)).fingerprint()
    assert prints == LibriSpeech(str(two)).fingerprint()
    assert prints["source of dev-clean"] == f"archive dev-clean.tar.gz, {one.stat().st_size} bytes"


def test_the_command_prepares_it(release, tmp_path, capsys):
    command = ["librispeech", "--source", str(release[0]), "--output", str(tmp_path / "out")]
    assert entry.main([*command, "--subsets", "train-100", "dev-clean", "--workers", "1"]) == 0
    shown = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["train", "en", "3", "0.000", "0"] in shown
    assert ["valid", "en", "2", "0.000", "0"] in shown
