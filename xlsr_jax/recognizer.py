"""A fine-tuned run, ready to listen: waveforms in, log-probabilities of its symbols out."""

import dataclasses
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from xlsr_jax import config as configuration
from xlsr_jax import storage
from xlsr_jax.config import Config
from xlsr_jax.evaluation import batches
from xlsr_jax.models import networks
from xlsr_jax.objectives.finetune import BEST_BY
from xlsr_jax.text.vocabulary import Vocabulary
from xlsr_jax.training.checkpoint import CheckpointError, load_parameters


@dataclasses.dataclass(frozen=True)
class Recognizer:
    """A model and what its outputs mean.

    Attributes:
      config: of the run; ``model.dtype`` is float32.
      vocabulary: of its outputs.
      params: of ``FinetuneObjective``.
      step: updates that the parameters have seen.
      run: folder of the run.
    """

    config: Config
    vocabulary: Vocabulary
    params: dict
    step: int
    run: Path

    def __post_init__(self) -> None:
        objective = configuration.method_module(self.config.method).make_objective(
            self.config.model, self.config.objective, (), classes=len(self.vocabulary.symbols)
        )
        object.__setattr__(self, "_outputs", jax.jit(partial(_outputs, objective)))

    @property
    def normalize(self) -> bool:
        """Whether waveforms are to have zero mean and unit variance over the recording."""
        return self.config.data.normalize

    @property
    def window(self) -> int:
        """Samples that an output frame sees, the Transformer's reach left aside."""
        window, hop = self.config.model.geometry
        return window + (self.config.objective.head_kernel - 1) * hop

    @property
    def hop(self) -> int:
        """Samples between output frames."""
        return self.config.model.geometry[1] * self.config.objective.head_stride

    def frames(self, samples: int) -> int:
        """Output frames of a waveform."""
        return max((samples - self.window) // self.hop + 1, 0)

    def log_probabilities(self, waveforms: Sequence[np.ndarray]) -> list[np.ndarray]:
        """[T_i, V] float32 of each waveform, computed as one batch.

        Args:
          waveforms: float32 at 16 kHz, normalized where the run asks for it; any lengths. They are
            padded to one of a few lengths, so that a program is compiled seldom. What a row gives
            does not depend on the others.
        """
        compute = partial(self._outputs, self.params)
        return batches.outputs(compute, waveforms, self.frames, self.window)


def _outputs(objective, params, waveform_BN, samples_B):
    batch = {"waveform": waveform_BN, "samples": samples_B}
    logits, _ = objective.logits(params, batch)
    return jax.nn.log_softmax(logits)


def load(run: str | Path, step: int | None = None) -> Recognizer:
    """The recognizer of a fine-tuning run.

    Args:
      run: its --workdir.
      step: of the checkpoint; the one with the lowest held-out error where not given.

    Raises:
      CheckpointError: no checkpoint, or not one of a fine-tuning run.
    """
    run = storage.at(run)
    params, about = load_parameters(run, step, best_by=BEST_BY)
    if "vocabulary" not in about:
        raise CheckpointError(
            f"{run} is no fine-tuning run (its method is {about['config']['method']}); fine-tune "
            f"it with --config=configs/quickstart_finetune.py --config.init_from={run}"
        )
    config = configuration.resolve(configuration.from_saved(about["config"]))
    config = dataclasses.replace(config, model=networks.for_inference(config.model))
    vocabulary = Vocabulary.from_dict(about["vocabulary"])
    params = jax.tree.map(jnp.asarray, params)
    return Recognizer(config, vocabulary, params, int(about["step"]), run)
