"""Every parameter of every config matches exactly one row of the sharding table."""

import importlib.util
import re
from pathlib import Path

import jax
import pytest
from jax.sharding import AbstractMesh, PartitionSpec

from xlsr_jax import config as configuration
from xlsr_jax import experiment
from xlsr_jax.parallel import rules
from xlsr_jax.text.vocabulary import BLANK, Vocabulary
from xlsr_jax.training.state import initial_state

CONFIGS = sorted((Path(__file__).resolve().parents[2] / "configs").glob("*.py"))


def load(path: Path, variant: str = ""):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return configuration.resolve(module.get_config(variant))


def phases_of(path: Path, variant: str = ""):
    config, languages = load(path, variant), ("es", "sv")
    vocabulary = Vocabulary((BLANK, "a", "b"), "characters", False, languages)
    module = configuration.method_module(config.method)
    labelled = module.LABELLED and config.unlabelled.share < 1
    return experiment.make_phases(config, languages, vocabulary if labelled else None)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_one_row_for_each_parameter_and_moment(path):
    phases = phases_of(path)
    init, optimizer = phases[0].objective.init, phases[0].optimizer
    state = jax.eval_shape(lambda key: initial_state(init, optimizer, key), jax.random.key(0))
    names = []
    for leaf_path, leaf in jax.tree_util.tree_leaves_with_path(state):
        name = rules.path_string(leaf_path)
        if leaf.shape:
            assert len(rules.matching_rules(name)) == 1, name
            names.append(name)
    params = [name for name in names if name.startswith("params/")]
    assert len(names) == 3 * len(params), "each parameter has two moments under the same rule"


def test_every_row_is_used():
    used = set()
    linear = (path for path in CONFIGS if path.stem == "cpc_librispeech_100h")
    for path, variant in [*((path, "") for path in CONFIGS), (next(linear), "linear")]:
        phases = phases_of(path, variant)
        shapes = jax.eval_shape(phases[0].objective.init, jax.random.key(0))
        for leaf_path, _ in jax.tree_util.tree_leaves_with_path(shapes):
            name = rules.path_string(leaf_path)
            used |= {pattern for pattern, _ in rules.RULES if re.fullmatch(pattern, name)}
    assert used == {pattern for pattern, _ in rules.RULES}


def test_an_axis_that_does_not_divide_is_left_out():
    mesh = AbstractMesh((1, 4, 2), ("replica", "fsdp", "tensor"))
    name = "context_network/layers/query/kernel"
    assert rules.spec_for(name, (2, 8, 8), mesh) == PartitionSpec(None, "fsdp", "tensor")
    assert rules.spec_for(name, (2, 6, 8), mesh) == PartitionSpec(None, None, "tensor")


def test_an_unknown_parameter_is_an_error():
    mesh = AbstractMesh((1, 4, 2), ("replica", "fsdp", "tensor"))
    with pytest.raises(KeyError, match="new_layer/kernel"):
        rules.spec_for("new_layer/kernel", (2, 2), mesh)
