"""Sources: archives are streamed and nothing in them is trusted."""

import dataclasses
import functools
import gzip
import io
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile

from xlsr_jax.data import audio, records
from xlsr_jax.data.records import CorpusError, Manifest, Record
from xlsr_jax.preparation import archives, prepare, tasks
from xlsr_jax.preparation.archives import open_source
from xlsr_jax.preparation.corpora.base import Utterance
from xlsr_jax.preparation.shards import Task


def wav(number: int, samples: int = 1_600) -> bytes:
    rng = np.random.default_rng(number)
    file = io.BytesIO()
    noise = 0.1 * rng.standard_normal(samples)
    soundfile.write(file, noise, 16_000, format="WAV", subtype="PCM_16")
    return file.getvalue()


def member(name: str, data: bytes = b"", **fields) -> tuple[tarfile.TarInfo, io.BytesIO]:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for key, value in fields.items():
        setattr(info, key, value)
    return info, io.BytesIO(data)


def pack(path, *members: tuple[tarfile.TarInfo, io.BytesIO], mode="w:gz") -> str:
    with tarfile.open(path, mode) as tar:
        for info, data in members:
            tar.addfile(info, data)
    return str(path)


@dataclasses.dataclass(frozen=True)
class Clips:
    """Every .wav of a source; its language is the first letter of its name."""

    source: str
    name: str = "clips"

    def splits(self) -> Sequence[str]:
        return ("train",)

    def utterances(self, split: str) -> Iterator[Utterance]:
        for name in self._tree.names:
            if name.endswith(".wav"):
                stem = name.rpartition("/")[2].removesuffix(".wav")
                yield Utterance(stem, stem[0], **self._tree.audio(name, audio.decode))

    def fingerprint(self) -> Mapping[str, str]:
        return {}

    @functools.cached_property
    def _tree(self):
        return open_source(self.source)


def found(root) -> dict[str, Record]:
    source = records.open_shards(root, Manifest.load(root).shards)
    made = (Record.from_bytes(source[i]) for i in range(len(source)))
    return {record.id: record for record in made}


NAMES = [f"{'ab'[n % 3 == 0]}{n}" for n in range(20)]
CLIPS = [member(f"corpus/clips/{name}.wav", wav(n)) for n, name in enumerate(NAMES)]
make = functools.partial(prepare.prepare, utterances_per_shard=4, progress_bar=False)


def clips():
    for _, data in CLIPS:
        data.seek(0)
    return CLIPS


@pytest.mark.parametrize("kind", ["tar", "tar.gz", "tar.bz2", "tar.xz"])
def test_an_archive_gives_the_shards_of_its_folder(kind, tmp_path):
    for (info, _), number in zip(CLIPS, range(20), strict=True):
        path = tmp_path / "folder" / info.name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(wav(number))
    mode = "w:" + kind.removeprefix("tar").removeprefix(".")
    archive = pack(tmp_path / f"clips.{kind}", *clips(), mode=mode)
    make(Clips(str(tmp_path / "folder")), tmp_path / "one", workers=1)
    make(Clips(archive), tmp_path / "two", workers=2)
    one, two = found(tmp_path / "one"), found(tmp_path / "two")
    assert one == two
    assert sorted(one) == sorted(NAMES)
    pcm, _ = soundfile.read(io.BytesIO(wav(7)), dtype="int16")
    assert one[NAMES[7]].audio == pcm.tobytes()
    assert not (tmp_path / "two/progress/waiting").exists()


def test_the_audio_of_an_archive_waits_only_until_its_shard_is_complete(tmp_path):
    archive = pack(tmp_path / "clips.tar.gz", *clips())
    folder = tmp_path / "waiting"
    folder.mkdir()
    listing = tasks.survey(Clips(archive), folder)
    planned = listing.cut(4)
    assert [(each.path, each.utterances) for each in planned] == [
        ("train/a-00000.array_record", 4), ("train/a-00001.array_record", 4),
        ("train/a-00002.array_record", 4), ("train/a-00003.array_record", 1),
        ("train/b-00000.array_record", 4), ("train/b-00001.array_record", 3),
    ]  # fmt: skip
    most = 0
    for task in tasks.tasks(planned, Task("root", "", "", "", "pcm16", ()), folder):
        lying = [path for spool in folder.iterdir() if spool.is_dir() for path in spool.iterdir()]
        most = max(most, len(lying))
        own = list(Path(task.spool).iterdir())
        assert len(own) == len(task.utterances)
        for path in own:
            path.unlink()
    assert most <= 2 * 4  # a shard of each language


