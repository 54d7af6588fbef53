"""Where a corpus or a run lies: in a local folder, or an object store, ``gs://bucket/folder``.

Local paths are ``pathlib`` and nothing else. The others are paths of ``etils.epath``, which asks
gcsfs (or TensorFlow, where that is installed). An object store shows a file when it is whole, knows
no folders, has no kernel to hold a lock, and takes its time for every answer; the functions here
are about these four.
"""

import contextlib
import dataclasses
import functools
import hashlib
import importlib.util
import json
import os
import shutil
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

CACHE = "XLSR_JAX_CACHE"  # environment variable: a local folder for shards of object stores
KEPT = "mend that and run the same command again, all that was finished is kept"
CALLS = 32  # requests to an object store at a time
RENEWED = 20.0  # seconds between two signs of life of a lease's holder
STALE = 120.0  # seconds without one after which a lease is anybody's
SETTLED = 2.0  # seconds after which a lease that was written is read again

Item = TypeVar("Item")
Result = TypeVar("Result")


class CorpusError(ValueError):
    """A prepared corpus that is missing, truncated, or does not hold what was asked of it."""


class StorageError(CorpusError, OSError):
    """A disk or object store that cannot be reached, is full, or refuses."""


def is_remote(path: str | os.PathLike[str]) -> bool:
    """Whether a path is one of an object store."""
    return "://" in os.fspath(path)


def at(path: str | os.PathLike[str]) -> Path:
    """A path to read and write with: ``pathlib``'s own, or ``epath``'s for an object store.

    Raises:
      StorageError: where the package for such a store is not installed.
    """
    if not is_remote(path):
        return Path(path)
    from etils import epath

    scheme = os.fspath(path).split("://")[0]
    _check_backend("gcs" if scheme == "gs" else scheme)
    return epath.Path(os.fspath(path))


@functools.cache
def _check_backend(protocol: str) -> None:
    if importlib.util.find_spec("tensorflow"):
        return
    import fsspec

    try:
        fsspec.get_filesystem_class(protocol)
    except (ImportError, ValueError) as error:
        raise StorageError(
            f"no way to reach {protocol}: {reason(error)}; for gs:// run pip install gcsfs"
        ) from error
    # Others write there too: a listing that is remembered hides what they wrote.
    fsspec.config.conf.setdefault(protocol, {}).setdefault("use_listings_cache", False)


def reason(error: BaseException) -> str:
    """What an error says, in one line."""
    said = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(said.split())


def absolute(path: Path) -> Path:
    """A local path from the root; one of an object store is whole as it is."""
    return path if is_remote(path) else path.absolute()


def reach(path: str | os.PathLike[str]) -> Path:
    """``at(path)``, once its bucket has answered; a folder of a disk need not be there.

    Raises:
      StorageError: no such bucket, or one that may not be listed.
    """
    if is_remote(path):
        bucket = at("/".join(os.fspath(path).split("/")[:3]))
        with refusals("reach", bucket, "mend that and run the same command again"):
            if not bucket.exists():
                raise StorageError(
                    f"there is no {bucket}, or you may not see it; create it, mend its name, or "
                    "log in (gcloud auth application-default login)"
                )
    return at(path)


def make_folder(path: Path) -> None:
    """Makes a folder and those above it, where there are folders."""
    if not is_remote(path):
        path.mkdir(parents=True, exist_ok=True)


def remove_tree(path: Path) -> None:
    """Removes a folder with all that is in it, if it is there."""
    if is_remote(path):
        path.rmtree(missing_ok=True)
    else:
        shutil.rmtree(path, ignore_errors=True)


def size(path: Path) -> int:
    """Bytes of a file; raises ``FileNotFoundError``."""
    status = path.stat()
    return status.length if is_remote(path) else status.st_size


def sha256(path: str | os.PathLike[str]) -> str:
    """Hex digest of a file, read in blocks."""
    with at(path).open("rb") as file:
        if not is_remote(path):
            return hashlib.file_digest(file, "sha256").hexdigest()
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
        return digest.hexdigest()


def write_atomically(path: Path, data: bytes) -> None:
    """Writes a file that appears whole or not at all, also through a kill or a full disk.

    Raises:
      StorageError: where the disk or store is full or refuses.
    """
    with refusals("write", path):
        if is_remote(path):
            path.write_bytes(data)
            return
        with placed(path) as partial, open(partial, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())


@contextlib.contextmanager
def placed(path: Path) -> Iterator[Path]:
    """A local file to write, which comes to ``path`` whole when the context ends without error."""
    name = path.name + f".partial-{os.getpid()}"
    if is_remote(path):
        from etils import epath

        with tempfile.TemporaryDirectory(prefix="xlsr_jax-") as folder:
            yield Path(folder) / name
            with refusals("write", path):
                epath.Path(folder, name).copy(path, overwrite=True)
        return
    partial = path.with_name(name)
    try:
        yield partial
        os.replace(partial, path)
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()


