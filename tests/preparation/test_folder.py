"""The folder reader: languages, splits and labels by rule, and hostile metadata refused."""

import json
import os
import pickle
import tarfile

import numpy as np
import pytest
import soundfile

from xlsr_jax.data.records import CorpusError
from xlsr_jax.data.speech import UnreadableAudio
from xlsr_jax.preparation.corpora.folder import Folder


def put(root, *paths):
    for number, path in enumerate(paths):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(root / path, np.full(800, number, np.int16), 16_000)


def listed(corpus):
    return {u.id: (split, u) for split in corpus.splits() for u in corpus.utterances(split)}


def test_without_metadata_paths_are_ids_and_first_folders_are_languages(tmp_path):
    put(tmp_path, "es/b/1.wav", "es/a.flac", "fr/c.ogg", "fr/D.WAV")
    (tmp_path / "es" / "notes.txt").write_text("no audio")
    everything = listed(Folder(str(tmp_path)))
    assert {identity: u.language for identity, (_, u) in everything.items()} == {
        "es/a.flac": "es", "es/b/1.wav": "es", "fr/D.WAV": "fr", "fr/c.ogg": "fr",
    }  # fmt: skip
    assert everything["es/b/1.wav"][1].load().rate == 16_000


def test_language_option_covers_all_and_is_asked_for_where_nothing_tells(tmp_path):
    put(tmp_path, "a.wav", "x/b.wav")
    assert {u.language for _, u in listed(Folder(str(tmp_path), language="ky")).values()} == {"ky"}
    with pytest.raises(CorpusError, match="a.wav has no language; name one .* --language"):
        Folder(str(tmp_path)).splits()


ROWS = [
    dict(id="1", path="a.wav", language="sv", text='kallt "ute', speaker="s", split="test"),
    dict(id="2", path="b/c.wav", language="tr", text="bir, iki", speaker="", split=""),
]


@pytest.mark.parametrize("suffix", ["tsv", "csv", "jsonl"])
def test_metadata_rows_are_the_utterances(suffix, tmp_path):
    put(tmp_path, "a.wav", "b/c.wav", "unlisted.wav")
    names = ["text", "path", "id", "extra", "language", "speaker", "split"]  # any order
    if suffix == "jsonl":
        text = "\n".join(json.dumps(row) for row in ROWS) + "\n\n"
    elif suffix == "tsv":
        text = "\n".join("\t".join(row.get(name, "x") for name in names) for row in ROWS)
        text = "\t".join(names) + "\n" + text + "\n"
    else:
        rows = [[row.get(name, "x").replace('"', '""') for name in names] for row in ROWS]
        text = "\n".join(",".join(f'"{cell}"' for cell in row) for row in [names, *rows]) + "\n"
    (tmp_path / f"meta.{suffix}").write_text(text, encoding="utf-8-sig")
    corpus = Folder(str(tmp_path), metadata=str(tmp_path / f"meta.{suffix}"), split="valid")
    everything = listed(corpus)
    assert sorted(everything) == ["1", "2"]
    split, first = everything["1"]
    assert (split, first.language, first.text, first.speaker) == ("test", "sv", 'kallt "ute', "s")
    split, second = everything["2"]
    assert (split, second.language, second.text) == ("valid", "tr", "bir, iki")
    assert second.load().waveform[0] == 1 / 32768
    assert pickle.loads(pickle.dumps(second)).load().rate == 16_000


def test_an_archive_is_a_folder_that_streams(tmp_path):
    put(tmp_path / "in", "es/a.wav", "fr/b.wav", "es/c.wav")
    archive = str(tmp_path / "in.tar.gz")
    with tarfile.open(archive, "w:gz") as tar:
        for name in ("es/c.wav", "es/a.wav", "fr/b.wav"):
            tar.add(tmp_path / "in" / name, name)
        link = tarfile.TarInfo("es/link.wav")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    everything = listed(Folder(archive))
    members = {identity: u.member and u.member.number for identity, (_, u) in everything.items()}
    assert members == {"es/c.wav": 0, "es/a.wav": 1, "fr/b.wav": 2, "es/link.wav": None}
    with pytest.raises(UnreadableAudio, match="link in an archive"):
        everything["es/link.wav"][1].load()
    assert everything["es/c.wav"][1].load(tmp_path / "in/es/c.wav").waveform[0] == 2 / 32768
    table = tmp_path / "m.tsv"
    table.write_text("path\tlanguage\ttext\nfr/b.wav\tfr\tb\nno.wav\tfr\t\nes/a.wav\tes\ta\n")
    rows = list(Folder(archive, str(table), split="train").utterances("train"))
    assert [(u.id, u.text) for u in rows] == [("no.wav", ""), ("es/a.wav", "a"), ("fr/b.wav", "b")]
    with pytest.raises(UnreadableAudio, match="file is missing"):
        rows[0].load()


def test_columns_may_have_other_names(tmp_path):
    put(tmp_path, "a.wav")
    (tmp_path / "m.tsv").write_text("client_id\tpath\tsentence\tlocale\nme\ta.wav\thola\tes\n")
    columns = (("text", "sentence"), ("speaker", "client_id"), ("language", "locale"))
    everything = listed(Folder(str(tmp_path), str(tmp_path / "m.tsv"), columns, split="train"))
    (_, utterance), = everything.values()
    assert (utterance.id, utterance.text, utterance.speaker, utterance.language) == (
        "a.wav", "hola", "me", "es",
    )  # fmt: skip