def test_archives_in_archives(tmp_path):
    inner = pack(tmp_path / "inner.tar.gz", member("x/a1.wav", wav(1)), member("notes.txt", b"n"))
    data = Path(inner).read_bytes()
    outer = pack(tmp_path / "outer.tar", member("a0.wav", wav(0)), member("deep/inner.tgz", data),
                 member("b2.wav", wav(2)), mode="w")  # fmt: skip
    tree = open_source(outer)
    inside = ("deep/inner.tgz/x/a1.wav", "deep/inner.tgz/notes.txt")
    assert tree.names == ("a0.wav", *inside, "b2.wav")
    assert list(tree.lines(inside[1])) == [(1, "n")]
    make(Clips(outer), tmp_path / "out", workers=1)
    assert sorted(found(tmp_path / "out")) == ["a0", "a1", "b2"]


def test_what_is_not_safe_is_refused_by_rule(tmp_path):
    link = {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}
    archive = pack(
        tmp_path / "evil.tar.gz",
        member("../up.wav", b"1"), member("/etc/absolute.wav", b"2"), member("a/../../b.wav", b"3"),
        member("C:\\windows.wav", b"4"), member("link.wav", **link),
        member("hard.wav", type=tarfile.LNKTYPE, linkname="../up.wav"),
        member("device", type=tarfile.CHRTYPE), member("good.txt", "é\r\nb".encode()),
    )  # fmt: skip
    tree = open_source(archive)
    assert tree.names == ("good.txt",)
    assert dict(tree.refused) == {
        "../up.wav": "name that leads out of its archive",
        "/etc/absolute.wav": "absolute name in an archive",
        "a/../../b.wav": "name that leads out of its archive",
        "C:\\windows.wav": "absolute name in an archive",
        "link.wav": "link in an archive",
        "hard.wav": "link in an archive",
        "device": "device in an archive",
    }
    assert list(tree.lines("good.txt")) == [(1, "é"), (2, "b")]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["evil.tar.gz"]


def test_oversized_members_and_bombs(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "LARGEST", 1000)
    archive = pack(tmp_path / "large.tar", member("large.wav", bytes(1001)), mode="w")
    assert dict(open_source(archive).refused)["large.wav"].endswith("1001 bytes")
    monkeypatch.setattr(archives, "SLACK", 1 << 20)
    bomb = tmp_path / "bomb.tar.gz"
    with gzip.open(bomb, "wb") as file:
        for number in range(40):
            info = tarfile.TarInfo(f"{number}.txt")
            info.size = 1 << 18
            file.write(info.tobuf() + bytes(info.size))
    with pytest.raises(CorpusError, match="decompression bomb"):
        open_source(bomb)
    header = tarfile.TarInfo("header")
    header.type, header.size = tarfile.XHDTYPE, 1 << 24
    with gzip.open(bomb, "wb") as file:
        file.write(header.tobuf() + bytes(header.size))
    with pytest.raises(CorpusError, match="a header of 16777216 bytes"):
        open_source(bomb)


@pytest.mark.parametrize("keep", [0.3, 0.7, 0.999])
def test_a_truncated_archive_is_refused(keep, tmp_path):
    whole = Path(pack(tmp_path / "whole.tar.gz", *clips())).read_bytes()
    cut = tmp_path / "cut.tar.gz"
    cut.write_bytes(whole[: int(keep * len(whole))])
    with pytest.raises(CorpusError, match=r"cut.tar.gz is damaged or truncated .* download it"):
        open_source(cut)
    cut.write_bytes(np.random.default_rng(0).bytes(5_000))
    with pytest.raises(CorpusError, match="damaged or truncated"):
        open_source(cut)


def test_lines(tmp_path):
    (tmp_path / "a.tsv").write_bytes(b'\xef\xbb\xbfpath\ttext\r\n\r\nx\t"y\rz\nlast')
    (tmp_path / "long.tsv").write_bytes(b"a\n" + b"x" * (50 << 20) + b"\nb\n" + b"y" * (1 << 20))
    (tmp_path / "latin.tsv").write_bytes(b"caf\xe9\n")
    tree = open_source(tmp_path)
    assert list(tree.lines("a.tsv")) == [(1, "path\ttext"), (2, ""), (3, 'x\t"y\rz'), (4, "last")]
    assert [(n, line and len(line)) for n, line in tree.lines("long.tsv")] == [
        (1, 1), (2, None), (3, 1), (4, 1 << 20)
    ]  # fmt: skip
    with pytest.raises(CorpusError, match="latin.tsv .* is no UTF-8 text"):
        list(tree.lines("latin.tsv"))
    with pytest.raises(CorpusError, match="has no file b.tsv"):
        list(tree.lines("b.tsv"))
    with pytest.raises(CorpusError, match="neither a folder nor an archive"):
        open_source(tmp_path / "a.tsv")
    with pytest.raises(CorpusError, match="no folder or archive"):
        open_source(tmp_path / "nothing")