@contextlib.contextmanager
def refusals(what: str, path: Path, mend: str = KEPT) -> Iterator[None]:
    """Makes one ``StorageError`` of whatever a disk or store raises while ``path`` is used.

    Args:
      what: "read", "write": what cannot be done.
      mend: what to do about it.
    """
    try:
        yield
    except StorageError:
        raise
    except Exception as error:  # each store has its own kinds
        if not (isinstance(error, OSError) or is_remote(path)):
            raise
        raise StorageError(f"cannot {what} {path}: {reason(error)}; {mend}") from error


def each(
    root: str | os.PathLike[str], function: Callable[[Item], Result], items: Iterable[Item]
) -> list[Result]:
    """function(item) of each item in order, many at a time where ``root`` is an object store."""
    if not is_remote(root):
        return [function(item) for item in items]
    with ThreadPoolExecutor(CALLS) as pool:
        return list(pool.map(function, items))


def cached(path: Path, checksum: str) -> Path:
    """A local copy of a store's file, fetched into the folder that ``CACHE`` names if not there.

    Copies are named by their content: processes may share the folder, and anything in it may be
    deleted when nobody reads it.

    Args:
      checksum: SHA-256 of the file.

    Raises:
      CorpusError: a file that is missing or of another content, a full disk.
    """
    copy = Path(os.environ[CACHE]) / f"{checksum}{path.suffix}"
    if copy.exists():
        return copy
    partial = copy.with_name(f"{copy.name}.partial-{uuid.uuid4().hex}")
    try:
        copy.parent.mkdir(parents=True, exist_ok=True)
        with path.open("rb") as source, open(partial, "wb") as file:
            shutil.copyfileobj(source, file, 1 << 20)
        if sha256(partial) != checksum:
            raise CorpusError(f"{path} differs from its checksum in the manifest; prepare it again")
        os.replace(partial, copy)
    except OSError as error:
        raise CorpusError(
            f"cannot fetch {path} into {CACHE}={os.environ[CACHE]}: {reason(error)}"
        ) from error
    finally:
        partial.unlink(missing_ok=True)
    return copy


class LeaseHeld(Exception):
    """Somebody else holds a lease; the message says who, and until when."""


@dataclasses.dataclass
class Lease:
    """An object that says who writes, for stores without locks.

    It holds {holder, token, renewed}, the last in seconds since 1970 by the holder's clock, and is
    renewed every ``RENEWED`` seconds. After ``STALE`` seconds without renewal it is anybody's. Who
    takes it writes a token and holds it if that is still there ``SETTLED`` seconds later: of two
    that come at once the later stays. Whoever was away for longer than ``STALE`` learns by
    ``check`` that it has lost it. Clocks must agree to a minute.
    """

    path: Path
    holder: str
    token: str = dataclasses.field(default_factory=lambda: uuid.uuid4().hex)
    _renewed: float = 0.0  # by our monotonic clock
    _lost: str = ""
    _ended: threading.Event = dataclasses.field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def take(self) -> None:
        """Takes the lease and keeps it renewed; raises ``LeaseHeld`` where another has it."""
        found = self._found()
        if found and time.time() - found["renewed"] < STALE:
            raise LeaseHeld(self._said(found))
        self._write()
        time.sleep(SETTLED)
        found = self._found()
        if found.get("token") != self.token:
            raise LeaseHeld(self._said(found))
        self._thread = threading.Thread(target=self._renew, daemon=True)
        self._thread.start()

    def give_back(self) -> None:
        """Ends the renewal and removes the lease, if it is still this one."""
        self._ended.set()
        self._thread.join()
        with contextlib.suppress(Exception):  # else it goes stale
            if self._found().get("token") == self.token:
                self.path.unlink(missing_ok=True)

    def check(self) -> None:
        """Raises ``LeaseHeld`` where the lease was lost."""
        if self._lost:
            raise LeaseHeld(self._lost)
        if time.monotonic() - self._renewed > STALE:
            raise LeaseHeld(f"nobody: {self.path} could not be renewed for {STALE:.0f} s")

    def _renew(self) -> None:
        while not self._ended.wait(RENEWED):
            with contextlib.suppress(Exception):  # of a network; ``check`` minds one that lasts
                found = self._found()
                if found.get("token") != self.token:
                    self._lost = self._said(found)
                    return
                self._write()

    def _write(self) -> None:
        now = time.monotonic()
        content = {"holder": self.holder, "token": self.token, "renewed": time.time()}
        write_atomically(self.path, json.dumps(content).encode())
        self._renewed = now

    def _found(self) -> dict[str, Any]:
        for _ in range(3):  # a reader may come between two writings
            try:
                return dict(json.loads(self.path.read_bytes()))
            except FileNotFoundError:
                return {}
            except ValueError:
                continue
        raise CorpusError(f"{self.path} is damaged; delete it if nobody prepares a corpus there")

    def _said(self, found: dict[str, Any]) -> str:
        if not found:
            return f"nobody: {self.path} was deleted"
        ago = time.time() - found["renewed"]
        return f"{found['holder']}, last heard of {ago:.0f} s ago (at {STALE:.0f} s it is given up)"
