"""Beam's pipeline: the shards, manifest and commits of local processes, and taken over by them."""

import dataclasses
import functools
import pickle
import sys
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile
from test_prepare import contents, make
from test_storage import ROOT, Stored, here, objects, store  # noqa: F401

from xlsr_jax import prepare as entry
from xlsr_jax.data import audio
from xlsr_jax.data.records import CorpusError, Manifest
from xlsr_jax.preparation import beam, prepare
from xlsr_jax.preparation.archives import open_source
from xlsr_jax.preparation.corpora.base import Utterance, refused
from xlsr_jax.preparation.corpora.folder import Folder
from xlsr_jax.preparation.progress import Commit


def recordings(folder: Path) -> None:
    """14 files in two languages, one of them no audio."""
    for language, count in (("es", 9), ("fr", 5)):
        (folder / language).mkdir(parents=True)
        for number in range(count):
            rng = np.random.default_rng([number, count])
            tone = 0.1 * rng.standard_normal(4_000 + 10 * number).astype(np.float32)
            soundfile.write(folder / language / f"{number}.flac", tone, 16_000)
    (folder / "es/4.flac").write_bytes(b"no sound")


@dataclasses.dataclass(frozen=True)
class Archived:
    """Utterances of archives: each file one, and the first of each archive once more at the end.

    The shards of the language of an archive are then brought by reading that archive; those of
    "mixed" by reading all, which ties them together where ``mixed``.
    """

    sources: tuple[str, ...]
    mixed: bool = False
    name: str = "archived"

    def splits(self) -> Sequence[str]:
        return ("train",)

    def utterances(self, split: str):
        trees = [open_source(source) for source in self.sources]
        for tree in trees:
            for name in tree.names:
                fields = tree.audio(name, functools.partial(audio.decode, max_seconds=60.0))
                yield Utterance(name, name.split("/")[0], text=name, **fields)
            yield Utterance(f"{name}-gone", name.split("/")[0], refused("missing clip: none"))
        for tree in trees:
            language = "mixed" if self.mixed else tree.names[0].split("/")[0]
            fields = tree.audio(tree.names[0], functools.partial(audio.decode, max_seconds=60.0))
            yield Utterance(f"{tree.names[0]}-again", language, **fields)

    def fingerprint(self) -> Mapping[str, str]:
        return {"mixed": str(self.mixed)}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A folder of recordings, and an archive of each of its languages beside it."""
    folder = tmp_path_factory.mktemp("source") / "recordings"
    recordings(folder)
    for language in ("es", "fr"):
        with tarfile.open(folder.parent / f"{language}.tar.gz", "w:gz") as tar:
            for path in sorted((folder / language).iterdir()):
                tar.add(path, f"{language}/{path.name}")
    return folder


@pytest.fixture(scope="module")
def corpora(source, tmp_path_factory):
    """{name: (corpus, what local processes make of it)}."""
    archives = tuple(str(source.parent / f"{language}.tar.gz") for language in ("es", "fr"))
    made = {
        "folder": Folder(str(source), split="train"),
        "archives": Archived(archives),
        "mixed": Archived(archives, mixed=True),
    }
    root = tmp_path_factory.mktemp("local")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepare, "run", here)
        for name, corpus in made.items():
            make(corpus, root / name, utterances_per_shard=4)
    return {name: (corpus, contents(root / name)) for name, corpus in made.items()}


def by_hand(todo, blank, runner, flags):
    """The pipeline's steps without Beam; every element passes through bytes, and comes twice."""
    assert (runner, tuple(flags)) == ("Hand", ("--speed=1",))
    there_and_back = lambda element: pickle.loads(pickle.dumps(element))  # noqa: E731
    groups = beam.groups(beam.lay(todo, blank))
    ready = [each for group in groups for each in beam.brought(there_and_back(group))]
    places = [beam.make(there_and_back(each)) for each in [*ready, *ready]]
    assert places == 2 * [each.task.path for each in ready]
    assert sorted(set(places)) == sorted(each.path for each in todo)


@pytest.mark.parametrize("name", ["folder", "archives", "mixed"])
def test_the_steps_make_what_local_processes_make(corpora, name, tmp_path, monkeypatch):
    monkeypatch.setattr(beam, "run", by_hand)
    corpus, expected = corpora[name]
    flags = {"runner": "Hand", "runner_flags": ["--speed=1"], "utterances_per_shard": 4}
    manifest = make(corpus, tmp_path / "out", **flags)
    assert contents(tmp_path / "out") == expected
    assert sum(shard.utterances for shard in manifest.shards) >= 13
    aside = manifest.rejected["train"]["es"]
    assert aside == ({"not audio": 1} if name == "folder" else {"not audio": 1, "missing clip": 1})


