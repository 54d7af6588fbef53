"""Fine-tuning with CTC: an output layer on the context network, the rest trained or frozen.

wav2vec 2.0 sections 3.3 and 4.3, XLSR section 3.2. The loss is a sum over utterances; infeasible
rows and rows that fill a batch count for nothing. The same objective reads a pretraining out:
with the whole model frozen, an inner layer, or the strided output layer of modified CPC's probe.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from xlsr_jax.models import layers
from xlsr_jax.models.context_network import SITE_HEAD
from xlsr_jax.models.dropout import dropout
from xlsr_jax.models.flops import BACKWARD
from xlsr_jax.models.networks import Settings, forward_flops, make_network
from xlsr_jax.models.wav2vec2 import ModelConfig
from xlsr_jax.objectives import ctc, draws, masking
from xlsr_jax.objectives.wav2vec2 import SAMPLE_RATE, Sums
from xlsr_jax.schema import ConfigError, setting

BEST_BY = "error_rate"  # the checkpoint with the lowest held-out one is the best
LABELLED = True  # its batches have labels
FROZEN = ("nothing", "encoder", "model")
TARGETS = ("ctc", "frames")
__all__ = ["FinetuneObjective", "ModelConfig", "ObjectiveConfig", "make_objective"]


@dataclasses.dataclass(frozen=True)
class ObjectiveConfig:
    """What is optimised. Defaults are the released Base's with an hour of labels."""

    mask_prob: float = setting(
        0.65, "share of frames in time spans, the papers' p x mask_length", low=0.0, high=1.0
    )
    mask_length: int = setting(10, "frames of a span", low=1)
    mask_min_spans: int = setting(0, "time spans a row gets at least", low=0)
    channel_prob: float = setting(
        0.25, "share of channels in channel spans, the papers' p x channel_length", low=0, high=1
    )
    channel_length: int = setting(64, "channels of a span", low=1)
    final_dropout: float = setting(0.0, "rate on the output layer's input", low=0, high=0.99)
    freeze_updates: int = setting(
        10_000, "first updates, in which the output layer alone learns", low=0
    )
    frozen: str = setting(
        "encoder", "what never learns: nothing, the feature encoder, or the model", choices=FROZEN
    )
    target: str = setting(
        "ctc", "ctc: the labels in order; frames: the label of each frame", choices=TARGETS
    )
    layer: int = setting(-1, "what is read: -1 the contexts, n the input of layer n", low=-1)
    head_kernel: int = setting(1, "frames that an output sees (modified CPC's probe: 8)", low=1)
    head_stride: int = setting(1, "frames between outputs (modified CPC's probe: 4)", low=1)
    alarm_patience: int = setting(
        2_000, "updates after the freeze, after which outputs all blank raise an alarm", low=1
    )


