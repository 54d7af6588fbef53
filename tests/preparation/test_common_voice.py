"""Common Voice in miniature, as its releases are laid out: every row a record or set aside."""

import io
import json
import os
import pickle
import tarfile

import numpy as np
import pytest
import soundfile
import soxr

from xlsr_jax import prepare as entry
from xlsr_jax.data import audio, records
from xlsr_jax.data.records import CorpusError, Record
from xlsr_jax.preparation.corpora.common_voice import CommonVoice
from xlsr_jax.preparation.corpora.common_voice_lists import lists_in
from xlsr_jax.preparation.prepare import prepare
from xlsr_jax.text import espeak

V2 = ["client_id", "path", "sentence", "up_votes", "down_votes", "age", "gender", "accent"]
V17 = [
    *("client_id", "path", "sentence_id", "sentence", "sentence_domain", "up_votes", "down_votes"),
    *("age", "gender", "accents", "variant", "locale", "segment"),
]
ANNA, BOSSE = "0a" * 64, "f1" * 64


def table(path, header, *rows, encoding="utf-8", end="\n"):
    """Rows are dictionaries, or lines as they are."""
    lines = ["\t".join(header)]
    for row in rows:
        cells = row if isinstance(row, str) else "\t".join(row.get(name, "") for name in header)
        lines.append(cells)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes("".join(line + end for line in lines).encode(encoding))


def row(clip, text="Ja.", speaker=ANNA, locale="sv-SE"):
    return {"client_id": speaker, "path": clip, "sentence": text, "locale": locale, "up_votes": "2"}