def test_a_missing_file_is_listed_and_set_aside_on_loading(tmp_path):
    put(tmp_path, "a.wav")
    (tmp_path / "m.csv").write_text("path,language\na.wav,es\ngone.wav,es\n")
    everything = listed(Folder(str(tmp_path), str(tmp_path / "m.csv")))
    with pytest.raises(UnreadableAudio, match="file is missing"):
        everything["gone.wav"][1].load()


@pytest.mark.parametrize(
    "path", ["../secret.wav", "a/../../secret.wav", "/etc/secret.wav", "a/..", "..\\..\\x/../.."]
)
def test_paths_out_of_the_source_are_refused(path, tmp_path):
    source = tmp_path / "source"
    put(source, "a.wav")
    put(tmp_path, "secret.wav")
    (tmp_path / "m.jsonl").write_text(json.dumps({"path": path, "language": "es"}))
    with pytest.raises(CorpusError, match=r"m.jsonl, line 1: path .* leads out of the source"):
        Folder(str(source), str(tmp_path / "m.jsonl")).splits()


def test_absolute_paths_below_the_source_are_fine(tmp_path):
    put(tmp_path, "b/a.wav")
    (tmp_path / "m.jsonl").write_text(json.dumps({"path": str(tmp_path / "b/a.wav")}))
    corpus = Folder(str(tmp_path), str(tmp_path / "m.jsonl"), language="es")
    assert list(listed(corpus)) == ["b/a.wav"]


def test_linked_folders_are_followed_once(tmp_path):
    put(tmp_path / "elsewhere", "1.wav")
    (tmp_path / "source").mkdir()
    os.symlink(tmp_path / "elsewhere", tmp_path / "source" / "es")
    os.symlink(tmp_path / "source", tmp_path / "elsewhere" / "loop")
    assert list(listed(Folder(str(tmp_path / "source")))) == ["es/1.wav"]


def test_split_shares_are_kept_and_depend_on_the_id_alone(tmp_path):
    rows = "\n".join(json.dumps({"id": f"u{i}", "path": f"{i}.wav"}) for i in range(20_000))
    (tmp_path / "m.jsonl").write_text(rows)
    corpus = Folder(str(tmp_path), str(tmp_path / "m.jsonl"), language="es")
    assert list(corpus.splits()) == ["train", "valid", "test"]
    share = {split: len(list(corpus.utterances(split))) / 20_000 for split in corpus.splits()}
    assert share["valid"] == pytest.approx(0.01, abs=0.003)
    assert share["test"] == pytest.approx(0.01, abs=0.003)
    before = {identity: split for identity, (split, _) in listed(corpus).items()}
    (tmp_path / "m.jsonl").write_text("\n".join(rows.split("\n")[::-7]))
    after = listed(Folder(str(tmp_path), str(tmp_path / "m.jsonl"), language="es"))
    assert after and all(before[identity] == split for identity, (split, _) in after.items())
    halves = Folder(str(tmp_path), str(tmp_path / "m.jsonl"), language="es", split_shares=(1, 0, 1))
    assert list(halves.splits()) == ["train", "test"]


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("m.tsv", "file\tlanguage\na.wav\tes\n", "has no column 'path'; its first line names file"),
        ("m.csv", "path,language\n,es\n", "m.csv, line 2 has no path"),
        ("m.csv", "", "has no column 'path'; its first line names nothing"),
        ("m.csv", "path\n", "no utterances in"),
        ("m.jsonl", '{"path": "a.wav", "language": "es"}\n{oops\n', "line 2 is no JSON"),
        ("m.jsonl", "[1]", "line 1 is no JSON object"),
        ("m.jsonl", '{"path": "a.wav"}', "line 1 has no language"),
        ("m.xlsx", "", "must end in .tsv, .csv or .jsonl"),
        ("m.csv", b"path,language\n\xe9.wav,es\n", "cannot be read as UTF-8"),
    ],
)
def test_bad_metadata_is_named_with_its_line(name, content, complaint, tmp_path):
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(CorpusError, match=complaint):
        Folder(str(tmp_path), str(tmp_path / name)).splits()


def test_what_is_not_there_is_named(tmp_path):
    with pytest.raises(CorpusError, match="no folder or archive .*nowhere"):
        Folder(str(tmp_path / "nowhere")).splits()
    with pytest.raises(CorpusError, match=r"no utterances in .*looked for \.wav \.flac"):
        Folder(str(tmp_path)).splits()
    with pytest.raises(CorpusError, match="no metadata file"):
        Folder(str(tmp_path), str(tmp_path / "m.csv")).splits()
    with pytest.raises(CorpusError, match="split shares .* must be three numbers"):
        Folder(str(tmp_path), split_shares=(0, 0, 0)).splits()


def test_the_fingerprint_notices_a_changed_file_and_not_a_moved_folder(tmp_path):
    put(tmp_path / "a", "es/1.wav", "es/2.wav")
    put(tmp_path / "b", "es/1.wav", "es/2.wav")
    before = Folder(str(tmp_path / "a")).fingerprint()
    assert Folder(str(tmp_path / "b")).fingerprint() == before
    soundfile.write(tmp_path / "b/es/2.wav", np.zeros(900, np.int16), 16_000)
    after = Folder(str(tmp_path / "b")).fingerprint()
    assert [key for key in before if before[key] != after[key]] == ["files"]
