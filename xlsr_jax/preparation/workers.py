"""Worker processes of the preparation: started clean, ended with their parent."""

import contextlib
import itertools
import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import threading
import types
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from xlsr_jax.data.records import CorpusError

Task = TypeVar("Task")
Result = TypeVar("Result")


def run(
    function: Callable[[Task], Result], tasks: Iterable[Task], count: int
) -> Iterator[tuple[Task, Result]]:
    """Yields (task, function(task)) as ``count`` processes finish them, begun in order.

    A few tasks are on their way at a time, so that a long list of large ones costs no memory, and
    tasks that are made while others run wait for those before them.
    On an error, or when the caller stops, tasks that have begun are finished and no others.

    Raises:
      CorpusError: where a worker process was killed.
      whatever ``function`` raises.
    """
    # Not fork: a fork of a process that has JAX, or threads of any kind, may hang.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(count, mp_context=context, initializer=_begin_worker)
    waiting: dict[Future[Result], Task] = {}
    upcoming = iter(tasks)
    try:
        while True:
            with _without_our_main():
                for task in itertools.islice(upcoming, 2 * count - len(waiting)):
                    waiting[pool.submit(function, task)] = task
            if not waiting:
                return
            for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                yield waiting.pop(future), future.result()
    except BrokenProcessPool as error:
        raise CorpusError(
            "a worker process was killed (out of memory?); run the same command again, which "
            "keeps all finished shards, with fewer --workers if memory is short"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _begin_worker() -> None:
    """Leaves Ctrl-C to the parent, and ends this worker when the parent is gone.

    A parent killed with SIGKILL cannot end its workers, and they would wait for it forever.
    Decoders print remarks about damaged files past Python; the reasons are kept elsewhere.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    parent = multiprocessing.parent_process()

    def watch() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextlib.contextmanager
def _without_our_main() -> Iterator[None]:
    """Keeps workers from importing an entry of ours again, the trainer with all of JAX above all.

    A started process imports the caller's main module, for the functions it may define. Our
    entries define none that a worker needs; for anybody else's main module this does nothing.
    """
    main = sys.modules["__main__"]
    spec = getattr(main, "__spec__", None)
    if spec is None or not spec.name.startswith("xlsr_jax."):
        yield
        return
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
