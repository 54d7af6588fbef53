"""Corpora in an object store: the bytes of a local one, one writer at a time, nothing half there.

The store is the stand-in of ``tests/store.py``.
"""

import dataclasses
import functools
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.parse
from pathlib import Path

import numpy as np
import pytest
from test_prepare import Counting, contents, make, speak

from tests.store import Store
from xlsr_jax import prepare as entry
from xlsr_jax import storage
from xlsr_jax.data import records
from xlsr_jax.data.records import CorpusError, Manifest, Record
from xlsr_jax.preparation import prepare, progress, workers

ROOT = "gs://bucket/deep/corpus"


def here(function, tasks, count):
    """Does in this process what ``workers.run`` has processes for."""
    yield from ((task, function(task)) for task in tasks)


@pytest.fixture
def store(tmp_path, monkeypatch):
    """The folder of the objects' files."""
    folder = tmp_path / "objects"
    folder.mkdir()
    monkeypatch.setenv("OBJECTS", str(folder))
    monkeypatch.delenv(storage.CACHE, raising=False)
    monkeypatch.setattr(storage, "SETTLED", 0.05)
    monkeypatch.setattr(prepare, "run", here)
    return folder


def objects(root: str = ROOT) -> dict[str, bytes]:
    """All objects of a corpus."""
    prefix = root.removeprefix("gs://") + "/"
    names = {urllib.parse.unquote(name): name for name in os.listdir(os.environ["OBJECTS"])}
    return {
        name.removeprefix(prefix): Path(os.environ["OBJECTS"], file).read_bytes()
        for name, file in names.items()
        if name.startswith(prefix)
    }


def said(number: int, pause: float):
    """``speak``, in this module, which a worker must import for the store."""
    return speak(number, pause)


@dataclasses.dataclass(frozen=True)
class Stored(Counting):
    """``Counting`` for workers that write to the store."""

    def utterances(self, split):
        return [
            dataclasses.replace(each, load=functools.partial(said, *each.load.args))
            for each in super().utterances(split)
        ]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The same corpus in a local folder."""
    root = tmp_path_factory.mktemp("whole") / "corpus"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepare, "run", here)
        make(Stored(), root)
    return root


def test_a_corpus_in_a_store_is_that_of_a_folder_byte_by_byte(store, whole, capsys, monkeypatch):
    monkeypatch.setattr(prepare, "run", workers.run)
    manifest = make(Stored(), ROOT, workers=2)
    assert objects() == contents(whole)  # no lock, nothing waiting, nothing partial
    assert Manifest.load(ROOT) == manifest == Manifest.load(whole)
    for ours, theirs in zip(
        records.read_lengths(ROOT, manifest.shards),
        records.read_lengths(whole, manifest.shards),
        strict=True,
    ):
        np.testing.assert_array_equal(ours, theirs)
    assert entry.main(["check", "--output", ROOT]) == 0
    assert f"shards of {ROOT} agree" in capsys.readouterr().out


def test_a_corpus_in_a_store_is_repaired_and_not_made_again(store, whole):
    manifest = make(Stored(), ROOT)
    first, second = (storage.at(ROOT) / shard.path for shard in manifest.shards[:2])
    first.write_bytes(b"x")
    second.unlink()
    assert records.damage(ROOT, manifest.shards) == [
        f"{manifest.shards[0].path} differs from its checksum",
        f"{manifest.shards[1].path} is missing",
    ]
    before = {path: path.stat().st_mtime_ns for path in store.iterdir()}
    make(Stored(), ROOT)
    assert objects() == contents(whole)
    made = {path.name for path in store.iterdir() if before.get(path) != path.stat().st_mtime_ns}
    assert len([name for name in made if name.endswith(".array_record")]) == 2


def test_another_plan_is_refused_and_overwriting_touches_no_stranger(store, tmp_path):
    make(Stored(), ROOT)
    with pytest.raises(CorpusError, match=r"gs://bucket/deep/corpus was begun with count 40 \(now"):
        make(Stored(12), ROOT)
    (storage.at(ROOT) / "notes.txt").write_bytes(b"mine")
    make(Stored(12), ROOT, overwrite=True)
    make(Stored(12), tmp_path / "fresh")
    assert objects() == contents(tmp_path / "fresh") | {"notes.txt": b"mine"}


def test_objects_of_others_are_left_alone(store):
    (storage.at(ROOT) / "thesis.txt").write_bytes(b"mine")
    with pytest.raises(CorpusError, match="is not empty .*thesis.txt"):
        make(Stored(), ROOT)
    assert objects() == {"thesis.txt": b"mine"}


KILLED = """
import sys
sys.path[:0] = [{root!r}, {tests!r}]
from test_storage import ROOT, Stored, make, storage
if __name__ == "__main__":
    storage.SETTLED = 0.05
    make(Stored(pause=0.03), ROOT, workers=1)
