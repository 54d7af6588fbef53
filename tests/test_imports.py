"""Imports only go down; the data rooms know neither JAX nor models."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "xlsr_jax"

# What each room may import of ours. Top-level files are entries unless named here.
ALLOWED = {
    "models": {"models", "parallel", "schema"},  # a kernel is told its device's part of the mesh
    "parallel": {"parallel", "schema"},
    "text": {"text"},
    "evaluation": {"evaluation", "text", "schema"},
    "data": {"data", "text", "schema"},
    "preparation": {"preparation", "data", "text"},
    "objectives": {"objectives", "models", "parallel", "schema"},
    "training": {"training", "parallel", "schema"},
    "interop": {"interop", "config", "data", "models", "schema", "text", "training"},
    "compilation": {"compilation", "data", "parallel", "training"},
    "analysis": {"analysis", "config", "data", "evaluation", "models", "schema", "training"},
    "schema": set(),
    "storage": set(),
    "runtime": {"schema"},
    "command": {"runtime", "data", "schema", "training"},
    "config_flag": set(),
    "config": {"schema", "data", "parallel", "training", "objectives"},
    "presets": {"config"},
    "presets_cpc": {"config"},
    "presets_unispeech": {"config", "presets"},
    "inputs": {"config", "data", "models", "preparation", "schema", "text"},
    "features": {
        "config", "data", "evaluation", "models", "objectives", "schema", "training",
    },
    "recognizer": {"config", "evaluation", "models", "objectives", "text", "training"},
    "experiment": {
        "inputs",
        "text",
        "config",
        "schema",
        "data",
        "objectives",
        "training",
        "parallel",
        "interop",
        "models",
    },
}
EVERYWHERE = {"storage"}  # paths and files, local or in an object store; knows nothing of ours
ENTRIES = {"abx", "train", "evaluate", "transcribe", "analyze", "convert", "compile", "prepare"}
HEAVY = {
    "phonemizer",
    "tensorflow_datasets",
    "apache_beam",
    "tensorboardX",
    "matplotlib",
    "librosa",
}


def room_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).parts
    return parts[0].removesuffix(".py")


def imports(path: Path, top_level_only: bool = False) -> set[str]:
    tree = ast.parse(path.read_text())
    nodes = tree.body if top_level_only else ast.walk(tree)
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


FILES = sorted(path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py")


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_down(path):
    room = room_of(path)
    ours = {name.split(".")[1] for name in imports(path) if name.startswith("xlsr_jax.")}
    if room in ENTRIES:
        assert not ours & (ENTRIES - {room})
        return
    strange = ours - ALLOWED[room] - EVERYWHERE
    assert not strange, f"{room} must not import {strange}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_heavy_packages_are_imported_where_used(path):
    top = {name.split(".")[0] for name in imports(path, top_level_only=True)}
    assert not top & HEAVY


@pytest.mark.parametrize("room", ["data", "preparation", "text", "storage"])
def test_data_knows_no_jax(room):
    for path in (path for path in PACKAGE.rglob("*.py") if room_of(path) == room):
        assert not {name.split(".")[0] for name in imports(path)} & {"jax", "flax", "optax"}, path


def test_no_drawer_for_odds_and_ends():
    assert not [p for p in FILES if p.stem in {"utils", "util", "helpers", "misc", "common"}]
