"""Pretrains or fine-tunes a model: ``python -m xlsr_jax.train --config=configs/quickstart.py``.

``--workdir=DIR`` says where the run lives. Any setting can be given as
``--config.group.name=value``. Running the same command again goes on from the newest checkpoint of
the run.
"""

import logging as standard_logging
import os
import sys
import traceback
import warnings
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from absl import app, flags, logging

from xlsr_jax.config_flag import CONFIG, parse_flags

if TYPE_CHECKING:
    from xlsr_jax.training.hosts import Hosts

_WORKDIR = flags.DEFINE_string(
    "workdir", "", "Where the run lives, also gs://bucket/folder; default runs/<config name>."
)
_DISTRIBUTED = flags.DEFINE_bool(
    "distributed", False, "Several hosts that JAX can find (TPU slice)."
)
_COORDINATOR = flags.DEFINE_string("coordinator", "", "host:port of process 0, to join by hand.")
_PROCESSES = flags.DEFINE_integer("processes", 0, "Number of processes, to join by hand.")
_PROCESS_ID = flags.DEFINE_integer("process_id", -1, "Number of this process, from 0.")
_HOST_TIMEOUT = flags.DEFINE_float(
    "host_timeout", 60.0, "Seconds without a sign of life after which a host counts as lost.", 1.0
)
_COMPILED = flags.DEFINE_string(
    "compiled", "", "Folder of updates that xlsr_jax.compile --save compiled; only your own."
)
_JOIN_TIMEOUT = flags.DEFINE_float("join_timeout", 300.0, "Seconds to wait for all hosts.", 1.0)


def main(_: list[str]) -> None:
    # Imported here, so that --help and a mistyped flag answer at once.
    from xlsr_jax import config, experiment, runtime, storage
    from xlsr_jax.compilation import saved, update
    from xlsr_jax.data.records import CorpusError
    from xlsr_jax.schema import ConfigError
    from xlsr_jax.training import roll_call
    from xlsr_jax.training.checkpoint import CheckpointError
    from xlsr_jax.training.hosts import HostError, Hosts
    from xlsr_jax.training.loop import TrainingStopped

    logging.set_verbosity(logging.ERROR)
    hosts = Hosts(_HOST_TIMEOUT.value)
    try:
        settings = config.resolve(CONFIG.value)
        workdir = storage.reach(_WORKDIR.value or Path("runs") / settings.name)
        join_timeout = _JOIN_TIMEOUT.value
        where = _COORDINATOR.value, _PROCESSES.value, _PROCESS_ID.value
        clustered = _DISTRIBUTED.value or runtime.on_a_cluster()
        roll_call.call(roll_call.find(*where, clustered, join_timeout), join_timeout)
        runtime.start(
            *where, clustered, host_timeout=_HOST_TIMEOUT.value, join_timeout=join_timeout
        )
        facts = {"config": config.to_dict(settings), "workdir": str(storage.absolute(workdir))}
        load = None
        if _COMPILED.value:
            folder = storage.at(_COMPILED.value)
            facts["what is saved in --compiled"] = saved.digest(folder)
            load = partial(update.load_update, folder)
        hosts.meet(facts)
        hosts.share(workdir)
        print(runtime.device_report(), file=sys.stderr)
        experiment.train(settings, workdir, load)
        hosts.leave()
    except KeyboardInterrupt:
        fail("stopped at once; the same command goes on from the newest checkpoint", hosts)
    except (ConfigError, CorpusError, HostError, TrainingStopped) as error:
        fail(f"{type(error).__name__}: {error}", hosts)
    except Exception as error:
        hosts.stay()  # it may come of a lost host, which is the better thing to say
        if isinstance(error, (CheckpointError, OSError)):
            fail(f"{type(error).__name__}: {error}", hosts)
        lines = [line for line in str(error).splitlines() if line.strip()]
        whole = not lines or os.environ.get("JAX_TRACEBACK_FILTERING") == "off"
        if whole or not isinstance(error, RuntimeError):  # JAX's: out of memory, say
            if hosts.count == 1:
                raise
            traceback.print_exc()  # and no ``raise``, which would wait for the other hosts
        said = lines[0][:500] if lines else ""
        fail(f"{type(error).__name__}: {said} (JAX_TRACEBACK_FILTERING=off shows where)", hosts)


def fail(said: str, hosts: "Hosts") -> None:
    """Says one line and ends the process, without waiting for the other hosts of the run."""
    # Last words are ours: libraries warn of their own unfinished work while the process ends.
    warnings.simplefilter("ignore")
    standard_logging.disable()
    print(said, file=sys.stderr, flush=True)
    if hosts.count > 1:
        hosts.leave(said)
        os._exit(1)  # a clean exit would wait for hosts that wait for this one
    sys.exit(1)


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
