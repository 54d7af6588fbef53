"""Tests run on the CPU and share one compilation cache."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("JAX_PLATFORMS", "cpu")

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def root() -> Path:
    """The project's root."""
    return ROOT


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of shared material, where there is one."""
    folder = ROOT.parent / "shared"
    if not folder.exists():
        pytest.skip(f"no shared material at {folder.name}/ beside the project")
    return folder
