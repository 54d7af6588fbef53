"""The process: hosts joined, compilation cache, memory, and a report of the devices."""

import ctypes
import math
import os
import warnings
from pathlib import Path

import jax

from xlsr_jax.schema import ConfigError


def start(
    coordinator: str = "",
    processes: int = 0,
    process_id: int = -1,
    distributed: bool = False,
    *,
    host_timeout: float = 60.0,
    join_timeout: float = 300.0,
) -> None:
    """Prepares JAX before its first use.

    Under srun, Open MPI and where the TPU's environment names several workers the hosts find each
    other, and anywhere JAX knows the cluster with ``distributed``; elsewhere ``coordinator``
    ("host:port"), ``processes`` and ``process_id`` join them by hand. They wait ``join_timeout``
    seconds for each other. JAX ends a process whose others are silent for twice ``host_timeout``
    seconds; ``training.hosts`` is to have named them by then.

    Raises:
      ConfigError: where only some of the three are given.
    """
    cache = os.environ.get("JAX_COMPILATION_CACHE_DIR") or Path.home() / ".cache/xlsr_jax/compiled"
    jax.config.update("jax_compilation_cache_dir", str(cache))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 1.0)
    jax.config.update("jax_threefry_partitionable", True)
    keep_freed_memory()
    warnings.filterwarnings("ignore", message=".*[Dd]onat.*not usable.*")
    patience = {
        "initialization_timeout": math.ceil(join_timeout),
        "heartbeat_timeout_seconds": math.ceil(2 * host_timeout),
    }
    given = [bool(coordinator), processes > 0, process_id >= 0]
    if all(given):
        jax.distributed.initialize(coordinator, processes, process_id, **patience)
    elif any(given):
        raise ConfigError("--coordinator, --processes and --process_id go together")
    elif distributed or on_a_cluster():
        jax.distributed.initialize(**patience)


def keep_freed_memory() -> bool:
    """Lets this process keep the memory that an update frees, for the next one; True if it could.

    On a CPU XLA allocates an update's temporary arrays anew each time, GNU libc maps them from the
    system, and the system clears every page again: half a million page faults and up to a quarter
    of the time of a Base update. So that freed memory comes from one heap that is never given
    back. The process grows no larger than its largest update, and does not shrink between them.
    To be called before JAX starts its threads; does nothing with another libc.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    # Names and values of malloc.h. Threads' own heaps are too small for arrays, hence one heap.
    options = {"M_ARENA_MAX": (-8, 1), "M_MMAP_MAX": (-4, 0), "M_TRIM_THRESHOLD": (-1, -1)}
    return all([mallopt(name, value) for name, value in options.values()])


def on_a_cluster() -> bool:
    """Several TPU hosts, or several tasks of one job: ``jax.distributed`` finds the rest itself."""
    hosts = os.environ.get("TPU_WORKER_HOSTNAMES", "")
    # The number of tasks of the step: a shell inside an allocation has SLURM_NTASKS, but no others.
    tasks = os.environ.get("SLURM_STEP_NUM_TASKS") or os.environ.get("OMPI_COMM_WORLD_SIZE") or "1"
    return "," in hosts or "MEGASCALE_COORDINATOR_ADDRESS" in os.environ or int(tasks) > 1


def device_report() -> str:
    """One line: what the run will use."""
    device = jax.devices()[0]
    return (
        f"jax {jax.__version__}, {jax.device_count()} {device.platform} device(s) "
        f"({device.device_kind}) on {jax.process_count()} host(s)"
    )


def check_device(kind: str = "") -> str:
    """The report of the devices, where they are of the kind that is asked for.

    Args:
      kind: "gpu" or "tpu"; "" for either; "cpu" for whatever there is.

    Raises:
      ConfigError: for another kind of device, or another word.
    """
    accepted = {"": ("gpu", "tpu"), "gpu": ("gpu",), "tpu": ("tpu",), "cpu": ("cpu", "gpu", "tpu")}
    if kind not in accepted:
        raise ConfigError(f"device {kind!r} must be gpu, tpu, cpu, or empty for a GPU or a TPU")
    try:
        platform, found = jax.default_backend(), device_report()
    except RuntimeError as error:  # a platform that was asked for by name and does not answer
        platform, found = "", str(error).strip().splitlines()[0]
    if platform not in accepted[kind]:
        wanted = kind.upper() or "GPU or TPU"
        raise ConfigError(
            f"no {wanted} here ({found}); in Colab choose one with Runtime > Change runtime type "
            "and run all cells again, or ask for the device cpu and be patient"
        )
    return found
