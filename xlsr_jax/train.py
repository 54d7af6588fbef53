"""Pretrains or fine-tunes a model: ``python -m xlsr_jax.train --config=configs/quickstart.py``.

``--workdir=DIR`` says where the run lives. Any setting can be given as
``--config.group.name=value``. Running the same command again goes on from the newest checkpoint of
the run.
"""

import logging as standard_logging
import os
import sys
import warnings
from pathlib import Path

from absl import app, flags, logging
from ml_collections import config_flags

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Config file, see configs/.", short_name="c"
)
_WORKDIR = flags.DEFINE_string(
    "workdir", "", "Where the run lives; runs/<config name> if not given."
)
_DISTRIBUTED = flags.DEFINE_bool(
    "distributed", False, "Several hosts that JAX can find (TPU slice)."
)
_COORDINATOR = flags.DEFINE_string("coordinator", "", "host:port of process 0, to join by hand.")
_PROCESSES = flags.DEFINE_integer("processes", 0, "Number of processes, to join by hand.")
_PROCESS_ID = flags.DEFINE_integer("process_id", -1, "Number of this process, from 0.")


def main(_: list[str]) -> None:
    # Imported here, so that --help and a mistyped flag answer at once.
    from xlsr_jax import config, experiment, runtime
    from xlsr_jax.data.records import CorpusError
    from xlsr_jax.schema import ConfigError
    from xlsr_jax.training.checkpoint import CheckpointError
    from xlsr_jax.training.loop import TrainingStopped

    logging.set_verbosity(logging.ERROR)
    try:
        settings = config.resolve(_CONFIG.value)
        runtime.start(_COORDINATOR.value, _PROCESSES.value, _PROCESS_ID.value, _DISTRIBUTED.value)
        print(runtime.device_report(), file=sys.stderr)
        workdir = Path(_WORKDIR.value or Path("runs") / settings.name)
        experiment.train(settings, workdir)
    except KeyboardInterrupt:
        fail("stopped at once; the same command goes on from the newest checkpoint")
    except (ConfigError, CorpusError, CheckpointError, TrainingStopped, OSError) as error:
        fail(f"{type(error).__name__}: {error}")
    except RuntimeError as error:  # JAX: out of memory, a host that cannot be reached
        lines = [line for line in str(error).splitlines() if line.strip()]
        if not lines or os.environ.get("JAX_TRACEBACK_FILTERING") == "off":
            raise
        fail(f"{type(error).__name__}: {lines[0][:500]} (JAX_TRACEBACK_FILTERING=off shows where)")


def fail(said: str) -> None:
    """Says one line and ends the process, without waiting for the other hosts of the run."""
    import jax

    # Last words are ours: libraries warn of their own unfinished work while the process ends.
    warnings.simplefilter("ignore")
    standard_logging.disable()
    print(said, file=sys.stderr, flush=True)
    if jax.process_count() > 1:
        os._exit(1)  # a clean exit would wait for hosts that wait for this one
    sys.exit(1)


def parse_flags(arguments: list[str]) -> list[str]:
    """Parses the command line; what is wrong with it is one line, not a trace."""
    try:
        rest = flags.FLAGS(arguments)
        if _CONFIG.value is None:
            raise ValueError("--config=FILE is missing; try --config=configs/quickstart.py")
        _CONFIG.value.keys()  # a file that failed to load raises its own error here
        return rest
    except (AttributeError, KeyError) as error:
        said = f"no such setting on the command line: {error}"
    except Exception as error:  # a flag's value, or whatever the config file raised
        said = str(error) if isinstance(error, flags.Error) else f"{type(error).__name__}: {error}"
    print(f"ConfigError: {' '.join(said.split())}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
