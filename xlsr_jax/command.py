"""What the commands that read a run share."""

import sys
from collections.abc import Callable


def run(action: Callable[[], None]) -> int:
    """Does what a command is for; an error of ours becomes one line. Returns the exit status."""
    # Imported here, so that --help and a mistyped flag answer at once.
    from absl import logging

    from xlsr_jax import runtime
    from xlsr_jax.data.records import CorpusError
    from xlsr_jax.schema import ConfigError
    from xlsr_jax.training.checkpoint import CheckpointError

    logging.set_verbosity(logging.ERROR)
    runtime.start()
    try:
        action()
    except (ConfigError, CorpusError, CheckpointError, OSError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0
