"""The reader of fairseq manifests: folders, single files, archives and zips of audio."""

import io
import pickle
import zipfile

import numpy as np
import pytest
import soundfile

from tests.preparation.read_back import packed_bytes, prepared
from xlsr_jax import prepare as entry
from xlsr_jax.data.records import CorpusError, Manifest, Record
from xlsr_jax.preparation.corpora.fairseq import FairseqManifests
from xlsr_jax.preparation.corpora.fairseq_lists import spelled

PATHS = {
    "train": ("84/121123/84-121123-0000.flac", "84/121123/84-121123-0001.flac", "Grüße/é 1.wav"),
    "valid": ("174/50561/174-50561-0000.flac",),
    "dev_other": ("84/121123/84-121123-0000.flac",),  # manifests may share files
}
TEXTS = {"train": ("GO DO YOU HEAR", "", "ÇA VA"), "valid": ("FORGOTTEN TOO",)}
PHONES = {"train": ("ɡ oʊ d uː", "t ʃ", "s a"), "valid": ("f ɚ",)}


def pcm(path):
    rng = np.random.default_rng(len(path) + sum(path.encode()))
    return rng.integers(-9_000, 9_000, 4_000 + len(path)).astype(np.int16)


def encoded(path):
    buffer = io.BytesIO()
    soundfile.write(buffer, pcm(path), 16_000, format=path.rsplit(".")[-1].upper())
    return buffer.getvalue()


def files(root):
    """{name: bytes} of manifests in lists/ and their audio in LibriSpeech/."""
    made = {"lists/dict.ltr.txt": b"| 94802\nE 51860\n", "lists/readme.txt": b"\xff"}
    for split, paths in PATHS.items():
        rows = [f"{path}\t{len(pcm(path))}" for path in paths]
        end = "\r\n" if split == "valid" else "\n"
        begin = "\ufeff" if split == "valid" else ""
        made[f"lists/{split}.tsv"] = (begin + end.join([root, *rows, "", ""])).encode()
        made |= {f"LibriSpeech/{path}": encoded(path) for path in paths}
        if split in TEXTS:
            letters = [" ".join(text.replace(" ", "|")) + " |" for text in TEXTS[split]]
            letters = ["" if line == " |" else line for line in letters]
            made[f"lists/{split}.ltr"] = (end.join(letters) + end).encode()
            made[f"lists/{split}.phn"] = (end.join(PHONES[split]) + end).encode()
    made["lists/valid.wrd"] = b"FORGOTTEN  TOO\n"
    return made


def lay(made, root):
    for name, data in made.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)


def pack(made, path, links=()):
    return packed_bytes({f"./{name}": data for name, data in made.items()}, path, links)


@pytest.mark.parametrize("kind", ["absolute root", "relative root", "--root", "archive"])
def test_every_layout_gives_the_same_records(kind, tmp_path):
    audio = tmp_path / "LibriSpeech"
    roots = {"absolute root": str(audio), "--root": "/not/here"}
    made = files(roots.get(kind, "../LibriSpeech"))
    if kind == "archive":
        source = pack(made, tmp_path / "lists.tar.gz")
    else:
        lay(made, tmp_path)
        source = str(tmp_path / "lists")
    root = str(audio) if kind == "--root" else ""
    corpus = FairseqManifests(source, root, language="en")
    assert corpus.splits() == ["train", "valid", "dev_other"]
    found, aside = prepared(corpus, tmp_path / "out")
    assert not aside
    wanted = {}
    for split, paths in PATHS.items():
        blank = ("",) * len(paths)
        labels = zip(paths, TEXTS.get(split, blank), PHONES.get(split, blank), strict=True)
        for path, text, phonemes in labels:
            samples = pcm(path)
            wanted[f"{split}/{path}"] = (
                split,
                Record(
                    id=f"{split}/{path}",
                    language="en",
                    audio=samples.tobytes(),
                    encoding="pcm16",
                    samples=len(samples),
                    text=text,
                    phonemes=phonemes,
                ),
            )
        members = [u.member.number for u in corpus.utterances(split) if u.member]
        assert members == sorted(members)
        assert len(members) == (len(paths) if kind == "archive" else 0)
        for _ in range(2):  # it may be asked again
            seconds = {u.id: u.seconds for u in corpus.utterances(split)}
            assert seconds == {f"{split}/{path}": len(pcm(path)) / 16_000 for path in paths}
    assert found == wanted
    assert pickle.loads(pickle.dumps(corpus)) == corpus


