"""What an unfinished preparation has on disk: the plan, one commit a shard, and the lock.

    <output>/progress/plan.json            what is being prepared: a resumed run must match it
    <output>/progress/lock                 held by the one process that writes (a lease in a store)
    <output>/progress/<shard>.json         what became of one shard; see ``Commit``
    <output>/progress/waiting              what waits for a worker, while there is one

They stay when the corpus is finished, for repairs, and may then be deleted.
"""

import contextlib
import dataclasses
import fcntl
import json
import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path

from xlsr_jax import storage
from xlsr_jax.data import records
from xlsr_jax.data.records import CorpusError, Shard

PROGRESS = "progress"
WAITING = "waiting"


class AnotherWriter(CorpusError):
    """Another process is writing the corpus."""


@dataclasses.dataclass(frozen=True)
class Commit:
    """What became of one planned shard.

    Attributes:
      shard: None where no utterance was usable.
      size: of the shard file in bytes.
      rejected: {id, split, language, reason} of the utterances set aside.
      speakers: names of the records' speakers, sorted, "" among them where some are unknown.
    """

    shard: Shard | None
    size: int
    rejected: tuple[Mapping[str, str], ...]
    speakers: tuple[str, ...]

    def save(self, root: str | os.PathLike[str], path: str) -> None:
        """Commits the shard planned at ``path``; to be called when its files are written."""
        document = json.dumps(dataclasses.asdict(self)).encode()
        file = _commit_path(root, path)
        storage.make_folder(file.parent)
        records.write_atomically(file, document)

    @staticmethod
    def load(root: str | os.PathLike[str], path: str) -> "Commit | None":
        """The commit of ``path`` if its files are there with the committed sizes, else None."""
        try:
            document = json.loads(_commit_path(root, path).read_text())
            shard = Shard(**document["shard"]) if document["shard"] else None
            if shard is not None:
                if storage.size(storage.at(root) / path) != document["size"]:
                    return None
                records.read_lengths(root, [shard])
            rejected, speakers = tuple(document["rejected"]), tuple(document["speakers"])
            return Commit(shard, document["size"], rejected, speakers)
        except (OSError, ValueError, KeyError, TypeError):  # CorpusError is a ValueError
            return None


def _commit_path(root: str | os.PathLike[str], path: str) -> Path:
    return storage.at(root) / PROGRESS / (path.removesuffix(".array_record") + ".json")


@contextlib.contextmanager
def only_writer(root: Path) -> Iterator[Callable[[], None]]:
    """Holds ``root`` for this process while the context lasts.

    The lock is the kernel's: it ends with its process, however that ends, so none goes stale. In
    an object store it is a ``storage.Lease``, and a killed process leaves it to go stale. The
    context gives a function that raises ``AnotherWriter`` where the lock was lost meanwhile, as
    only a lease can be. Where nothing was claimed in the end, nothing is left.

    Raises:
      AnotherWriter: while another process holds it.
      CorpusError: where ``root`` cannot be written, or holds files that are no preparation.
    """
    holder = f"process {os.getpid()} on {socket.gethostname()}"
    if storage.is_remote(root):
        with _leased(root, holder) as check:
            yield check
        return
    folder, made = root / PROGRESS, not root.exists()
    try:
        _refuse_strangers(root, os.listdir(root) if root.exists() else [])
        folder.mkdir(parents=True, exist_ok=True)
        file = open(folder / "lock", "a+")  # noqa: SIM115
    except OSError as error:
        raise CorpusError(f"cannot write in {root}: {error.strerror}") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise _another(root, file.read().strip() or "another process") from error
        file.truncate(0)
        file.write(f"{holder}\n")
        file.flush()
        try:
            yield lambda: None
        finally:
            if not (folder / "plan.json").exists():
                shutil.rmtree(root if made else folder, ignore_errors=True)


def _refuse_strangers(root: Path, names: Collection[str]) -> None:
    if names and PROGRESS not in names:
        raise CorpusError(
            f"{root} is not empty and no preparation of ours began there (it has "
            f"{min(names)}); use another --output"
        )


def _another(root: Path, holder: object) -> AnotherWriter:
    return AnotherWriter(
        f"{root} is being prepared by {holder}; wait for it, or use another --output"
    )


@contextlib.contextmanager
def _leased(root: Path, holder: str) -> Iterator[Callable[[], None]]:
    try:
        names = [path.name for path in root.iterdir() if path.name]
    except FileNotFoundError:
        names = []
    except Exception as error:  # each store has its own kinds
        raise CorpusError(f"cannot read {root}: {storage.reason(error)}") from error
    _refuse_strangers(root, names)
    lease = storage.Lease(root / PROGRESS / "lock", holder)

    def check() -> None:
        try:
            lease.check()
        except storage.LeaseHeld as held:
            raise _another(root, held) from held

    try:
        lease.take()
    except storage.LeaseHeld as held:
        raise _another(root, held) from held
    try:
        yield check
    finally:
        lease.give_back()


def claim(root: Path, plan: Mapping[str, str]) -> None:
    """Writes the plan, or holds this run against the plan that an earlier run wrote.

    Raises:
      CorpusError: naming what changed since.
    """
    path = root / PROGRESS / "plan.json"
    before = _plan(root)
    if before is None:
        records.write_atomically(path, json.dumps(plan, indent=1).encode())
        return
    changed = changes(before, plan)
    if changed:
        raise CorpusError(
            f"{root} was begun with {changed}; use another --output, or --overwrite to begin again"
        )
    for partial in () if storage.is_remote(root) else root.rglob("*.partial-*"):
        partial.unlink(missing_ok=True)  # of a worker that was killed


@contextlib.contextmanager
def waiting(root: Path) -> Iterator[Path]:
    """A local folder for what waits to be worked on, gone afterwards, that of a killed run before.

    It is ``WAITING`` of ``root``, which is emptied with it; a temporary one for an object store.
    """
    folder = root / PROGRESS / WAITING
    storage.remove_tree(folder)
    try:
        if storage.is_remote(root):
            with tempfile.TemporaryDirectory(prefix="xlsr_jax-waiting-") as local:
                yield Path(local)
        else:
            folder.mkdir(parents=True)
            yield folder
    finally:
        storage.remove_tree(folder)


def clear(root: Path) -> None:
    """Removes what a preparation wrote in ``root``, finished or not, and nothing else."""
    plan = _plan(root)
    if plan is None:
        return
    (root / records.MANIFEST).unlink(missing_ok=True)  # first: what is left is no whole corpus
    for split in plan.get("splits", "").split():
        storage.remove_tree(root / split)
        storage.remove_tree(root / PROGRESS / split)
    (root / records.REJECTED).unlink(missing_ok=True)
    (root / PROGRESS / "plan.json").unlink()


def _plan(root: Path) -> dict[str, str] | None:
    path = root / PROGRESS / "plan.json"
    if not path.exists():
        return None
    try:
        return dict(json.loads(path.read_text()))
    except ValueError as error:
        raise CorpusError(f"{path} is damaged; use another --output") from error


def changes(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """'encoding pcm16 (now flac) and ...' for every key that differs; '' for none."""
    keys = [key for key in {**before, **now} if before.get(key) != now.get(key)]
    return " and ".join(
        f"{key} {before.get(key, 'unset')} (now {now.get(key, 'unset')})" for key in keys
    )
