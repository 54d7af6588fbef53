"""UniSpeech (arXiv 2101.07597): CTC and contrastive learning over one codebook.

Equation 6: audio with labels is trained on alpha CTC + (1 - alpha) (contrastive + diversity),
audio without on the latter alone. A batch is of one kind or the other; the loss follows what it
holds. Normalisation is the released code's: all of it is divided by the masked frames.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from xlsr_jax.models import layers
from xlsr_jax.models.flops import BACKWARD
from xlsr_jax.models.unispeech import Forward, ModelConfig, UniSpeech
from xlsr_jax.objectives import contrastive, ctc, draws, masking, wav2vec2
from xlsr_jax.objectives.wav2vec2 import SAMPLE_RATE, Sums, Wav2Vec2Objective
from xlsr_jax.schema import setting

BEST_BY = "error_rate"  # the released code keeps the checkpoint with the lowest held-out PER
LABELLED = True  # its batches have labels
JOINT = True  # and others may have none
__all__ = ["ModelConfig", "ObjectiveConfig", "UniSpeechObjective", "make_objective"]


@dataclasses.dataclass(frozen=True)
class ObjectiveConfig(wav2vec2.ObjectiveConfig):
    """What is optimised. Defaults are the published ones where UniSpeech has its own."""

    feature_penalty_weight: float = setting(
        0.0, "of the mean square of the feature encoder's output", low=0.0
    )
    alpha: float = setting(0.5, "weight of CTC; the rest is the contrastive task's", low=0, high=1)
    replace_prob: float = setting(
        0.5, "r: frames whose context is replaced before the classifier", low=0.0, high=1.0
    )
    replace_in_evaluation: bool = setting(
        False, "replace in evaluation too, as the released code does"
    )
    distractors_from: str = setting(
        "masked",
        "masked: other masked frames; everywhere: all other frames, with noise of their own "
        "(released, with labels)",
        choices=("masked", "everywhere"),
    )
    ctc_over: str = setting(
        "utterance",
        "what a row's CTC loss counts: utterance, its whole sum (released); label, its mean over "
        "labels for each masked frame of the row",
        choices=("utterance", "label"),
    )


class UniSpeechObjective(Wav2Vec2Objective):
    """UniSpeech over a batch, with labels as in ``finetune`` or without.

    What is otherwise drawn may be given: ``everywhere`` [B, T, G, V] noise, ``replace`` [B, T].
    """

    config: ObjectiveConfig

    def __init__(
        self,
        model: ModelConfig,
        objective: ObjectiveConfig,
        classes: int = 0,
        languages: Sequence[str] = (),
        constrain: layers.Constrain = layers.unconstrained,
    ):
        super().__init__(model, objective, languages, constrain)
        self.model = UniSpeech(model, constrain, classes=classes)
        self.best_by = BEST_BY if classes else wav2vec2.BEST_BY

    def loss(
        self,
        params: Mapping[str, Any],
        batch: Mapping[str, jax.Array],
        key: jax.Array,
        step: jax.Array,
        *,
        train: bool = True,
        microbatches: int = 1,
    ) -> Sums:
        """As ``Wav2Vec2Objective.loss``. Held-out CTC is of audio that is not masked.

        "loss_per_label" is nats of CTC, "contrastive_loss" nats a masked frame.
        """
        sums, forward, masked = self._pretrain(params, batch, key, step, train, microbatches)
        if not self.model.classes:
            return sums
        if "labels" not in batch:
            nothing = {name: (jnp.zeros(()), jnp.zeros(())) for name in CTC_FIGURES}
            nothing["labelled_seconds"] = (jnp.zeros(()), jnp.ones(()))
            return sums | nothing
        logits = forward.logits
        if not train:
            replace = None
            if self.config.replace_in_evaluation:
                replace = self._replace(batch, draws.row_keys(key, batch["row"]))
            logits = self.model.apply(
                {"params": params},
                batch["waveform"],
                batch["samples"],
                replace,
                method=UniSpeech.transcribe,
            )
        return self._joint(sums, logits, masked, batch)

    def _joint(self, sums: Sums, logits, masked: masking.Masked, batch) -> Sums:
        cfg = self.config
        frames_B = self.model.config.frames(batch["samples"])
        labels = (batch["labels"], batch["label_count"])
        loss_B, feasible_B = ctc.ctc_loss(logits, frames_B, *labels)
        errors_B, decoded_B = ctc.greedy_errors(logits, frames_B, *labels)
        weight_B = batch["weight"]
        used_B = weight_B * feasible_B
        labels_B = batch["label_count"] * weight_B
        contrastive_loss, masked_frames = sums["loss"]
        counted_B = loss_B * used_B
        if cfg.ctc_over == "label":
            counted_B *= jnp.sum(masked.valid, axis=1) / jnp.maximum(labels_B, 1)
        loss = cfg.alpha * jnp.sum(counted_B) + (1 - cfg.alpha) * contrastive_loss
        one = jnp.ones(())
        figures = {
            "loss_per_label": (jnp.sum(loss_B * used_B), jnp.sum(labels_B * feasible_B)),
            "error_rate": (jnp.sum(errors_B * weight_B), jnp.sum(labels_B)),
            "decoded": (jnp.sum(decoded_B * weight_B), jnp.sum(labels_B)),
            "infeasible": (jnp.sum(weight_B) - jnp.sum(used_B), one),
            "labelled_seconds": (jnp.sum(weight_B * batch["samples"]) / SAMPLE_RATE, one),
        }
        return sums | {"loss": (loss, masked_frames)} | jax.lax.stop_gradient(figures)

    def _distractors(self, batch, masked: masking.Masked, keys_B) -> jax.Array:
        if self.config.distractors_from == "masked":
            return super()._distractors(batch, masked, keys_B)
        return contrastive.draw_distractors(
            draws.purpose(keys_B, draws.DISTRACTORS),
            masked.valid,
            self.config.distractors,
            masked.positions,
            self.model.config.frames(batch["samples"]),
        )

    def _random(self, batch, masked: masking.Masked, key, keys_B) -> dict[str, Any]:
        random = super()._random(batch, masked, key, keys_B)
        noise = batch.get("everywhere")
        if noise is None:
            length = masked.mask.shape[1]
            noise = self._gumbel(draws.purpose(keys_B, draws.EVERYWHERE), length)
        random["everywhere_BTGV"] = noise
        if self.model.classes and "labels" in batch:
            random["replace_BT"] = self._replace(batch, keys_B)
        return random

    def _replace(self, batch, keys_B) -> jax.Array:
        """[B, T] bool: frames, masked or not, whose quantized vector the classifier sees."""
        if "replace" in batch:
            return batch["replace"]
        length = self.model.config.frames(batch["waveform"].shape[1])
        draw = lambda key: jax.random.bernoulli(key, self.config.replace_prob, (length,))  # noqa: E731
        return jax.vmap(draw)(draws.purpose(keys_B, draws.REPLACE))

    def _score(self, forward: Forward, masked: masking.Masked, distractors) -> contrastive.Scores:
        if self.config.distractors_from == "masked":
            return super()._score(forward, masked, distractors)
        return contrastive.score(
            forward.contexts,
            forward.targets,
            forward.quantized.codes,
            masked.valid,
            distractors,
            self.config.temperature,
            (forward.vectors, forward.everywhere.codes),
        )

    def summarize(self, sums: Sums) -> dict[str, jax.Array]:
        """Of the contrastive task, and of CTC; NaN where no batch had labels."""
        metrics = super().summarize(sums)
        if self.model.classes:
            metrics |= {name: jnp.asarray(sums[name][0]) / sums[name][1] for name in CTC_FIGURES}
        return metrics

    def alarms(self, figures: Mapping[str, float], step: int) -> dict[str, str]:
        """Those of the contrastive task; none with ``alpha`` 1, as labels alone do not train it."""
        return {} if self.config.alpha == 1 else super().alarms(figures, step)

    def flops(self, rows: int, samples: int) -> float:
        """As wav2vec 2.0; every frame is quantized and classified."""
        c = self.model.config
        width = 2 * c.groups * c.codewords * c.conv_dims[-1] + 2 * c.code_dim * c.final_dim
        width += 2 * c.dim * (self.model.classes + c.final_dim)
        everywhere = rows * c.frames(samples) * width * (1 + BACKWARD)
        return super().flops(rows, samples) + everywhere


CTC_FIGURES = ("loss_per_label", "error_rate", "decoded", "infeasible", "labelled_seconds")


def make_objective(
    model: ModelConfig,
    objective: ObjectiveConfig,
    languages: Sequence[str],
    constrain: layers.Constrain = layers.unconstrained,
    classes: int = 0,
) -> UniSpeechObjective:
    """The objective as ``experiment`` asks every method for it; ``classes`` with the blank."""
    return UniSpeechObjective(model, objective, classes, languages, constrain)
