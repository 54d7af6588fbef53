"""What a run makes of waveforms: the frames of its network, heads and output layer left aside."""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from xlsr_jax import config as configuration
from xlsr_jax.data.pipeline import Reader
from xlsr_jax.data.records import SAMPLE_RATE
from xlsr_jax.evaluation import batches
from xlsr_jax.evaluation.batches import LONGEST
from xlsr_jax.models import networks
from xlsr_jax.models.log_mel import ModelConfig as LogMelConfig
from xlsr_jax.models.networks import Settings
from xlsr_jax.objectives.finetune import BEST_BY
from xlsr_jax.schema import ConfigError
from xlsr_jax.training.checkpoint import CheckpointError, load_parameters


@dataclasses.dataclass(frozen=True)
class Features:
    """What is compared: the trunk of a run, or log-mel frames.

    Attributes:
      name: in the table.
      model: settings of the network.
      params: those that ``read`` needs.
      layer: what is read: -1 the contexts, n the input of layer n.
      normalize: whether waveforms are to have zero mean and unit variance.
      update: that the parameters are of; "-" where nothing was trained.
      corpus: that the run was trained on.
    """

    name: str
    model: Settings
    params: dict[str, Any]
    layer: int = -1
    normalize: bool = False
    update: str = "-"
    corpus: str = ""

    def __post_init__(self) -> None:
        network = networks.make_network(self.model)

        def read(params, waveform_BN, samples_B):
            inputs = (waveform_BN, samples_B, None, None, None, None, self.layer)
            return network.apply({"params": params}, *inputs, method="read")

        object.__setattr__(self, "_read", jax.jit(read))

    def of(self, waveforms: Sequence[np.ndarray]) -> list[np.ndarray]:
        """[T_i, D] float32 of each waveform ([samples] float32), computed as one batch."""
        return batches.outputs(partial(self._read, self.params), waveforms, self.model.frames)


def load(run: str | Path, layer: int = -1, name: str = "") -> Features:
    """The trunk of a run of any method, heads and output layer left aside.

    Of a run with labels it is the checkpoint with the lowest held-out error rate, of another the
    newest.

    Args:
      run: its --workdir.
      layer: as in ``Features``.
      name: in the table; default the folder's.

    Raises:
      CheckpointError: no such folder, or one without checkpoints.
      ConfigError: a network without that layer.
    """
    saved, about = load_parameters(run, best_by=BEST_BY)
    config = configuration.resolve(configuration.from_saved(about["config"]))
    model = networks.for_inference(config.model)
    if model.layers and layer >= model.layers:  # log-mel frames have no layers to choose from
        raise ConfigError(f"--layer={layer}: {run} has layers 0 to {model.layers - 1}, and -1")
    if hasattr(model, "statistics_include_padding"):  # no row is to depend on its padding
        model = dataclasses.replace(model, statistics_include_padding=False)
    network, (window, _) = networks.make_network(model), model.geometry
    inputs = jnp.zeros((1, window)), jnp.array([window])
    init = lambda key: network.init(key, *inputs, method="read")  # noqa: E731
    wanted = jax.eval_shape(init, jax.random.key(0)).get("params", {})
    trunk = {part: jax.tree.map(jnp.asarray, saved[part]) for part in wanted}
    name, data = name or Path(run).resolve().name, config.data
    return Features(name, model, trunk, layer, data.normalize, str(about["step"]), data.path)


def log_mel() -> Features:
    """Log-mel frames, one every 10 ms: what trained features have to be better than."""
    return Features("log-mel", LogMelConfig(), {})


def features_of(
    features: Features,
    reader: Reader,
    numbers: Sequence[int],
    batch_seconds: float = 60.0,
    progress: Callable[[int], object] = lambda records: None,
) -> dict[str, np.ndarray]:
    """Features of some records, by their numbers: [T, D] float32, of the first 30 s.

    Args:
      batch_seconds: audio computed at once, with its padding.
      progress: called with the number of records that were done.

    Raises:
      CheckpointError: features that are not finite.
    """
    read = lambda place: reader.waveform(numbers[place], features.normalize)[:LONGEST]  # noqa: E731
    lengths = [min(int(reader.index.samples[number]), LONGEST) for number in numbers]
    most = round(batch_seconds * SAMPLE_RATE)
    found = batches.all_outputs(features.of, lengths, read, most, progress)
    if not all(np.isfinite(frames).all() for frames in found):
        raise CheckpointError(
            f"{features.name}: features of update {features.update} are not finite; give a run "
            "that has not diverged"
        )
    return dict(zip(map(str, numbers), found, strict=True))
