"""The committed table of where every parameter of every config lives."""

import importlib.util

from tests.runs import ROOT

SPEC = importlib.util.spec_from_file_location("shardings", ROOT / "tools" / "write_shardings.py")
shardings = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(shardings)


def test_nothing_moved_unseen():
    """After a change that was meant: python tools/write_shardings.py, and read the difference."""
    committed = shardings.GOLDEN.read_text()
    assert shardings.table() == committed
    large = committed.split("\n\n")[2]
    whole = [line for line in large.splitlines() if "kernel" in line and "fsdp" not in line]
    assert not whole, "every kernel of the Large is cut over fsdp"
