"""``config.init_from`` takes a run, a Hugging Face folder, or a fairseq file."""

import jax
import numpy as np
import pytest

from tests.interop import sources
from xlsr_jax import config as configuration
from xlsr_jax import experiment
from xlsr_jax.interop import importing
from xlsr_jax.training.checkpoint import CheckpointError
from xlsr_jax.training.state import TrainState


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """The same model in four places, and its state."""
    folder = tmp_path_factory.mktemp("places")
    values = sources.FLAVOURS["large"]
    model = sources.torch_model("Wav2Vec2ForPreTraining", values)
    sources.save(model, folder / "hub", normalize=True)
    named = sources.fairseq_names(sources.state_of(model), layer_norm=True)
    sources.save_fairseq(folder / "a.pt", named, args=sources.fairseq_args(values))
    importing.import_run(folder / "hub", folder / "run")
    return folder


def config_of(init_from, method, **data):
    """Settings of a run that begins at ``init_from``."""
    config = configuration.default("begun", method)
    config.init_from = str(init_from)
    config.data.normalize = data.get("normalize", True)
    saved = importing.read(init_from.parent / "hub").about["config"]["model"]
    config.model.update({name: saved[name] for name in config.model if name in saved})
    config.model.conv_dims = tuple(saved["conv_dims"])
    config.model.conv_kernels = tuple(saved["conv_kernels"])
    config.model.conv_strides = tuple(saved["conv_strides"])
    return configuration.resolve(config)


@pytest.mark.parametrize("place", ["run", "hub", "a.pt", "hub/model.safetensors"])
def test_every_place_begins_the_same(places, place):
    start = places / place
    source = start if start.parent == places else start.parent
    config = config_of(source, "wav2vec2")
    config = configuration.resolve(configuration.to_dict(config) | {"init_from": str(start)})
    loaded, about = experiment.read_start(config)
    objective = experiment.make_objective(config, ())
    params = objective.init(jax.random.key(0))
    state = TrainState(step=0, params=params, opt_state=(), skipped=0, skipped_in_a_row=0)
    begun, told = experiment.begin_from(config, (loaded, about), state)
    expected = importing.read(places / "hub").params
    jax.tree.map(np.testing.assert_array_equal, begun.params, expected)
    assert "new: nothing; not used: nothing" in told[1]


@pytest.mark.parametrize("place", ["run", "hub", "a.pt"])
def test_fine_tuning_from_every_place(places, place):
    """The trunk is taken, the pretraining heads are not, the output layer is new."""
    config = config_of(places / place, "finetune")
    loaded, about = experiment.read_start(config)
    module = configuration.method_module("finetune")
    objective = module.make_objective(config.model, config.objective, (), classes=5)
    params = objective.init(jax.random.key(0))
    state = TrainState(step=0, params=params, opt_state=(), skipped=0, skipped_in_a_row=0)
    begun, told = experiment.begin_from(config, (loaded, about), state)
    assert "new: output; not used: context_projection, quantized_projection, quantizer" in told[1]
    kernel = begun.params["context_network"]["layers"]["query"]["kernel"]
    np.testing.assert_array_equal(kernel, loaded["context_network"]["layers"]["query"]["kernel"])


def test_what_does_not_fit_is_refused(places, tmp_path):
    with pytest.raises(CheckpointError, match="trained with config.data.normalize=True"):
        experiment.read_start(config_of(places / "hub", "wav2vec2", normalize=False))
    config = configuration.to_dict(config_of(places / "hub", "wav2vec2"))
    config["model"] |= {"heads": 2}
    with pytest.raises(CheckpointError, match="config.model.heads is 4 there and 2 in this"):
        experiment.read_start(configuration.resolve(config))
    for strange in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(CheckpointError, match="is no run"):
            experiment.read_start(configuration.resolve(config | {"init_from": str(strange)}))


def test_a_run_beside_weights_is_a_run(places):
    assert not importing.is_source(places / "run") and importing.is_source(places / "hub")
    assert not importing.is_source("gs://bucket/run")