"""


def test_killed_it_keeps_its_lease_for_a_while_and_then_another_goes_on(
    store, whole, tmp_path, root
):
    script = tmp_path / "killed.py"
    script.write_text(KILLED.format(root=str(root), tests=str(Path(__file__).parent)))
    process = subprocess.Popen([sys.executable, str(script)])
    deadline = time.monotonic() + 100
    while len([name for name in objects() if name.endswith(".array_record")]) < 2:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    time.sleep(0.5)  # its worker notices
    assert "manifest.json" not in objects() and "progress/lock" in objects()
    before = {path: path.stat().st_mtime_ns for path in store.iterdir()}
    with pytest.raises(
        progress.AnotherWriter, match=f"prepared by process {process.pid} on .* 120"
    ):
        make(Stored(), ROOT)
    lock = storage.at(ROOT) / "progress/lock"
    document = json.loads(lock.read_bytes())
    lock.write_bytes(json.dumps(document | {"renewed": time.time() - storage.STALE - 1}).encode())
    make(Stored(), ROOT)
    assert objects() == contents(whole)
    committed = [path for path in before if "%2Ftrain%2F" in path.name and "json" in path.name]
    assert committed and all(path.stat().st_mtime_ns == before[path] for path in committed)


def test_of_two_writers_that_come_at_once_one_stays(store, monkeypatch):
    monkeypatch.setattr(storage, "SETTLED", 1.5)
    barrier, won, lost, found = threading.Barrier(2), [], [], storage.Lease._found

    def together(lease):
        """Both see that nobody holds it before either writes."""
        seen = found(lease)
        if not seen:
            barrier.wait()
        return seen

    monkeypatch.setattr(storage.Lease, "_found", together)

    def write(name):
        lease = storage.Lease(storage.at("gs://bucket/lock"), name)
        try:
            lease.take()
        except storage.LeaseHeld as held:
            lost.append(str(held))
            return
        won.append(lease)

    threads = [threading.Thread(target=write, args=(name,)) for name in ("first", "second")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1 and len(lost) == 1
    assert lost[0].startswith(f"{won[0].holder}, last heard of ")
    won[0].check()
    with pytest.raises(storage.LeaseHeld, match=won[0].holder):
        storage.Lease(storage.at("gs://bucket/lock"), "third").take()
    won[0].give_back()
    assert os.listdir(store) == []


def test_a_lease_is_renewed_and_a_lost_one_noticed(store, monkeypatch):
    monkeypatch.setattr(storage, "RENEWED", 0.02)
    path = storage.at("gs://bucket/lock")
    lease = storage.Lease(path, "first")
    lease.take()
    begun, deadline = json.loads(path.read_bytes())["renewed"], time.monotonic() + 20
    while json.loads(path.read_bytes())["renewed"] < begun + 0.1:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    lease.check()
    theirs = {"holder": "second", "token": "t", "renewed": time.time()}
    while lease._thread.is_alive():  # whichever of a renewal and this comes last
        assert time.monotonic() < deadline
        path.write_bytes(json.dumps(theirs).encode())
        time.sleep(0.05)
    with pytest.raises(storage.LeaseHeld, match="second"):
        lease.check()
    lease.give_back()
    assert json.loads(path.read_bytes()) == theirs  # not ours to remove


def test_a_lease_that_cannot_be_renewed_is_lost(store, monkeypatch):
    lease = storage.Lease(storage.at("gs://bucket/lock"), "first")
    lease.take()
    monkeypatch.setattr(storage, "STALE", 0.0)
    with pytest.raises(storage.LeaseHeld, match="could not be renewed"):
        lease.check()
    lease.give_back()


def take_over(number: int, pause: float):
    """A reader during whose work somebody else takes the lease."""
    theirs = {"holder": "a thief", "token": "t", "renewed": time.time()}
    for _ in range(20):
        (storage.at(ROOT) / "progress/lock").write_bytes(json.dumps(theirs).encode())
        time.sleep(0.05)
    return speak(0, pause)


@dataclasses.dataclass(frozen=True)
class Robbed(Stored):
    """Of which the first utterance robs the driver."""

    def utterances(self, split):
        first, *rest = super().utterances(split)
        return [dataclasses.replace(first, load=functools.partial(take_over, 0, 0.0)), *rest]


def test_who_lost_the_lease_writes_no_manifest(store, monkeypatch):
    monkeypatch.setattr(storage, "RENEWED", 0.02)
    with pytest.raises(progress.AnotherWriter, match="is being prepared by a thief, last heard of"):
        make(Robbed(), ROOT)
    assert "manifest.json" not in objects()
    assert json.loads(objects()["progress/lock"])["holder"] == "a thief"


def test_shards_are_read_from_copies_by_their_checksum(store, whole, tmp_path, monkeypatch):
    manifest = make(Stored(), ROOT)
    monkeypatch.setenv(storage.CACHE, str(tmp_path / "copies"))
    shards = manifest.split("train")
    for again in (False, True):
        if again:  # read from the copies alone
            for shard in shards:
                (storage.at(ROOT) / shard.path).unlink()
        source, local = records.open_shards(ROOT, shards), records.open_shards(whole, shards)
        read = [Record.from_bytes(source[i]) for i in range(len(source))]
        assert read == [Record.from_bytes(local[i]) for i in range(len(local))]
    assert {path.name for path in (tmp_path / "copies").iterdir()} == {
        f"{shard.sha256}.array_record" for shard in shards
    }
    monkeypatch.setenv(storage.CACHE, str(tmp_path / "others"))
    (storage.at(ROOT) / shards[0].path).write_bytes(b"x" * 100)
    with pytest.raises(CorpusError, match="es-00000.array_record differs from its checksum"):
        records.open_shards(ROOT, shards[:1])
    with pytest.raises(CorpusError, match="cannot fetch .*es-00001.*others"):
        records.open_shards(ROOT, shards[1:2])
    assert list((tmp_path / "others").iterdir()) == []


def test_without_a_folder_for_copies_array_record_is_given_the_objects(store, monkeypatch):
    manifest = make(Stored(12), ROOT)
    asked = []

    def source(paths):
        asked.extend(paths)
        raise RuntimeError("no such scheme")

    monkeypatch.setattr("grain.sources.ArrayRecordDataSource", source)
    with pytest.raises(
        CorpusError, match="no such scheme.*or set XLSR_JAX_CACHE to a local folder"
    ):
        records.open_shards(ROOT, manifest.shards)
    assert asked == [f"{ROOT}/{shard.path}" for shard in manifest.shards]


def test_a_store_that_refuses_is_one_clear_line(store, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Forbidden: no storage.objects.create")

    monkeypatch.setattr(Store, "_open", refuse)
    with pytest.raises(CorpusError, match=f"cannot write {ROOT}/x: Forbidden.*; mend that and run"):
        storage.write_atomically(storage.at(ROOT) / "x", b"")


def test_a_store_without_its_package_says_what_to_install():
    with pytest.raises(CorpusError, match="no way to reach nosuch: .*pip install gcsfs"):
        storage.at("nosuch://bucket/corpus")


def test_local_paths_load_nothing_of_a_store(tmp_path):
    check = (
        "import sys; from xlsr_jax import storage; from xlsr_jax.data import records\n"
        "assert type(storage.at(sys.argv[1])).__module__ == 'pathlib'\n"
        "storage.write_atomically(storage.at(sys.argv[1]), b'x')\n"
        "print(sorted({'etils', 'fsspec', 'apache_beam'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", check, str(tmp_path / "x")]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "[]\n"