class FinetuneObjective:
    """CTC over a labelled batch.

    A batch is that of pretraining with ``labels`` [B, L] int32 and ``label_count`` [B] int32.
    What is otherwise drawn may be given: ``mask`` [B, T] and ``channel_mask`` [B, D], bool.
    """

    best_by = BEST_BY

    def __init__(
        self,
        model: Settings,
        objective: ObjectiveConfig,
        classes: int,
        languages: Sequence[str] = (),
        constrain: layers.Constrain = layers.unconstrained,
        frozen: str | None = None,
    ):
        """``frozen`` takes the place of the config's, for a phase that trains less."""
        if objective.layer >= model.layers:
            raise ConfigError(
                f"objective.layer {objective.layer}: the model has layers 0 to {model.layers - 1}"
            )
        if (frozen or objective.frozen) == "nothing" and not model.feature_grad_scale:
            raise ConfigError(
                "objective.frozen nothing with model.feature_grad_scale 0 leaves the feature "
                "encoder untrained; set model.feature_grad_scale=1.0, or objective.frozen=encoder"
            )
        self.config = objective
        self.model = make_network(model, constrain)
        self.classes = classes
        self.languages = tuple(languages)
        self.frozen = objective.frozen if frozen is None else frozen

    def init(self, key: jax.Array) -> dict[str, Any]:
        """Parameters, fp32: the network without its pretraining heads, and ``output``."""
        samples, _ = self.model.config.geometry
        inputs = jnp.zeros((1, samples)), jnp.array([samples])
        trunk = self.model.init(key, *inputs, method="read").get("params", {})
        head = ctc.init_head(self.model.config.dim, self.classes, self.config.head_kernel)
        return trunk | {"output": head}

    def logits(
        self,
        params: Mapping[str, Any],
        batch: Mapping[str, jax.Array],
        key: jax.Array | None = None,
    ) -> tuple[jax.Array, jax.Array]:
        """[B, T, V] fp32 and valid frames [B]; ``key`` draws masks and dropout, None neither."""
        cfg, c = self.config, self.model.config
        mask, channel_mask, randomness, seeds = None, None, None, None
        if key is not None:
            keys_B = draws.row_keys(key, batch["row"])
            mask, channel_mask = self._masks(batch, keys_B)
            randomness = draws.randomness(key, keys_B, c)
            seeds = randomness.seeds
        trunk = {name: value for name, value in params.items() if name != "output"}
        if self.frozen == "model":
            trunk = jax.lax.stop_gradient(trunk)
        x = self.model.apply(
            {"params": trunk},
            batch["waveform"],
            batch["samples"],
            mask,
            channel_mask,
            randomness,
            0.0 if self.frozen == "encoder" else None,
            cfg.layer,
            method="read",
        )
        x = dropout(x, cfg.final_dropout, seeds, SITE_HEAD)
        frames_B = c.frames(batch["samples"])
        return ctc.apply_head(x, frames_B, params["output"], cfg.head_kernel, cfg.head_stride)

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
        """(numerator, denominator) of everything; "loss" is what is differentiated.

        Args:
          train: whether to draw masks, dropout and LayerDrop.
        """
        logits, frames_B = self.logits(params, batch, key if train else None)
        if self.config.target == "frames":
            return self._frame_sums(logits, frames_B, batch)
        labels = (batch["labels"], batch["label_count"])
        loss_B, feasible_B = ctc.ctc_loss(logits, frames_B, *labels)
        errors_B, decoded_B = ctc.greedy_errors(logits, frames_B, *labels)
        weight_B = batch["weight"]
        loss_B, counted_B = loss_B * weight_B, weight_B * feasible_B
        utterances = jnp.sum(counted_B)
        symbols_B = batch["label_count"] * weight_B
        seconds_B = weight_B * batch["samples"] / SAMPLE_RATE
        sums = {
            "loss": (jnp.sum(loss_B), utterances),
            "loss_per_label": (jnp.sum(loss_B), jnp.sum(symbols_B * feasible_B)),
            "error_rate": (jnp.sum(errors_B * weight_B), jnp.sum(symbols_B)),
            "decoded": (jnp.sum(decoded_B * weight_B), jnp.sum(symbols_B)),
            "infeasible": (jnp.sum(weight_B) - utterances, jnp.ones(())),
            "seconds": (jnp.sum(seconds_B), jnp.ones(())),
        }
        if self.languages:
            language_BL = jax.nn.one_hot(batch["language"], len(self.languages))
            per_language = lambda x_B: x_B @ language_BL  # noqa: E731
            sums["language_errors"] = (
                per_language(errors_B * weight_B), per_language(symbols_B)
            )  # fmt: skip
            sums["language_audio"] = (per_language(seconds_B), jnp.sum(seconds_B))
        return {k: v if k == "loss" else jax.lax.stop_gradient(v) for k, v in sums.items()}

    def _frame_sums(self, logits_BTV, frames_B, batch) -> Sums:
        """Cross-entropy of each frame that has a label; label 0 is none."""
        length = logits_BTV.shape[1]
        short = max(length - batch["labels"].shape[1], 0)
        labels_BT = jnp.pad(batch["labels"], ((0, 0), (0, short)))[:, :length]
        valid_BT = (labels_BT > 0) & (jnp.arange(length) < frames_B[:, None])
        weight_BT = valid_BT * batch["weight"][:, None]
        # No frame is blank.
        scores = jax.nn.log_softmax(logits_BTV.at[..., 0].set(-jnp.inf))
        chosen_BT1 = jnp.maximum(labels_BT, 1)[..., None]
        loss_BT = -jnp.take_along_axis(scores, chosen_BT1, axis=-1)[..., 0]
        wrong_BT = (jnp.argmax(scores, axis=-1) != labels_BT) * weight_BT
        frames = jnp.sum(weight_BT)
        loss = (jnp.sum(loss_BT * weight_BT), frames)
        seconds_B = batch["weight"] * batch["samples"] / SAMPLE_RATE
        sums = {
            "loss": loss,
            "loss_per_label": loss,
            "error_rate": (jnp.sum(wrong_BT), frames),
            "decoded": (frames, frames),
            "infeasible": (jnp.zeros(()), jnp.ones(())),
            "seconds": (jnp.sum(seconds_B), jnp.ones(())),
        }
        if self.languages:
            language_BL = jax.nn.one_hot(batch["language"], len(self.languages))
            by_row = [jnp.sum(x_BT, axis=1) @ language_BL for x_BT in (wrong_BT, weight_BT)]
            sums["language_errors"] = tuple(by_row)
            sums["language_audio"] = (seconds_B @ language_BL, jnp.sum(seconds_B))
        return {k: v if k == "loss" else jax.lax.stop_gradient(v) for k, v in sums.items()}

    def _masks(self, batch, keys_B) -> tuple[jax.Array, jax.Array]:
        cfg, c = self.config, self.model.config
        if "mask" in batch:
            return batch["mask"], batch["channel_mask"]
        mask_BT = masking.span_mask(
            draws.purpose(keys_B, draws.MASK),
            c.frames(batch["samples"]),
            c.frames(batch["waveform"].shape[1]),
            prob=cfg.mask_prob,
            span=cfg.mask_length,
            min_spans=cfg.mask_min_spans,
        )
        channels_B = jnp.full(batch["samples"].shape, c.dim)
        channel_mask_BD = masking.span_mask(
            draws.purpose(keys_B, draws.CHANNELS),
            channels_B,
            c.dim,
            prob=cfg.channel_prob,
            span=cfg.channel_length,
            min_spans=0,
        )
        return mask_BT, channel_mask_BD

    def summarize(self, sums: Sums) -> dict[str, jax.Array]:
        """Logged scalars: "loss" nats an utterance, "error_rate" of greedy decoding.

        "decoded" is symbols written over symbols wanted: 0 on the plateau of blanks.
        """
        ratio = {name: jnp.asarray(n) / d for name, (n, d) in sums.items()}
        plain = ("loss", "loss_per_label", "error_rate", "decoded", "infeasible")
        metrics = {name: ratio[name] for name in plain}
        metrics["audio_seconds"] = sums["seconds"][0]
        for i, language in enumerate(self.languages):
            metrics[f"error_rate/{language}"] = ratio["language_errors"][i]
            metrics[f"audio_share/{language}"] = ratio["language_audio"][i]
        return metrics

    def alarms(self, figures: Mapping[str, float], step: int) -> dict[str, str]:
        """A model that still writes nothing but blanks."""
        output_layer_alone = self.frozen != self.config.frozen
        if output_layer_alone or step < self.config.alarm_patience or figures["decoded"] > 0.01:
            return {}
        return {
            "only blanks": f"after {step} updates the outputs are still all blank (error rate "
            f"{figures['error_rate']:.0%}); raise config.optimizer.peak_lr, train for longer, or "
            "begin from a pretrained run with config.init_from"
        }

    def flops(self, rows: int, samples: int) -> float:
        """Model FLOPs of one update; what is frozen has no backward pass."""
        c = self.model.config
        encoder, context = forward_flops(c, samples)
        context += 2.0 * c.frames(samples) * c.dim * self.classes
        encoder *= 1 + (BACKWARD if self.frozen == "nothing" else 0)
        context *= 1 + (BACKWARD if self.frozen != "model" else 0)
        return rows * (encoder + context)


def make_objective(
    model: Settings,
    objective: ObjectiveConfig,
    languages: Sequence[str],
    constrain: layers.Constrain = layers.unconstrained,
    classes: int = 0,
    frozen: str | None = None,
) -> FinetuneObjective:
    """The objective as ``experiment`` asks every method for it; ``classes`` with the blank."""
    return FinetuneObjective(model, objective, classes, languages, constrain, frozen)
