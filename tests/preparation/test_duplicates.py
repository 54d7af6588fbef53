"""Duplicates: the first stays, nothing that differs goes, and no kill changes what comes out."""

import dataclasses
import functools
import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from xlsr_jax.data import records
from xlsr_jax.data.records import CorpusError, Manifest, Record
from xlsr_jax.data.speech import Speech
from xlsr_jax.preparation import card, duplicates, prepare, processing, progress
from xlsr_jax.preparation.corpora.base import Utterance
from xlsr_jax.preparation.processing import Processing

DROP = Processing(duplicates="drop")
# (split, language, seed of the audio) of each utterance, three a shard: es-00001 has nothing of its
# own, fr and test repeat what es has, and the fourth of es repeats within its own shard.
GIVEN = (
    [("train", "es", seed) for seed in (1, 2, 2, 1, 1, 2, 3, 4, 5)]
    + [("train", "fr", seed) for seed in (6, 3, 7)]
    + [("test", "es", seed) for seed in (8, 6, 9, 10)]
)


def sound(seed: int, changed: bool = False) -> Speech:
    pcm = np.random.default_rng(seed).integers(-9_000, 9_000, 4_000)
    pcm[1_000] += changed
    return Speech((pcm / 32768).astype(np.float32), 16_000)


@dataclasses.dataclass(frozen=True)
class Repeating:
    """``GIVEN``, each with a label of its own."""

    given: tuple[tuple[str, str, int], ...] = tuple(GIVEN)
    name: str = "repeating"

    def splits(self) -> Sequence[str]:
        return ("train", "test")

    def utterances(self, split: str) -> list[Utterance]:
        return [
            Utterance(
                f"{split}-{language}-{number}", language, functools.partial(sound, seed),
                text=f"text {number}", speaker=f"s{number}",
            )
            for number, (where, language, seed) in enumerate(self.given)
            if where == split
        ]  # fmt: skip

    def fingerprint(self) -> Mapping[str, str]:
        return {}


@dataclasses.dataclass(frozen=True)
class Listed(Repeating):
    """Given utterances, for what they are."""

    listed: tuple[Utterance, ...] = ()

    def utterances(self, split: str) -> list[Utterance]:
        return list(self.listed) if split == "train" else []


def contents(root) -> dict[str, bytes]:
    """All files of the corpus but the lock and the page about it."""
    root = Path(root)
    page = {"README.md", "card", "lock"}
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and not page & set(path.relative_to(root).parts)
    }


def found(root) -> dict[str, Record]:
    manifest = Manifest.load(root)
    source = records.open_shards(root, manifest.shards)
    made = (Record.from_bytes(source[number]) for number in range(len(source)))
    return {record.id: record for record in made}


def aside(root) -> dict[str, str]:
    lines = (Path(root) / "rejected.jsonl").read_text().splitlines()
    return {line["id"]: line["reason"] for line in map(json.loads, lines)}


def make(corpus, root, processing=DROP, workers=1, **options):
    return prepare.prepare(
        corpus, root, processing=processing, workers=workers, utterances_per_shard=3,
        progress_bar=False, **options,
    )  # fmt: skip


def here_and_now(put):
    """Shards are made in this process and no page about them, which takes less time."""
    put(prepare, "run", one_by_one)
    put(duplicates, "run", one_by_one)
    put(card, "write", lambda *_: None)


def one_by_one(function, tasks, count):
    return ((task, function(task)) for task in tasks)