def test_one_manifest_is_one_split_and_paths_may_name_languages(tmp_path):
    paths = ("mls/es/1.ogg", "mls/fr/2.ogg", "3.ogg")
    tone = (0.3 * np.sin(np.arange(48_000) / 20)).astype(np.float32)
    (tmp_path / "audio/mls/es").mkdir(parents=True)
    (tmp_path / "audio/mls/fr").mkdir()
    for path in paths:
        soundfile.write(tmp_path / "audio" / path, tone, 48_000, format="OGG", subtype="OPUS")
    rows = "".join(f"{path}\t48000\n" for path in paths)
    (tmp_path / "few.tsv").write_text(f"audio\n{rows}")
    (tmp_path / "other.tsv").write_text("nowhere\n")
    corpus = FairseqManifests(str(tmp_path / "few.tsv"), language_from_path=2)
    found, aside = prepared(corpus, tmp_path / "out")
    languages = {identity: (split, r.language) for identity, (split, r) in found.items()}
    assert languages == {"few/mls/es/1.ogg": ("few", "es"), "few/mls/fr/2.ogg": ("few", "fr")}
    assert aside == {"few/3.ogg": ("few", "und", "no language: 3.ogg")}
    # One second at 48 kHz: the frames of the manifest are not at our rate, the record's are.
    assert all(abs(record.samples - 16_000) <= 1 for _, record in found.values())
    assert all(utterance.seconds == 3.0 for utterance in corpus.utterances("few"))


@pytest.mark.parametrize("packed", [False, True], ids=["folder", "archive"])
def test_audio_in_a_zip_is_read_by_its_bytes(packed, tmp_path):
    paths, places = PATHS["train"], {}
    (tmp_path / "LibriSpeech").mkdir()
    for name, method in (("stored", zipfile.ZIP_STORED), ("deflated", zipfile.ZIP_DEFLATED)):
        with zipfile.ZipFile(tmp_path / f"LibriSpeech/{name}.zip", "w", method) as archive:
            for path in paths:
                archive.writestr(path, encoded(path))
            for info in archive.infolist():  # a local header, then the name, then the bytes
                begin = info.header_offset + 30 + len(info.filename.encode())
                places[name, info.filename] = f"{name}.zip:{begin}:{info.compress_size}"
    size = (tmp_path / "LibriSpeech/stored.zip").stat().st_size
    bad = {
        places["deflated", paths[2]]: "not audio in a zip: bytes at",
        f"stored.zip:{size - 10}:60": "truncated: 10 of 60 bytes",
        "stored.zip": "zip without :OFFSET:LENGTH: stored.zip",
        "stored.zip:4": "zip without :OFFSET:LENGTH: stored.zip:4",
        "gone.zip:4:9": "file is missing",
    }
    rows = [*(places["stored", path] for path in paths), *bad]
    manifest = "\n".join(["../LibriSpeech", *(f"{row}\t4000" for row in rows)]) + "\n"
    source = tmp_path / "lists"
    lay({"lists/train.tsv": manifest.encode()}, tmp_path)
    if packed:
        made = {"lists/train.tsv": manifest.encode()}
        for name in ("stored.zip", "deflated.zip"):
            made[f"LibriSpeech/{name}"] = (tmp_path / "LibriSpeech" / name).read_bytes()
        source = pack(made, tmp_path / "all.tar.gz")
    found, aside = prepared(FairseqManifests(str(source), language="en"), tmp_path / "out")
    assert len(found) == len(paths)
    for path in paths:
        _, record = found[f"train/{places['stored', path]}"]
        np.testing.assert_array_equal(record.waveform() * 32768, pcm(path))
    assert sorted(aside) == sorted(f"train/{row}" for row in bad)
    for row, reason in bad.items():
        assert aside[f"train/{row}"][2].startswith(reason)


