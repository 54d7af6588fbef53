"""The wav2vec 2.0 / XLSR pretraining objective.

Every quantity leaves as (numerator, denominator) over the rows given, so that sums over
microbatches, devices and evaluation batches may be added first and divided once. Everything
random is drawn per row from fold_in(key, global row number), so that the draws do not depend on
how the batch is cut.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from xlsr_jax.models import layers
from xlsr_jax.models.flops import pretraining_flops
from xlsr_jax.models.quantizer import group_perplexity, perplexity
from xlsr_jax.models.wav2vec2 import Forward, ModelConfig, Wav2Vec2
from xlsr_jax.objectives import contrastive, draws, masking
from xlsr_jax.objectives.alarms import contrastive_alarms
from xlsr_jax.schema import ConfigError, setting

SAMPLE_RATE = 16_000
BEST_BY = "contrastive_loss"  # wav2vec 2.0 section 4.2: the lowest held-out one
LABELLED = False

Sums = dict[str, tuple[jax.Array, jax.Array]]


@dataclasses.dataclass(frozen=True)
class ObjectiveConfig:
    """What is optimised. Defaults are the published Base's (LibriSpeech)."""

    mask_prob: float = setting(
        0.65,
        "share of frames in spans, overlaps counted twice: the papers' p x mask_length",
        low=0.0,
        high=1.0,
    )
    mask_length: int = setting(10, "frames of a span", low=1)
    mask_min_spans: int = setting(2, "spans a row gets at least", low=1)
    distractors: int = setting(100, "K, of each masked frame", low=1)
    temperature: float = setting(0.1, "divides the cosine similarity", low=0.05)
    gumbel_start: float = setting(2.0, "temperature of the code choice at update 0", low=1e-3)
    gumbel_floor: float = setting(0.5, "temperature it falls to (Large 0.1)", low=1e-3)
    gumbel_decay: float = setting(0.999995, "its factor an update", low=0.0, high=1.0)
    diversity_weight: float = setting(0.1, "of the diversity loss", low=0.0)
    diversity: str = setting(
        "perplexity",
        "perplexity: (GV - perplexity) / GV, the published code; entropy: -H / GV, the papers'",
        choices=("perplexity", "entropy"),
    )
    diversity_groups: int = setting(
        1, "parts of the global batch with a diversity each: the published runs' GPUs", low=1
    )
    feature_penalty_weight: float = setting(
        10.0, "of the mean square of the feature encoder's output (Large 0)", low=0.0
    )
    alarm_patience: int = setting(
        5_000, "updates after which a loss still at chance raises an alarm", low=1
    )

    def __post_init__(self):
        if self.gumbel_floor > self.gumbel_start:
            raise ConfigError(
                f"objective.gumbel_floor {self.gumbel_floor} must not be above "
                f"objective.gumbel_start {self.gumbel_start}"
            )

    def gumbel_temperature(self, step: jax.Array) -> jax.Array:
        """max(start * decay^step, floor) after ``step`` contrastive updates."""
        # Not decay**step: fp32 rounds the base, which 250 k updates would show.
        falling = self.gumbel_start * jnp.exp(step * math.log(max(self.gumbel_decay, 1e-30)))
        return jnp.maximum(falling, self.gumbel_floor)


