"""What the commands that read a run share."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

from xlsr_jax import storage
from xlsr_jax.schema import ConfigError


def run(action: Callable[[], None]) -> int:
    """Does what a command is for; an error of ours becomes one line. Returns the exit status."""
    # Imported here, so that --help and a mistyped flag answer at once.
    from absl import logging

    from xlsr_jax import runtime
    from xlsr_jax.data.records import CorpusError
    from xlsr_jax.training.checkpoint import CheckpointError

    logging.set_verbosity(logging.ERROR)
    runtime.start()
    try:
        action()
    except (ConfigError, CorpusError, CheckpointError, OSError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


def output_folder(given: str, run: str | os.PathLike[str], below: str) -> Path:
    """The folder that a command writes to: the one given, or the folder ``below`` of a run.

    Raises:
      ConfigError: none given, and a run in an object store, where reports are not written.
    """
    if not given and storage.is_remote(run):
        raise ConfigError(f"{run} is in an object store; say with --output=DIR where to write")
    return Path(given or Path(run) / below)
