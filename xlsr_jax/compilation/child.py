"""Work done in a process of its own: a compiler that crashes ends that process and no other.

``python -m xlsr_jax.compilation.child`` reads pickled arguments from its standard input and writes
the pickled result to its standard output. It ends with its parent, whichever way that ends.
"""

import contextlib
import importlib
import os
import pickle
import subprocess
import sys
import threading
import traceback
from typing import Any


class ChildDied(RuntimeError):
    """The process ended without an answer.

    Attributes:
      status: as of ``subprocess``: the negative number of a signal, or an exit status.
    """

    def __init__(self, status: int) -> None:
        super().__init__(f"a child process ended with {status}")
        self.status = status


def call(function: str, *arguments: Any) -> Any:
    """The result of a function, "module:name", computed in a new process.

    What the process prints is dropped, unless JAX_TRACEBACK_FILTERING=off.

    Raises:
      ChildDied: it crashed, or was killed.
      Exception: that of the function.
    """
    shown = None if os.environ.get("JAX_TRACEBACK_FILTERING") == "off" else subprocess.DEVNULL
    process = subprocess.Popen(
        [sys.executable, "-m", "xlsr_jax.compilation.child"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=shown,
        start_new_session=True,  # Ctrl-C is for the parent, which ends its child
    )
    try:
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(pickle.dumps((function, arguments)))
            process.stdin.flush()
        answer = process.stdout.read()
        status = process.wait()
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            with contextlib.suppress(OSError):
                pipe.close()
    try:
        done, result = pickle.loads(answer)
    except (EOFError, pickle.UnpicklingError):
        raise ChildDied(status) from None
    if not done:
        raise result
    return result


def main() -> None:
    answer = os.dup(1)
    os.dup2(2, 1)  # what libraries print does not mix with the answer
    function, arguments = pickle.load(sys.stdin.buffer)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        module, _, name = function.partition(":")
        result = getattr(importlib.import_module(module), name)(*arguments)
        told = pickle.dumps((True, result))
    except Exception as error:
        told = _pickled(error)
    with os.fdopen(answer, "wb") as pipe:
        pipe.write(told)
    os._exit(0)  # libraries may take their time, or crash, on the way out


def _end_with_parent() -> None:
    sys.stdin.buffer.read()
    os._exit(1)


def _pickled(error: Exception) -> bytes:
    error.add_note("".join(traceback.format_exception(error)).rstrip())
    with contextlib.suppress(Exception):
        told = pickle.dumps((False, error))
        pickle.loads(told)  # not all exceptions come back
        return told
    return pickle.dumps((False, RuntimeError(f"{type(error).__name__}: {error}")))


if __name__ == "__main__":
    main()