class Wav2Vec2Objective:
    """wav2vec 2.0 pretraining over a batch.

    A batch is a dict of arrays: ``waveform`` [B, N] fp32 at 16 kHz, ``samples`` [B] int32 valid
    samples, ``language`` [B] int32, ``row`` [B] int32 row number in the step's global batch,
    ``weight`` [B] fp32, 1, or 0 for filler. What is otherwise drawn may be given: ``masked`` and
    ``masked_valid`` [B, M], ``distractors`` [B, M, K], ``gumbel`` [B, M, G, V].
    """

    best_by = BEST_BY

    def __init__(
        self,
        model: ModelConfig,
        objective: ObjectiveConfig,
        languages: Sequence[str] = (),
        constrain: layers.Constrain = layers.unconstrained,
    ):
        self.config = objective
        self.model = Wav2Vec2(model, constrain)
        self.languages = tuple(languages)

    def init(self, key: jax.Array) -> dict[str, Any]:
        """Parameters, fp32, as a plain nested dict."""
        samples, _ = self.model.config.geometry
        waveform, index = jnp.zeros((1, samples)), jnp.zeros((1, 1), jnp.int32)
        mask = jnp.zeros((1, self.model.config.frames(samples)), bool)
        return self.model.init(key, waveform, jnp.array([samples]), mask, index)["params"]

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
          key: the update's; the same for all of its microbatches.
          step: contrastive updates done, for the Gumbel temperature.
          train: whether to draw dropout, LayerDrop and Gumbel noise. Masks and distractors are
            drawn either way.
          microbatches: into how many parts the update's rows were cut. Row i of part m is row
            i * microbatches + m of the update, and update row r belongs to diversity group r mod
            ``diversity_groups``, so that each part holds whole groups. Evaluation has one group.

        Raises:
          ConfigError: where rows, microbatches and diversity groups do not divide, or rows are
            shorter than one frame.
        """
        return self._pretrain(params, batch, key, step, train, microbatches)[0]

    def _pretrain(
        self, params, batch, key, step, train, microbatches
    ) -> tuple[Sums, Forward, masking.Masked]:
        """The sums of ``loss``, and the forward pass and the masks that they come from."""
        cfg = self.config
        groups = self._local_groups(batch["waveform"].shape[0], microbatches) if train else 1
        keys_B = draws.row_keys(key, batch["row"])
        masked = self._masked(batch, draws.purpose(keys_B, draws.MASK))
        distractors = batch.get("distractors")
        if distractors is None:
            distractors = self._distractors(batch, masked, keys_B)
        temperature = cfg.gumbel_temperature(step)
        random = self._random(batch, masked, key, keys_B) if train else {}
        forward = self.model.apply(
            {"params": params},
            batch["waveform"],
            batch["samples"],
            masked.mask,
            masked.positions,
            temperature=temperature,
            **random,
        )
        sums = self._sums(forward, batch, masked, distractors, temperature, groups)
        return sums, forward, masked

    def _distractors(self, batch, masked: masking.Masked, keys_B) -> jax.Array:
        keys_B = draws.purpose(keys_B, draws.DISTRACTORS)
        return contrastive.draw_distractors(keys_B, masked.valid, self.config.distractors)

    def _random(self, batch, masked: masking.Masked, key, keys_B) -> dict[str, Any]:
        """What is drawn in training alone, as arguments of the model."""
        random = {"randomness": draws.randomness(key, keys_B, self.model.config)}
        random["gumbel_BMGV"] = batch.get("gumbel")
        if random["gumbel_BMGV"] is None:
            random["gumbel_BMGV"] = self._gumbel(
                draws.purpose(keys_B, draws.GUMBEL), masked.valid.shape[1]
            )
        return random

    def _gumbel(self, keys_B, frames: int) -> jax.Array:
        """[B, frames, G, V] noise of the code choice."""
        shape = (frames, self.model.config.groups, self.model.config.codewords)
        return jax.vmap(lambda key: jax.random.gumbel(key, shape))(keys_B)

    def _score(self, forward: Forward, masked: masking.Masked, distractors) -> contrastive.Scores:
        return contrastive.score(
            forward.contexts,
            forward.targets,
            forward.quantized.codes,
            masked.valid,
            distractors,
            self.config.temperature,
        )

    def _local_groups(self, rows: int, microbatches: int) -> int:
        """Diversity groups among ``rows``; row i belongs to group i mod this number."""
        groups, left = divmod(self.config.diversity_groups, microbatches)
        if left:
            raise ConfigError(
                f"objective.diversity_groups {self.config.diversity_groups} must be a multiple of "
                f"training.accumulation {microbatches}, so that a microbatch holds whole groups"
            )
        if rows % groups:
            raise ConfigError(
                f"{rows} rows of a microbatch do not divide over {groups} diversity groups; "
                f"use {rows - rows % groups or groups} rows or another objective.diversity_groups"
            )
        return groups

    def _masked(self, batch, keys_B) -> masking.Masked:
        cfg, c = self.config, self.model.config
        length = c.frames(batch["waveform"].shape[1])
        if length < 1:
            raise ConfigError(
                f"a batch of {batch['waveform'].shape[1]} samples a row is shorter than one frame; "
                f"crops need at least {c.geometry[0]} samples"
            )
        if "masked" in batch:
            hit = batch["masked"][..., None] == jnp.arange(length)
            mask = jnp.any(hit & batch["masked_valid"][..., None], axis=1)
            return masking.Masked(mask, batch["masked"], batch["masked_valid"])
        spans = (cfg.mask_prob, cfg.mask_length, cfg.mask_min_spans)
        mask = masking.span_mask(
            keys_B,
            c.frames(batch["samples"]),
            length,
            prob=cfg.mask_prob,
            span=cfg.mask_length,
            min_spans=cfg.mask_min_spans,
        )
        return masking.gather_masked(mask, masking.most_masked(length, *spans))

    def _sums(self, forward: Forward, batch, masked, distractors, temperature, groups) -> Sums:
        cfg, c = self.config, self.model.config
        weight_B = batch["weight"]
        scores = self._score(forward, masked, distractors)
        scores = jax.tree.map(lambda x_B: x_B * weight_B, scores)
        frames = jnp.sum(scores.frames)
        contrastive_loss = jnp.sum(scores.loss)

        # [B, M] weight of each masked frame in the statistics of the codebook.
        weight_BM = masked.valid * (scores.frames > 0)[:, None]
        diversity = self._diversity(forward.quantized.probabilities, weight_BM, groups)
        penalty = self._feature_penalty(forward.features, batch, scores.frames, groups)
        loss = (
            contrastive_loss
            + cfg.diversity_weight * diversity
            + cfg.feature_penalty_weight * penalty
        )
        code_BMGV = jax.nn.one_hot(forward.quantized.best, c.codewords) * weight_BM[..., None, None]
        one = jnp.ones(())
        seconds_B = weight_B * batch["samples"] / SAMPLE_RATE
        sums = {
            "loss": (loss, frames),
            "contrastive_loss": (contrastive_loss, frames),
            "accuracy": (jnp.sum(scores.correct), frames),
            "chance_accuracy": (jnp.sum(scores.chance), frames),
            "chance_loss": (jnp.sum(scores.chance_loss), frames),
            "distractor_equal": (jnp.sum(scores.equal), frames * distractors.shape[-1]),
            "diversity": (diversity, frames),
            "feature_penalty": (penalty, frames),
            "codes": (jnp.sum(code_BMGV, axis=(0, 1)), frames),
            "probabilities": (
                jnp.einsum("bm,bmgv->gv", weight_BM, forward.quantized.probabilities),
                frames,
            ),
            "masked_share": (
                jnp.sum(jnp.sum(masked.mask, axis=1) * weight_B),
                jnp.sum(c.frames(batch["samples"]) * weight_B),
            ),
            "temperature": (temperature * one, one),
            "seconds": (jnp.sum(seconds_B), one),
        }
        if c.groups == 2:
            pairs = jnp.einsum("bmv,bmw->vw", code_BMGV[:, :, 0], code_BMGV[:, :, 1])
            sums["code_pairs"] = (pairs, frames)
        if self.languages:
            language_BL = jax.nn.one_hot(batch["language"], len(self.languages))
            per_language = lambda x_B: x_B @ language_BL  # noqa: E731
            frames_L = per_language(scores.frames)
            sums["language_loss"] = (per_language(scores.loss), frames_L)
            sums["language_accuracy"] = (per_language(scores.correct), frames_L)
            sums["language_audio"] = (per_language(seconds_B), jnp.sum(seconds_B))
        # What is reported needs no gradient, and must not keep activations for one.
        return {k: v if k == "loss" else jax.lax.stop_gradient(v) for k, v in sums.items()}

    def _diversity(self, probabilities_BMGV, weight_BM, groups):
        """Each diversity group's penalty times its number of masked frames, summed."""
        c = self.model.config
        rows = jnp.einsum("bm,bmgv->bgv", weight_BM, probabilities_BMGV)
        sums_DGV = jnp.sum(rows.reshape(-1, groups, *rows.shape[1:]), axis=0)
        frames_D = jnp.sum(jnp.sum(weight_BM, axis=1).reshape(-1, groups), axis=0)
        mean_DGV = sums_DGV / jnp.maximum(frames_D, 1)[:, None, None]
        total = c.groups * c.codewords
        if self.config.diversity == "perplexity":
            penalty_D = (total - perplexity(mean_DGV)) / total
        else:
            penalty_D = jnp.sum(mean_DGV * jnp.log(mean_DGV + 1e-7), axis=(1, 2)) / total
        return jnp.sum(penalty_D * frames_D)

    def _feature_penalty(self, features_BTC, batch, masked_B, groups):
        """Each group's mean square over valid frames times its number of masked frames, summed."""
        _, length, width = features_BTC.shape
        frames_B = self.model.config.frames(batch["samples"])
        valid_BT = (jnp.arange(length) < frames_B[:, None]) * batch["weight"][:, None]
        square_BT = jnp.mean(jnp.square(features_BTC.astype(jnp.float32)), axis=-1)
        by_group = lambda x_B: jnp.sum(x_B.reshape(-1, groups), axis=0)  # noqa: E731
        count_D = by_group(jnp.sum(valid_BT, axis=1))
        mean_D = by_group(jnp.sum(square_BT * valid_BT, axis=1)) / jnp.maximum(count_D, 1)
        return jnp.sum(mean_D * by_group(masked_B))

    def summarize(self, sums: Sums) -> dict[str, jax.Array]:
        """Logged scalars of sums that were added over microbatches, devices or batches.

        "loss" and "contrastive_loss" are nats per masked frame; "chance_loss" and
        "chance_accuracy" are what guessing gives (see ``contrastive.Scores``). Perplexities are
        over all frames summed, in [G, G * V], and in [1, V] for one group. Languages without audio
        in the sums give NaN.
        """
        ratio = {name: jnp.asarray(n) / d for name, (n, d) in sums.items()}
        plain = (
            "loss",
            "contrastive_loss",
            "accuracy",
            "chance_accuracy",
            "chance_loss",
            "distractor_equal",
            "diversity",
            "feature_penalty",
            "masked_share",
            "temperature",
        )
        metrics = {name: ratio[name] for name in plain}
        metrics |= {
            "code_perplexity": perplexity(ratio["codes"]),
            "prob_perplexity": perplexity(ratio["probabilities"]),
            "masked_frames": sums["loss"][1],
            "audio_seconds": sums["seconds"][0],
        }
        for g, value in enumerate(group_perplexity(ratio["codes"])):
            metrics[f"code_perplexity/{g}"] = value
        if "code_pairs" in sums:
            metrics["code_pairs"] = jnp.sum(sums["code_pairs"][0] > 0)
        for i, language in enumerate(self.languages):
            metrics[f"loss/{language}"] = ratio["language_loss"][i]
            metrics[f"accuracy/{language}"] = ratio["language_accuracy"][i]
            metrics[f"audio_share/{language}"] = ratio["language_audio"][i]
        return metrics

    def alarms(self, figures: Mapping[str, float], step: int) -> dict[str, str]:
        """What in the figures of a log line deserves a warning: name -> text."""
        return contrastive_alarms(figures, step, patience=self.config.alarm_patience)

    def flops(self, rows: int, samples: int) -> float:
        """Model FLOPs of one update, see ``models/flops.py``."""
        share = 1 - (1 - self.config.mask_prob / self.config.mask_length) ** self.config.mask_length
        return pretraining_flops(self.model.config, rows, samples, share)


def make_objective(
    model: ModelConfig,
    objective: ObjectiveConfig,
    languages: Sequence[str],
    constrain: layers.Constrain = layers.unconstrained,
) -> Wav2Vec2Objective:
    """The objective as ``experiment`` asks every method for it."""
    return Wav2Vec2Objective(model, objective, languages, constrain)