@pytest.mark.parametrize("packed", [False, True], ids=["folder", "archive"])
def test_rows_that_cannot_be_used_are_set_aside_by_reason(packed, tmp_path):
    made = {"LibriSpeech/a.wav": encoded("a.wav"), "LibriSpeech/empty.wav": b""}
    made |= {"LibriSpeech/b.wav": encoded("b.wav"), "secret.wav": encoded("c.wav")}
    rows = [
        "a.wav\t4005", "", "gone.wav\t1", "../secret.wav\t1", "/etc/secret.wav\t1", "a.wav\t4005",
        "no frames", "x.wav\tmany", "x.wav\t1\t2", "empty.wav\t0", "sub/../b.wav\t4005", "nul\0\t1",
        "link.wav\t1",
    ]  # fmt: skip
    made["lists/train.tsv"] = "\n".join(["../LibriSpeech", *rows, ""]).encode()
    made["lists/train.wrd"] = "".join(f"word {n}\n" for n in range(len(rows))).encode()
    if packed:
        source = pack(made, tmp_path / "in.tar.gz", ["LibriSpeech/link.wav"])
    else:
        lay(made, tmp_path)
        source = str(tmp_path / "lists")
    corpus = FairseqManifests(source, language_from_path=0, language="tt")
    found, aside = prepared(corpus, tmp_path / "out")
    texts = {identity: record.text for identity, (_, record) in found.items()}
    assert texts == {"train/a.wav": "word 0", "train/sub/../b.wav": "word 10"}
    row = "malformed row: {} is not PATH<TAB>FRAMES".format
    file = "lists/train.tsv" if packed else "train.tsv"
    assert {identity: reason for identity, (_, _, reason) in aside.items()} == {
        f"{file}:3": row("''"),
        "train/gone.wav": "file is missing",
        "train/../secret.wav": "path out of the root: ../secret.wav",
        "train//etc/secret.wav": "path out of the root: /etc/secret.wav",
        f"{file}:7": "repeated path: a.wav",
        f"{file}:8": row("'no frames'"),
        f"{file}:9": row(r"'x.wav\tmany'"),
        f"{file}:10": row(r"'x.wav\t1\t2'"),
        "train/empty.wav": "zero-length file",
        f"{file}:13": row(r"'nul\x00\t1'"),
        "train/link.wav": "link in an archive" if packed else "file is missing",
    }


def test_absolute_paths_below_the_root_are_fine(tmp_path):
    lay({"audio/es/a.wav": encoded("a.wav")}, tmp_path)
    (tmp_path / "train.tsv").write_text(f"audio\n{tmp_path}/audio/es/a.wav\t4005\n")
    (utterance,) = FairseqManifests(str(tmp_path), language_from_path=1).utterances("train")
    assert (utterance.language, len(utterance.load().waveform)) == ("es", len(pcm("a.wav")))


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("T H E | C A T |", "THE CAT"),
        ("| | Ç A | | V A", "ÇA VA"),
        ("|", ""),
        ("", ""),
        ("D O N ' T\t|", "DON'T"),
    ],
)
def test_letters_become_words(line, text):
    assert spelled(line) == text


@pytest.mark.parametrize(
    ("suffix", "content", "count"),
    [("ltr", "A |\n", 1), ("wrd", "A\nB\nC\nD\n", 4), ("phn", "", 0)],
)
def test_labels_of_another_number_end_the_run(suffix, content, count, tmp_path):
    lay(files(str(tmp_path / "LibriSpeech")), tmp_path)
    (tmp_path / f"lists/train.{suffix}").write_text(content)
    corpus = FairseqManifests(str(tmp_path / "lists"), language="en")
    says = f"train.{suffix} has {count} labels and train.tsv 3 utterances, in .*make the labels"
    with pytest.raises(CorpusError, match=says):
        corpus.splits()
    (tmp_path / f"lists/train.{suffix}").write_text("A\n\nC\n\n\n")  # empty lines at the end
    labels = [u.phonemes if suffix == "phn" else u.text for u in corpus.utterances("train")]
    assert labels == ["A", "", "C"]