@pytest.fixture
def here(monkeypatch):
    here_and_now(monkeypatch.setattr)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The corpus without duplicates, by two processes."""
    root = tmp_path_factory.mktemp("whole") / "corpus"
    make(Repeating(), root, workers=2)
    return root


def test_the_first_of_each_sound_stays_and_the_others_are_set_aside(whole, here, tmp_path):
    make(Repeating(), tmp_path / "all", Processing())
    everything = found(tmp_path / "all")  # in the order of the shards
    assert len(everything) == len(GIVEN)
    first, expected = {}, {}
    for identity, record in everything.items():
        if record.audio in first:
            expected[identity] = f"duplicate: of {first[record.audio]}"
        first.setdefault(record.audio, identity)
    assert expected["train-fr-10"] == "duplicate: of train-es-6"
    assert expected["test-es-13"] == "duplicate: of train-fr-9"
    kept = {name: record for name, record in everything.items() if name not in expected}
    assert found(whole) == kept and len(kept) == 10
    assert aside(whole) == expected
    manifest = Manifest.load(whole)
    assert manifest.rejected == {
        "train": {"es": {"duplicate": 4}, "fr": {"duplicate": 1}},
        "test": {"es": {"duplicate": 1}},
    }
    assert records.damage(whole, manifest.shards) == []
    paths = {shard.path for shard in manifest.shards}
    assert "train/es-00001.array_record" not in paths  # it held nothing else
    assert paths == {str(path.relative_to(whole)) for path in whole.rglob("*.array_record")}
    assert len(list(whole.rglob("*.samples.npy"))) == len(paths)
    commit = progress.Commit.load(whole, "train/fr-00000.array_record")
    assert commit.speakers == ("s11", "s9")
    assert manifest.made_with["duplicates"].startswith("drop")


def test_only_the_same_samples_are_the_same(here, tmp_path):
    utterance = functools.partial(Utterance, language="es", text="t", speaker="s")
    given = (
        utterance("a", load=functools.partial(sound, 1)),
        utterance("b", load=functools.partial(sound, 1, changed=True)),  # one sample by one step
        utterance("c", load=functools.partial(sound, 2)),
        Utterance("d", "fr", functools.partial(sound, 1), "other", "x"),
    )
    for encoding in ("pcm16", "flac"):
        root = tmp_path / encoding
        make(Listed(listed=given), root, encoding=encoding)
        assert list(found(root)) == ["a", "b", "c"]
        assert aside(root) == {"d": "duplicate: of a"}


def test_pieces_of_recordings_are_compared_as_they_are_written(here, tmp_path):
    (cut,) = processing.cuts(two_sounds().waveform, 24_000)
    parts = (two_sounds, functools.partial(two_sounds, cut), functools.partial(two_sounds, cut + 1))
    given = tuple(Utterance(name, "es", load) for name, load in zip("abc", parts, strict=True))
    make(Listed(listed=given), tmp_path / "c", Processing(segment=1.5, duplicates="drop"))
    assert list(found(tmp_path / "c")) == ["a#0000", "a#0001", "c"]
    assert aside(tmp_path / "c") == {"b": "duplicate: of a#0001"}


def two_sounds(start: int = 0) -> Speech:
    """Two sounds of a second each, from sample ``start`` on."""
    waveform = np.concatenate([np.tile(sound(seed).waveform, 4) for seed in (1, 2)])
    waveform[14_000:18_000] = 0
    return Speech(waveform[start:], 16_000)


def test_a_finished_corpus_is_left_alone_and_a_lost_shard_made_again(whole, here, tmp_path):
    root = tmp_path / "corpus"
    shutil.copytree(whole, root)
    times = {path: path.stat().st_mtime_ns for path in (root / "train").iterdir()}
    make(Repeating(), root)
    assert {path: path.stat().st_mtime_ns for path in (root / "train").iterdir()} == times
    (root / "train/fr-00000.array_record").unlink()
    (root / "progress/train/es-00001.digests.jsonl").unlink()
    (root / "progress/test/es-00000.digests.jsonl").write_text("[")
    make(Repeating(), root)
    assert contents(root) == contents(whole)
    kept = root / "train/es-00002.array_record"
    assert kept.stat().st_mtime_ns == times[kept]


KILLED = """
import os, shutil, sys
import array_record.python.array_record_module, grain.sources, soundfile, soxr  # once for all forks
sys.path.insert(0, {tests!r})
from test_duplicates import Repeating, here_and_now, make
from xlsr_jax.preparation import duplicates

here_and_now(setattr)
count, limit = 0, 0
drop = duplicates.drop

def from_here(*arguments):  # the shards are there, what comes is counted
    os.replace, os.unlink = counted(os.replace), counted(os.unlink)
    return drop(*arguments)

def counted(function):
    def wrapped(name, *others, **options):
        global count
        count += os.path.exists(name)
        if count == limit:
            os._exit(9)
        return function(name, *others, **options)
    return wrapped

duplicates.drop = from_here
code = 9
while code == 9:
    limit += 1
    shutil.copytree({root!r} + "/before", copy := f"{root}/killed-{{limit:02d}}")
    child = os.fork()
    if not child:
        make(Repeating(), copy)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
sys.exit(code)
"""


def test_killed_at_any_write_it_comes_to_the_same(whole, here, tmp_path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(InterruptedError):
        patch.setattr(duplicates, "drop", interrupt)
        make(Repeating(), tmp_path / "before")
    script = tmp_path / "killed.py"
    script.write_text(KILLED.format(tests=str(Path(__file__).parent), root=str(tmp_path)))
    subprocess.run([sys.executable, str(script)], check=True, timeout=120)
    stopped = sorted(tmp_path.glob("killed-*"))
    states = [contents(root) for root in stopped]
    assert len({tuple(sorted(state.items())) for state in states}) >= 12  # kills that differ
    assert sum("manifest.json" not in state for state in states) >= 12
    for root in stopped:
        make(Repeating(), root)
        assert contents(root) == contents(whole), root.name


def interrupt(*_):
    raise InterruptedError


def test_audio_that_changed_since_is_noticed_and_the_next_run_mends_it(whole, here, tmp_path):
    root = tmp_path / "corpus"
    shutil.copytree(whole, root)
    changed = [(s, l, 11 if n == 6 else seed) for n, (s, l, seed) in enumerate(GIVEN)]  # noqa: E741
    other = Repeating(tuple(changed))
    (root / "train/es-00002.array_record").unlink()  # of which fr-00000 has a duplicate
    with pytest.raises(CorpusError, match="since duplicates of train/fr-00000.* run the same"):
        make(other, root)
    make(other, root)
    make(other, tmp_path / "fresh")
    assert contents(root) == contents(tmp_path / "fresh")
    assert "train-fr-10" in found(root)


def test_a_digest_is_of_the_samples_and_stands_still():
    pcm = np.array([0, 1, -1, 32767], "<i2")
    record = Record("a", "es", pcm.tobytes(), "pcm16", 4)
    flac = records.encode_audio(pcm / 32768, "flac")
    assert duplicates.digest(record) == duplicates.digest(Record("b", "fr", flac, "flac", 4, "s"))
    assert duplicates.digest(record) == hashlib.blake2b(pcm.tobytes(), digest_size=8).hexdigest()
