"""The log of a run whose folder is in an object store, where nothing can be appended to."""

import shutil
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

from xlsr_jax import storage

EVERY = 60.0  # seconds between two copies


class Mirror:
    """A local folder that a thread copies to an object store every ``EVERY`` seconds.

    Files are copied whole, those that changed since. A copy that fails is said, once until one
    succeeds, and tried again; it ends nothing.

    Attributes:
      folder: the local one, to write in.
    """

    def __init__(self, there: Path, say: Callable[[str], None]) -> None:
        """Makes an empty local folder.

        Args:
          there: folder in the store.
          say: is told what fails, also by the thread.
        """
        self.folder = Path(tempfile.mkdtemp(prefix="xlsr_jax-log-"))
        self._there, self._say = there, say
        self._copied: dict[Path, tuple[int, int]] = {}  # size and time of a file when it was copied
        self._failing = False
        self._copying = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep_copying, daemon=True)

    def fetch(self, name: str) -> None:
        """Brings a file from the store, if it is there; to be called before ``start``.

        Raises:
          StorageError: where it cannot be read; to go on would be to overwrite it.
        """
        path = self._there / name
        with storage.refusals("read", path):
            if path.exists():
                (self.folder / name).write_bytes(path.read_bytes())

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def copy(self) -> bool:
        """Copies what has changed; whether all of it is in the store now."""
        with self._copying:
            try:
                for path in sorted(self.folder.rglob("*")):
                    self._copy(path)
            except Exception as error:  # a log is never worth the end of a training
                if not self._failing:
                    self._say(
                        f"the log could not be copied to {self._there}: {storage.reason(error)}; "
                        f"it is in {self.folder} and will be tried again"
                    )
                self._failing = True
                return False
            if self._failing:
                self._say(f"the log is in {self._there} again")
            self._failing = False
            return True

    def close(self) -> None:
        """Ends the thread, copies for the last time, and removes the folder where that worked."""
        self._ended.set()
        if self._thread.ident is not None:
            self._thread.join()
        if self.copy():
            shutil.rmtree(self.folder, ignore_errors=True)

    def _copy(self, path: Path) -> None:
        status = path.stat()
        now = (status.st_size, status.st_mtime_ns)
        if path.is_dir() or self._copied.get(path) == now:
            return
        storage.write_atomically(self._there / path.relative_to(self.folder), path.read_bytes())
        self._copied[path] = now

    def _keep_copying(self) -> None:
        while not self._ended.wait(EVERY):
            self.copy()
