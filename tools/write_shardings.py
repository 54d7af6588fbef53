"""Where every parameter of every config lives on every slice: tests/golden/shardings.txt.

    python tools/write_shardings.py          # writes it anew
    python tools/write_shardings.py --check  # exit status 1 where it differs

Configs with the same parameters share a section. A line is a parameter, its sizes, and the axis of
the mesh that cuts each of them, "-" for none, with the chips along "fsdp" for which that holds: an
axis that does not divide a size leaves it whole. Labels are counted as 100 symbols.
"""

import argparse
import csv
import difflib
import importlib.util
import sys
from pathlib import Path

import jax
from jax.sharding import AbstractMesh

from xlsr_jax import config as configuration
from xlsr_jax import experiment
from xlsr_jax.parallel import mesh as meshes
from xlsr_jax.parallel import rules
from xlsr_jax.text.vocabulary import BLANK, Vocabulary

ROOT = Path(__file__).resolve().parent.parent
GOLDEN = ROOT / "tests" / "golden" / "shardings.txt"
LANGUAGES = ("es", "sv")

Tree = tuple[tuple[str, tuple[int, ...]], ...]
"""Paths and shapes of a config's parameters."""


def chips() -> list[int]:
    """Numbers of chips that are sold."""
    with (ROOT / "launch" / "topologies.tsv").open() as file:
        return sorted({int(row["devices"]) for row in csv.DictReader(file, delimiter="\t")})


def parameters(path: Path) -> Tree:
    """Of a config file."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = configuration.resolve(module.get_config())
    method = configuration.method_module(config.method)
    symbols = (BLANK, *(f"s{number}" for number in range(1, 100)))
    vocabulary = Vocabulary(symbols, "phonemes", False, LANGUAGES)
    labelled = method.LABELLED and config.unlabelled.share < 1
    phases = experiment.make_phases(config, LANGUAGES, vocabulary if labelled else None)
    shapes = jax.eval_shape(phases[-1].objective.init, jax.random.key(0))
    leaves = jax.tree_util.tree_leaves_with_path(shapes)
    return tuple((rules.path_string(name), leaf.shape) for name, leaf in leaves)


def table() -> str:
    """The whole text."""
    trees: dict[Tree, list[str]] = {}
    for path in sorted((ROOT / "configs").glob("*.py")):
        trees.setdefault(parameters(path), []).append(path.stem)
    counts = chips()
    lines = [f"chips along fsdp: {' '.join(map(str, counts))}"]
    for tree, names in trees.items():
        lines += ["", f"# {' '.join(names)}"]
        for name, shape in tree:
            sizes = "x".join(map(str, shape))
            lines.append(f"{name} {sizes} {_placements(name, shape, counts)}")
    return "\n".join(lines) + "\n"


def _placements(name: str, shape: tuple[int, ...], counts: list[int]) -> str:
    found: dict[str, list[int]] = {}
    for count in counts:
        mesh = AbstractMesh((1, count, 1), meshes.AXES)
        spec = rules.spec_for(name, shape, mesh)
        spec = (*spec, *(None,) * (len(shape) - len(spec)))
        found.setdefault(",".join(axis or "-" for axis in spec), []).append(count)
    if len(found) == 1:
        return next(iter(found))
    return " | ".join(f"{spec} {_range(at, counts)}" for spec, at in found.items())


def _range(some: list[int], of: list[int]) -> str:
    begin, end = of.index(some[0]), of.index(some[-1]) + 1
    return f"{some[0]}..{some[-1]}" if of[begin:end] == some else ",".join(map(str, some))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare, and write nothing")
    flags = parser.parse_args()
    text = table()
    if not flags.check:
        GOLDEN.write_text(text)
        return 0
    committed = GOLDEN.read_text().splitlines()
    changed = list(difflib.unified_diff(committed, text.splitlines(), lineterm="", n=0))
    print("\n".join(changed[:40]) or f"{GOLDEN.name} is up to date")
    return 1 if changed else 0


if __name__ == "__main__":
    sys.exit(main())