def test_in_a_store_too_and_nothing_is_left_waiting(corpora, store, monkeypatch):  # noqa: F811
    monkeypatch.setattr(beam, "run", by_hand)
    flags = {"runner": "Hand", "runner_flags": ["--speed=1"], "utterances_per_shard": 4}
    for name, (corpus, expected) in corpora.items():
        make(corpus, f"{ROOT}-{name}", **flags)
        assert objects(f"{ROOT}-{name}") == expected


def test_what_one_way_left_the_other_finishes(corpora, tmp_path, monkeypatch):
    monkeypatch.setattr(beam, "run", by_hand)
    monkeypatch.setattr(prepare, "run", here)
    flags = {"runner": "Hand", "runner_flags": ["--speed=1"]}
    corpus, expected = corpora["archives"]
    root, kept = tmp_path / "out", {}
    for kind in (flags, {}, flags):
        make(corpus, root, utterances_per_shard=4, **kind)
        assert contents(root) == expected
        mtimes = {path: path.stat().st_mtime_ns for path in root.rglob("*.array_record")}
        assert all(mtimes[path] == before for path, before in kept.items())
        shards = sorted(mtimes)
        (root / "progress/train" / f"{shards[0].stem}.json").unlink()
        shards[-1].unlink()
        kept = {path: mtimes[path] for path in shards[1:-1]}


def test_shards_of_the_same_archives_go_together():
    def shard(*archives):
        return beam.Waiting(None, (str(archives), 1), archives)

    alone, a, b, c, ab = shard(), shard("a"), shard("b"), shard("c"), shard("a", "b")
    assert beam.groups([alone, a, b, alone]) == [(alone,), (a,), (b,), (alone,)]
    assert beam.groups([a, a, c]) == [(a, a), (c,)]
    assert [set(group) for group in beam.groups([a, b, c, ab])] == [{c}, {a, b, ab}]


def test_without_beam_the_mend_is_named(corpora, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    source = corpora["folder"][0].source
    command = ["folder", "--source", source, "--split=train", "--output", str(tmp_path / "out")]
    assert entry.main([*command, "--runner=DirectRunner"]) == 1
    assert "--runner=DirectRunner needs Apache Beam" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        entry.main([*command, "--", "--region=here"])
    assert "name its --runner" in capsys.readouterr().err


DIRECT = ["--runner=DirectRunner", "--utterances-per-shard=4", "--"]
LOCAL = ["--direct_num_workers=1", "--direct_running_mode=in_memory"]
# Else DirectRunner downloads the Prism runner where it can, and runs that.
LOCAL.append("--update_compatibility_version=2.70.0")


@pytest.mark.parametrize("name", ["folder", "archives"])
def test_a_pipeline_makes_what_local_processes_make(corpora, name, tmp_path, monkeypatch):
    pytest.importorskip("apache_beam")
    corpus, expected = corpora[name]
    command = ["folder", "--source=unused", "--output", str(tmp_path / "out"), *DIRECT, *LOCAL]
    monkeypatch.setattr("xlsr_jax.preparation.corpora.folder.from_flags", lambda options: corpus)
    assert entry.main(command) == 0
    assert contents(tmp_path / "out") == expected


def test_a_pipeline_writes_to_a_store(store):  # noqa: F811
    pytest.importorskip("apache_beam")
    manifest = make(Stored(12), ROOT, runner="DirectRunner", runner_flags=LOCAL)
    paths = [shard.path for shard in manifest.shards]
    assert Manifest.load(ROOT) == manifest
    assert all(Commit.load(ROOT, path).shard.path == path for path in paths)
    assert not [name for name in objects() if "waiting" in name or "lock" in name]


def test_an_error_of_a_worker_comes_out_as_a_line(tmp_path, monkeypatch):
    pytest.importorskip("apache_beam")

    def broken(commit, root, path):
        raise CorpusError(f"cannot write {path}: the disk is full")

    monkeypatch.setattr(Commit, "save", broken)
    with pytest.raises(CorpusError) as error:
        make(Stored(3), tmp_path / "out", runner="DirectRunner", runner_flags=LOCAL)
    assert str(error.value) == "cannot write train/es-00000.array_record: the disk is full"


def test_a_runner_that_there_is_not_is_named(tmp_path):
    pytest.importorskip("apache_beam")
    with pytest.raises(CorpusError, match="--runner=NoSuch: Unexpected pipeline runner"):
        make(Stored(3), tmp_path / "out", runner="NoSuch")
