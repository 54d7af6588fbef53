"""The memory of a process."""

import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
import numpy as np
from xlsr_jax import runtime

if sys.argv[1] == "keep":
    if not runtime.keep_freed_memory():
        sys.exit("no mallopt")
np.ones(16_000_000, np.float32)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
np.ones(16_000_000, np.float32)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(what: str) -> int:
    """Page faults of writing 64 MB where as much has been freed before."""
    done = subprocess.run([sys.executable, "-c", PROGRAM, what], capture_output=True, text=True)
    if "no mallopt" in done.stderr:
        pytest.skip("another libc than GNU's has no mallopt")
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def test_freed_memory_comes_again_without_page_faults():
    assert faults("keep") < 100
    assert faults("leave") > 10 * faults("keep"), "the test sees page faults where there are some"