def test_what_is_no_manifest_is_named(tmp_path):
    def splits(**options):
        return FairseqManifests(str(tmp_path), language="en", **options).splits()

    with pytest.raises(CorpusError, match=r"no manifest in .* \(looked for train.tsv"):
        splits()
    (tmp_path / "train.tsv").write_text("client_id\tpath\tsentence\n1\ta.mp3\thola\n")
    with pytest.raises(CorpusError, match="train.tsv of .* is no fairseq manifest: its first line"):
        splits()
    (tmp_path / "train.tsv").write_text("/not/here\na.wav\t1\n")
    with pytest.raises(CorpusError, match="in /not/here, which is no folder; give --root"):
        splits()
    assert splits(root=str(tmp_path)) == ["train"]
    for options in ({}, {"language": "en", "language_from_path": 1}, {"language_from_path": -1}):
        with pytest.raises(CorpusError, match="give --language, or --language-from-path"):
            FairseqManifests(str(tmp_path), **options)
    with pytest.raises(CorpusError, match="is no .tsv, no folder of them and no archive"):
        FairseqManifests(str(tmp_path / "train.lst"), language="en").splits()
    rows = b"/not/here\na.wav\t1\n"
    packed = pack({"train.tsv": rows, "x/a.wav": encoded("a.wav")}, tmp_path / "a.tar")
    with pytest.raises(CorpusError, match="in /not/here; give --root, a folder of the archive"):
        FairseqManifests(packed, language="en").splits()
    (utterance,) = FairseqManifests(packed, root="x", language="en").utterances("train")
    assert utterance.member.number == 0  # "./x/a.wav" comes before "./train.tsv"
    packed = pack({"x/train.tsv": rows, "y/train.tsv": rows}, tmp_path / "b.tar")
    with pytest.raises(
        CorpusError, match="has two manifests of train, y/train.tsv and x/train.tsv"
    ):
        FairseqManifests(packed, root="x", language="en").splits()


def test_the_fingerprint_knows_the_data_and_not_the_place(tmp_path):
    sources = []
    for place in ("a", "b"):
        lay(files(str(tmp_path / place / "LibriSpeech")), tmp_path / place)
        sources.append(FairseqManifests(str(tmp_path / place / "lists"), language="en"))
    before = sources[0].fingerprint()
    assert sources[1].fingerprint() == before
    assert str(tmp_path) not in str(before)
    (tmp_path / "b/LibriSpeech/Grüße/é 1.wav").write_bytes(b"other")
    assert sources[1].fingerprint()["source"] != before["source"]
    (tmp_path / "a/lists/train.phn").write_text("a\nb\nc\n")
    assert sources[0].fingerprint()["source"] != before["source"]
    one, other = tmp_path / "c.tar.gz", tmp_path / "a/c.tar.gz"
    pack(files("../LibriSpeech"), one)
    other.write_bytes(one.read_bytes())
    corpora = [FairseqManifests(str(path), language_from_path=1) for path in (one, other)]
    assert corpora[0].fingerprint() == corpora[1].fingerprint() == {
        "language": "folder 1 of the path",
        "root": "as named",
        "source": f"archive c.tar.gz, {one.stat().st_size} bytes",
    }  # fmt: skip


def test_the_command_prepares_them(tmp_path, capsys):
    lay(files("../LibriSpeech"), tmp_path)
    command = ["fairseq", f"--source={tmp_path}/lists", f"--output={tmp_path}/out", "--workers=1"]
    assert entry.main(command) == 1
    assert "give --language, or --language-from-path" in capsys.readouterr().err
    assert entry.main([*command, "--language=en"]) == 0
    assert {shard.split for shard in Manifest.load(tmp_path / "out").shards} == set(PATHS)