def clips(folder, *names, rate=48_000):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        rng = np.random.default_rng(sum(name.encode()))
        wave = 0.3 * np.sin(np.cumsum(rng.uniform(0.01, 0.1, rate // 4)))
        soundfile.write(folder / name, wave, rate, format="MP3")


def packed(folder, archive, last=(), extra=()):
    """An archive of what is in a folder, clips in reverse order and before the tables."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    files.sort(key=lambda path: (path.suffix == ".tsv", path.name.encode()[::-1]))
    with tarfile.open(archive, "w:gz") as tar:
        for path in files:
            tar.add(path, path.relative_to(folder))
        for info, data in extra:
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return archive


def prepared(corpus, output):
    """{split: {id: record}} and {split: {id: reason}}."""
    manifest = prepare(corpus, output, workers=1, progress_bar=False)
    found: dict[str, dict] = {}
    for shard in manifest.shards:
        for data in records.open_shards(output, [shard]):
            record = Record.from_bytes(data)
            assert record.id not in found.setdefault(shard.split, {})
            found[shard.split][record.id] = record
    aside: dict[str, dict] = {}
    for line in (output / records.REJECTED).read_text().splitlines():
        line = json.loads(line)
        aside.setdefault(line["split"], {})[line["id"]] = line["reason"]
    return found, aside


def listed(source):
    """What is listed of a source, less the order and the way to the audio."""
    corpus = CommonVoice(str(source))
    return {
        split: sorted((u.id, u.language, u.text, u.speaker, u.seconds, _reason(u))
                      for u in corpus.utterances(split))
        for split in corpus.splits()
    }  # fmt: skip


def _reason(utterance):
    return "" if utterance.load.func is audio.decode else utterance.load.args[0]


def fields(record):
    return record.language, record.text, record.speaker, record.phonemes, record.alignment


def heard(record, path):
    """Whether a record's audio is that of a file, decoded and resampled apart from the reader."""
    wave, rate = soundfile.read(path, dtype="float32")
    wave = soxr.resample(wave, rate, 16_000, quality="HQ")
    assert record.samples == len(wave)
    return np.abs(record.waveform() - np.clip(wave, -1, 1)).max() < 2e-5


@pytest.fixture(scope="module")
def recent(tmp_path_factory):
    """One language of release 17, with the quirks of its tables."""
    root = tmp_path_factory.mktemp("recent")
    folder = root / "cv-corpus-17.0-2024-03-15" / "sv-SE"
    name = "common_voice_sv-SE_{}.mp3".format
    clips(folder / "clips", *(name(number) for number in (11, 12, 13, 21, 31, 32)))
    clips(folder / "clips", name(14), rate=32_000)
    (folder / "clips" / name(15)).write_bytes(b"")  # as some clips of releases 3 and 4
    table(
        folder / "train.tsv", V17,
        row(name(12), '"Kallt" sa "Bo'), row(name(11), "Över ån — å", BOSSE), "",
        row(name(13)), row(name(14)), row(name(15)), row(name(19)), row(name(13), "Igen."),
        "\t".join([ANNA, name(16), "9", "En\ttabb", "", "2", "0", "", "", "", "", "sv-SE", ""]),
        f"{ANNA}\t{name(17)}", "\t".join([ANNA, *[""] * 12]), "x" * 2_000_000, row(name(21)),
        encoding="utf-8-sig", end="\r\n",
    )  # fmt: skip
    table(folder / "dev.tsv", V17, row(name(21), "Nej.", BOSSE))
    table(folder / "test.tsv", V17, row(name(31), "Hej."), row(name(18)))
    table(
        folder / "validated.tsv", V17,
        *(row(name(number)) for number in (31, 21, 32, 13, 12, 11)), row(name(18)),
    )  # fmt: skip
    table(folder / "other.tsv", V17, row(name(32), "Kanske."))
    table(folder / "reported.tsv", ("sentence", "sentence_id"), "x\ty")
    durations = [f"{name(11)}\t5004", f"{name(12)}\t250", f"{name(13)}\tmany", "99"]
    table(folder / "clip_durations.tsv", ("clip", "duration[ms]"), *durations)
    return root


SPOKEN = {  # what every table asks for and the clips can give
    "train": {
        "11": ("Över ån — å", "f1f1f1f1f1f1f1f1"),
        "12": ('"Kallt" sa "Bo', "0a0a0a0a0a0a0a0a"),
        "13": ("Ja.", "0a0a0a0a0a0a0a0a"),
        "14": ("Ja.", "0a0a0a0a0a0a0a0a"),
    },
    "valid": {"21": ("Nej.", "f1f1f1f1f1f1f1f1")},
    "test": {"31": ("Hej.", "0a0a0a0a0a0a0a0a")},
}


def test_a_release_unpacked_or_not_is_the_same_records(recent, tmp_path):
    archive = packed(recent, tmp_path / "cv-corpus-17.0-2024-03-15-sv-SE.tar.gz")
    (tmp_path / "several").mkdir()
    os.link(archive, tmp_path / "several" / archive.name)
    folder = recent / "cv-corpus-17.0-2024-03-15" / "sv-SE"
    name = "common_voice_sv-SE_{}".format
    assert listed(recent) == listed(folder) == listed(archive) == listed(tmp_path / "several")
    for number, source in enumerate((recent, archive)):
        found, aside = prepared(CommonVoice(str(source)), tmp_path / f"out-{number}")
        assert {split: set(each) for split, each in found.items()} == {
            split: set(map(name, each)) for split, each in SPOKEN.items()
        }
        for split, each in SPOKEN.items():
            for clip, (text, speaker) in each.items():
                record = found[split][name(clip)]
                assert fields(record) == ("sv-SE", text, speaker, "", ())
                assert heard(record, folder / "clips" / f"{name(clip)}.mp3")
        train = aside.pop("train")
        assert train.pop("sv-SE/train.tsv:13").startswith("malformed row: over 1048576 characters")
        assert train == {
            name(15): "zero-length file",
            name(19): f"clip is missing: clips/{name(19)}.mp3",
            "sv-SE/train.tsv:9": f"clip listed twice: clips/{name(13)}.mp3",
            name(16): "malformed row: 14 of 13 columns",
            name(17): "malformed row: 2 of 13 columns",
            "sv-SE/train.tsv:12": "malformed row: no clip",
        }
        assert aside == {"test": {name(18): f"clip is missing: clips/{name(18)}.mp3"}}


def test_utterances_are_listed_as_the_archive_has_them_with_their_lengths(recent, tmp_path):
    archive = packed(recent, tmp_path / "sv-SE.tgz")
    corpus = CommonVoice(str(archive))
    first, again = list(corpus.utterances("train")), list(corpus.utterances("train"))
    assert [u.id for u in first] == [u.id for u in again] and len(first) == 11
    places = [u.member.number for u in first if u.member is not None]
    assert places == sorted(places) and len(places) == 5
    assert {u.id[-2:]: u.seconds for u in first if u.seconds} == {"11": 5.004, "12": 0.25}
    copy = pickle.loads(pickle.dumps(corpus))
    assert [u.id for u in copy.utterances("train")] == [u.id for u in first]
    folder = CommonVoice(str(recent))
    listed = [u.id for u in folder.utterances("train") if u.load.args and "clips" in u.load.args[0]]
    assert listed[:5] == [f"common_voice_sv-SE_{number}" for number in range(11, 16)]


def test_pretraining_takes_all_that_is_validated_and_held_out_nowhere(recent, tmp_path):
    name = "common_voice_sv-SE_{}".format
    found, aside = prepared(CommonVoice(str(recent), pretraining=True), tmp_path / "all")
    ids = {split: sorted(int(i[-2:]) for i in each) for split, each in found.items()}
    assert ids == {"train": [11, 12, 13, 32], "valid": [21], "test": [31]}
    assert list(aside) == ["test"]  # clip 18 is of the test, and listed there alone
    only = CommonVoice(str(recent), ("train",), pretraining=True)
    assert only.splits() == ("train",)
    assert {u.id for u in only.utterances("train")} == {name(n) for n in (11, 12, 13, 32)}


def test_a_clip_of_several_tables_is_in_one_split(recent):
    corpus = CommonVoice(str(recent), ("other", "validated", "test", "train"))
    assert corpus.splits() == ("train", "test", "validated", "other")
    ids = {split: sorted(u.id[-2:] for u in corpus.utterances(split) if u.text)
           for split in corpus.splits()}  # fmt: skip
    assert ids["test"] == ["18", "31"] and ids["validated"] == ["32"] and ids["other"] == []
    assert "21" in ids["train"]  # dev.tsv is not asked for


@pytest.fixture(scope="module")
def early(tmp_path_factory):
    """Release 2: files at the top, hashes for names and without .mp3, no locale."""
    root = tmp_path_factory.mktemp("early") / "ky"
    clips(root / "clips", *(f"{letter * 64}.mp3" for letter in "abc"), rate=44_100)
    texts = {"a": "Үй.", "b": "Жолдон өткөн.", "c": "Ооба."}
    for split, letters in (("train", "ba"), ("dev", "c"), ("test", "")):
        table(root / f"{split}.tsv", V2, *(row(c * 64, texts[c], BOSSE) for c in letters))
    return root


def test_an_early_release_has_its_language_from_its_archive(early, tmp_path):
    archive = packed(early, tmp_path / "ky.tar.gz")
    assert listed(early) == listed(early.parent) == listed(archive)
    found, aside = prepared(CommonVoice(str(archive)), tmp_path / "out")
    assert {split: sorted(each) for split, each in found.items()} == {
        "train": ["a" * 64, "b" * 64], "valid": ["c" * 64],
    }  # fmt: skip
    assert fields(found["train"]["b" * 64]) == ("ky", "Жолдон өткөн.", BOSSE[:16], "", ())
    for each in found.values():
        for identity, record in each.items():
            assert heard(record, early / "clips" / f"{identity}.mp3")
    assert aside == {}
    os.rename(packed(early, tmp_path / "download.tar"), tmp_path / "downloaded.tar")
    with pytest.raises(CorpusError, match="nothing tells the language of the tables in .*such as"):
        CommonVoice(str(tmp_path / "downloaded.tar")).splits()


@pytest.mark.parametrize("twice", [False, True])
def test_the_release_of_2017_is_csv_and_repeats_its_names(twice, tmp_path):
    root = tmp_path / "cv_corpus_v1"
    header = "filename,text,up_votes,down_votes,age,gender,accent,duration\n"
    for part in ("valid-train", "valid-dev", "other-train"):
        place = f"cv-{part}/cv-{part}" if twice else f"cv-{part}"
        clips(root / place, "sample-000000.mp3", rate=22_050)
        lines = f'cv-{part}/sample-000000.mp3,"he said, ""{part}""",1,0,,,,\n'
        lines += f"cv-{part}/sample-000001.mp3,gone,1,0,twenties,male,us,\n,x,1,0,,,,\n"
        (root / f"cv-{part}.csv").write_text(header + lines)
    source = root if twice else packed(tmp_path, tmp_path / "cv_corpus_v1.tar.gz")
    found, aside = prepared(CommonVoice(str(source)), tmp_path / "out")
    assert {split: list(each) for split, each in found.items()} == {
        "train": ["cv-valid-train/sample-000000"], "valid": ["cv-valid-dev/sample-000000"],
    }  # fmt: skip
    record = found["valid"]["cv-valid-dev/sample-000000"]
    assert fields(record) == ("en", 'he said, "valid-dev"', "", "", ())
    folder = "cv-valid-dev/cv-valid-dev" if twice else "cv-valid-dev"
    assert heard(record, root / folder / "sample-000000.mp3")
    assert aside["train"] == {
        "cv-valid-train/sample-000001": "clip is missing: cv-valid-train/sample-000001.mp3",
        "en/cv-valid-train.csv:4": "malformed row: no clip",
    }


def test_a_folder_of_archives_and_folders_is_one_corpus(recent, early, tmp_path):
    source = tmp_path / "downloads"
    (source / "kept").mkdir(parents=True)
    packed(recent, source / "cv-corpus-17.0-2024-03-15-sv-SE.tar.gz")
    os.symlink(early, source / "kept" / "ky")
    corpus = CommonVoice(str(source))
    languages = [(u.language, u.id) for u in corpus.utterances("valid")]
    assert languages == [("ky", "c" * 64), ("sv-SE", "common_voice_sv-SE_21")]
    (source / "cv-corpus-4-de.tar").write_bytes(b"x" * 2_000)
    (source / "cv-corpus-5-2020-06-22-de.tar").write_bytes(b"x" * 2_000)
    swedish = CommonVoice(str(source), languages=("sv",))
    with pytest.raises(CorpusError, match="cv-corpus-4-de.tar is damaged"):
        swedish.splits()
    (source / "cv-corpus-4-de.tar").unlink()  # of the other the name says that it is German
    assert {u.language for u in swedish.utterances("train")} == {"sv-SE"}
    (source / "cv-corpus-5-2020-06-22-de.tar").unlink()
    with pytest.raises(CorpusError, match="no table of Common Voice for fr; it has ky, sv-SE"):
        CommonVoice(str(source), languages=("ky", "fr", "sv-SE")).splits()
    packed(early, source / "ky.tar")
    with pytest.raises(CorpusError, match=r"ky is in .*kept/ky/ and in .*ky.tar/; give one"):
        CommonVoice(str(source)).splits()


def member(name, kind=tarfile.REGTYPE, target=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def test_members_that_are_not_taken_are_set_aside(recent, tmp_path):
    root = "cv-corpus-17.0-2024-03-15/sv-SE/clips"
    extra = [
        (member(f"{root}/common_voice_sv-SE_19.mp3", tarfile.SYMTYPE, "/etc/passwd"), b""),
        (member("../common_voice_sv-SE_66.mp3"), b"abc"),
        (member("../common_voice_sv-SE_66.mp3"), b"abc"),
        (member("../../notes.txt"), b"abc"),
    ]
    archive = packed(recent, tmp_path / "sv-SE.tar.gz", extra=extra)
    found, aside = prepared(CommonVoice(str(archive)), tmp_path / "out")
    assert len(found["train"]) == 4
    clip = "common_voice_sv-SE_19"
    assert aside["train"][clip] == f"link in an archive: clips/{clip}.mp3"
    strays = {i: reason for i, reason in aside["train"].items() if ".." in i}
    assert strays == {
        "sv-SE.tar.gz/../common_voice_sv-SE_66.mp3": "name that leads out of its archive"
    }


def test_tables_of_something_else_are_named(recent, tmp_path):
    table(tmp_path / "es/train.tsv", ("audio", "sentence"), "a\tb")
    with pytest.raises(CorpusError, match="must have columns path and sentence; its first line na"):
        list(CommonVoice(str(tmp_path)).utterances("train"))
    (tmp_path / "es/train.tsv").write_bytes(b"path\tsentence\na\t\xe9\n")
    with pytest.raises(CorpusError, match="es/train.tsv of .* is no UTF-8 text"):
        list(CommonVoice(str(tmp_path)).utterances("train"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(CorpusError, match="no table of Common Voice, such as validated.tsv; it"):
        CommonVoice(str(tmp_path / "empty")).splits()
    with pytest.raises(CorpusError, match="has no invalidated.tsv; name other tables with --spl"):
        CommonVoice(str(recent), ("invalidated",)).splits()


def lists(folder, **splits):
    for split, lines in splits.items():
        (folder / "sv").mkdir(parents=True, exist_ok=True)
        (folder / "sv" / f"{split}.text").write_text("".join(f"{line}\n" for line in lines))
    return folder


def test_lists_make_the_splits_and_their_match_is_told(recent, tmp_path):
    name = "common_voice_sv-SE_{}".format
    folder = lists(
        tmp_path / "lists",
        train=[f"{name(32)}\tannat", name(12), "", name(21), f"{name(77)}\tborta", name(12)],
        val=[f"{name(21)}\tNej", f"{name(14)}\tJa"],
    )
    (folder / "sv" / "validated_phones_reduced.txt").write_text("not a list of a split")
    (folder / "sv" / "train.id").write_text("1 2 3")
    corpus = CommonVoice(str(recent), lists=lists_in(str(folder)))
    found, aside = prepared(corpus, tmp_path / "out")
    assert {split: sorted(each) for split, each in found.items()} == {
        "train": [name(12), name(32)], "valid": [name(14), name(21)],
    }  # fmt: skip
    speaker = ANNA[:16]
    assert fields(found["train"][name(32)])[1:3] == ("Ja.", speaker)  # as validated.tsv has it
    assert fields(found["train"][name(12)])[1:3] == ("Ja.", speaker)
    assert fields(found["valid"][name(14)])[1:3] == ("Ja.", speaker)  # train.tsv alone has it
    assert aside == {"train": {
        name(77): f"clip is missing: clips/{name(77)}.mp3",
        "sv-SE/train.text:6": f"clip listed twice: clips/{name(12)}.mp3",
    }}  # fmt: skip
    assert corpus.notes() == (
        "sv-SE train: 2 of 3 listed clips found (66.7 %)",
        "sv-SE valid: 2 of 2 listed clips found (100.0 %)",
    )
    seqs = folder / "trainSeqs_1.0_uniform_new_version.txt"
    seqs.write_text(f"{name(31)}\n")
    one = CommonVoice(str(recent), lists=(("sv", str(seqs)), ("pl", str(seqs))))
    assert [u.id for u in one.utterances("train")] == [name(31)] and one.splits() == ("train",)
    assert one.notes()[-1] == "no clips for the lists of pl"
    with pytest.raises(CorpusError, match="both list sv-SE train; choose one with --list=sv-SE:"):
        CommonVoice(str(recent), lists=(("sv", str(seqs)), *lists_in(str(folder)))).splits()


def test_notes_name_what_is_not_there(recent, early, tmp_path):
    (tmp_path / "in").mkdir()
    os.symlink(early, tmp_path / "in/ky")
    os.symlink(recent, tmp_path / "in/new")
    assert CommonVoice(str(tmp_path / "in"), ("dev", "test", "other")).notes() == (
        "ky has no other.tsv",
        "sv-SE test: 1 of 2 listed clips found (50.0 %)",
    )


def test_the_fingerprint_is_of_the_data_and_not_of_their_place(recent, early, tmp_path):
    before = CommonVoice(str(early)).fingerprint()
    (tmp_path / "a").mkdir()
    os.symlink(early, tmp_path / "a/ky")
    assert CommonVoice(str(tmp_path / "a/ky")).fingerprint() == before
    first = packed(early, tmp_path / "a.tar.gz")
    (tmp_path / "b").mkdir()
    os.link(first, tmp_path / "b/a.tar.gz")
    archive = CommonVoice(str(first)).fingerprint()
    assert CommonVoice(str(tmp_path / "b/a.tar.gz")).fingerprint() == archive
    assert archive["source"] == f"archive a.tar.gz, {first.stat().st_size} bytes"
    assert str(tmp_path) not in json.dumps([before, archive])
    other = CommonVoice(str(early), pretraining=True, languages=("ky",)).fingerprint()
    assert {key for key in before if before[key] != other[key]} == {"pretraining", "languages"}
    folder = lists(tmp_path / "lists", train=["x"])
    listed = CommonVoice(str(recent), lists=lists_in(str(folder))).fingerprint()
    lists(folder, train=["y"])
    changed = CommonVoice(str(recent), lists=lists_in(str(folder))).fingerprint()
    assert [key for key in listed if listed[key] != changed[key]] == ["list sv train"]


def test_published_lists_are_read_end_to_end(shared, tmp_path, capsys):
    """A few sentences of the published few-shot lists, spoken, in a tree as release 3 has it."""
    published = shared / "common_voice" / "splits"
    if not published.is_dir():
        pytest.skip("no published lists at common_voice/splits in the shared folder")
    sentences = {}
    for folder, locale in (("sv", "sv-SE"), ("it", "it"), ("ky", "ky")):
        root = tmp_path / "in" / locale
        (root / "clips").mkdir(parents=True)
        rows = []
        for split in ("train", "val"):
            lines = (published / folder / f"{split}.text").read_text().splitlines()[1:4]
            for identity, text in (line.split("\t") for line in lines):
                spoken = espeak.speak(text, espeak.Voice(folder))
                path = root / "clips" / f"{identity}.mp3"
                soundfile.write(path, spoken.waveform, spoken.rate, format="MP3")
                sentences[identity] = split.replace("val", "valid"), locale, text
                rows.append(row(f"{identity}.mp3", text, BOSSE))
        table(root / "validated.tsv", V2, *rows)
    command = ["common_voice", f"--source={tmp_path / 'in'}", f"--output={tmp_path / 'out'}"]
    assert entry.main([*command, f"--lists={published}", "--workers=1"]) == 0
    shown = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert next(line for line in shown if line[:2] == ["train", "sv-SE"])[2::2] == ["3", "1147"]
    assert next(line for line in shown if line[:2] == ["valid", "ky"])[2::2] == ["3", "224"]
    manifest = records.Manifest.load(tmp_path / "out")
    found = {}
    for shard in manifest.shards:
        for data in records.open_shards(tmp_path / "out", [shard]):
            record = Record.from_bytes(data)
            found[record.id] = shard.split, record.language, record.text
            path = tmp_path / "in" / record.language / "clips" / f"{record.id}.mp3"
            assert heard(record, path) and record.speaker == BOSSE[:16]
    assert found == sentences and len(found) == 18
    assert any(text.startswith('"') for _, _, text in found.values())  # quotes are text
    notes = CommonVoice(str(tmp_path / "in"), lists=lists_in(str(published))).notes()
    assert "sv-SE train: 3 of 1150 listed clips found (0.3 %)" in notes
    assert notes[-1] == "no clips for the lists of es, fr, nl, ru"


def test_the_command_line_says_which_options_exclude_each_other(recent, tmp_path, capsys):
    command = ["common_voice", f"--source={recent}", f"--output={tmp_path / 'out'}"]
    lists(tmp_path / "lists", train=["x"])
    assert entry.main([*command, f"--lists={tmp_path / 'lists'}", "--pretraining"]) == 1
    assert "lists make the splits; leave --splits" in capsys.readouterr().err
    assert entry.main([*command, "--list=train.text"]) == 1
    assert "must be LANGUAGE:FILE" in capsys.readouterr().err
    assert entry.main([*command, "--splits", "dev", "test", "--workers=1"]) == 0
    assert records.Manifest.load(tmp_path / "out").made_with["splits"] == "valid test"
