"""The modified CPC objective: which of 1 + N frames comes k frames from now?

Riviere et al. 2020 (arXiv 2002.02848), section 2.1, and what their code does: a prediction is
compared with the encoder's frames by the dot product averaged over dimensions, no cosine and no
temperature, and the N negatives of a position serve all K steps. Conventions of sums and draws are
those of ``objectives.wav2vec2``.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from xlsr_jax.models import layers
from xlsr_jax.models.cpc import CPC, ModelConfig, pretraining_flops
from xlsr_jax.models.dropout import row_seeds
from xlsr_jax.objectives import draws
from xlsr_jax.objectives.alarms import AT_CHANCE
from xlsr_jax.schema import ConfigError, setting

SAMPLE_RATE = 16_000
BEST_BY = "contrastive_loss"
LABELLED = False

Sums = dict[str, tuple[jax.Array, jax.Array]]


@dataclasses.dataclass(frozen=True)
class ObjectiveConfig:
    """What is optimised. Defaults are the published ones."""

    negatives: int = setting(128, "N, of each position, shared by the K steps", low=1)
    group_rows: int = setting(
        8, "rows that give each other negatives: windows of one speaker, a GPU's batch", low=1
    )
    woven: int = setting(
        1, "groups whose rows alternate; a multiple of training.accumulation", low=1
    )
    alarm_patience: int = setting(
        5_000, "updates after which a loss still at chance raises an alarm", low=1
    )

    @property
    def diversity_groups(self) -> int:
        """What ``training.accumulation`` must divide, by the name that is asked for."""
        return self.woven


class Layout(NamedTuple):
    """How rows lie in groups: i = (block * rows + place) * strands + strand.

    A group is a block's rows of one strand.
    """

    blocks: int
    rows: int
    strands: int


class Negatives(NamedTuple):
    """Frames that are not to be chosen, each [B, P, N] int32.

    Attributes:
      row: place of the frame's row among the rows of the group.
      time: frame of that row.
    """

    row: jax.Array
    time: jax.Array


def draw_negatives(
    keys_B: jax.Array, frames_B: jax.Array, usable_B: jax.Array, layout: Layout, positions: int,
    number: int,
) -> Negatives:  # fmt: skip
    """Negatives of positions 0 to ``positions`` - 1 of each row.

    The row is uniform over the usable ones of the group, its own among them; the frame is (t + u)
    mod T with u uniform in [1, T - 1], T that row's frames. Frame t itself is never taken, and the
    frame to be foretold may be, as in the published code.

    Args:
      keys_B: one a row.
      usable_B: bool, rows that are no filler.
      layout: of the rows in groups.
    """
    rows = layout.rows

    def of_group(x_B):
        by_group = jnp.swapaxes(x_B.reshape(layout), 1, 2)[:, None]
        return jnp.broadcast_to(by_group, (*layout, rows)).reshape(-1, rows)

    frames_BR, usable_BR = of_group(frames_B), of_group(usable_B)
    rank_BR = jnp.cumsum(usable_BR, axis=1) - 1

    def one(key, frames_R, usable_R, rank_R):
        row_key, time_key = jax.random.split(key)
        number_of = _below(row_key, (positions, number), jnp.sum(usable_R))
        chosen = usable_R & (rank_R == number_of[..., None])
        row = jnp.argmax(chosen, axis=-1)
        frames = jnp.sum(jnp.where(row[..., None] == jnp.arange(rows), frames_R, 0), axis=-1)
        shift = 1 + _below(time_key, (positions, number), frames - 1)
        time = (jnp.arange(positions)[:, None] + shift) % jnp.maximum(frames, 1)
        return Negatives(row, time)

    return jax.vmap(one)(keys_B, frames_BR, usable_BR, rank_BR)


def _below(key, shape, bound):
    """int32 uniform in [0, bound), 0 where there is nothing."""
    drawn = (jax.random.uniform(key, shape) * bound).astype(jnp.int32)
    return jnp.clip(drawn, 0, jnp.maximum(bound - 1, 0))


def score(
    predictions_KBPC: jax.Array, features_BTC: jax.Array, negatives: Negatives, layout: Layout
) -> tuple[jax.Array, jax.Array]:
    """Cross-entropy, nats, and whether the right frame scores highest; each [K, B, P] fp32.

    A negative that is the right frame counts in the loss, as published, and is no mistake.

    Each step's predictions meet all frames of the group in one matrix product, and a negative is
    a count in that matrix, so that nothing of width C is gathered. Steps come one after another
    and are computed again on the way back: one of their matrices is there at a time.

    Args:
      predictions_KBPC, features_BTC: see ``models.cpc.Forward``; gradient flows into both.
      layout: of the rows in groups.
    """
    k, batch, positions, width = predictions_KBPC.shape
    rows, length = layout.rows, features_BTC.shape[1]
    features = features_BTC.reshape(*layout, length, width)
    predictions = predictions_KBPC.reshape(k, *layout, positions, width)
    counts = _counts(negatives, rows, length).reshape(*layout, positions, rows, length)
    dot = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)

    @jax.checkpoint
    def step(number, prediction):
        right = jax.lax.dynamic_slice_in_dim(features, number, positions, axis=3)
        positive = dot("brspc,brspc->brsp", prediction, right) / width
        scores = dot("brspc,bqstc->brspqt", prediction, features) / width
        wrong = (counts > 0) & ~_is_right(rows, positions, length, number)
        best = jnp.max(jnp.where(wrong, scores, -jnp.inf), axis=(-2, -1))
        top = jax.lax.stop_gradient(jnp.maximum(best, positive))
        # The right frame among the negatives scores as ``positive``, but for rounding.
        below = jnp.where(counts > 0, scores - top[..., None, None], -jnp.inf)
        mass = jnp.sum(counts * jnp.exp(below), axis=(-2, -1))
        loss = jnp.log(jnp.exp(positive - top) + mass) + top - positive
        return loss, (positive > best).astype(jnp.float32)

    numbered = (1 + jnp.arange(k), predictions)
    _, scored = jax.lax.scan(lambda _, x: (None, step(*x)), None, numbered)
    loss, correct = (x.reshape(k, batch, positions) for x in scored)
    return loss, correct


def _is_right(rows, positions, length, number):
    """[R, 1, P, R, T] bool: the frame that each position is to foretell."""
    same_row = jnp.eye(rows, dtype=bool)[:, None, None, :, None]
    later = jnp.arange(length) == number + jnp.arange(positions)[:, None]
    return same_row & later[:, None, :]


def _counts(negatives, rows, length):
    """[B, P, R, T] fp32: how often each frame was drawn. Multiplied, never scattered."""

    def position(place):
        row_BNR = (place.row[..., None] == jnp.arange(rows)).astype(jnp.float32)
        time_BNT = (place.time[..., None] == jnp.arange(length)).astype(jnp.float32)
        return jnp.einsum("bnr,bnt->brt", row_BNR, time_BNT)

    # One position after another, so that the flags of all of them are never there at once.
    by_position = jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), negatives)
    return jnp.swapaxes(jax.lax.map(position, by_position), 0, 1)


class CPCObjective:
    """Modified CPC pretraining over a batch.

    A batch is that of ``wav2vec2.Wav2Vec2Objective``. Each ``config.group_rows`` rows one after
    another are a group, as the data of one speaker come, so that a device holds whole groups. A
    batch that is cut into M microbatches, of rows r = m, m + M, ..., must hold whole groups too:
    with ``config.woven`` = W a multiple of M, row r belongs to strand r mod W of block r //
    (group_rows W), and as many rows of one speaker make W groups. A batch of fewer rows is one
    group. What is otherwise drawn may be given: ``negative_row`` and ``negative_time`` [B, P, N],
    see ``Negatives``.

    In evaluation a row is a group of its own: held-out rows are of many speakers, and a row's
    figures do not depend on what else is in its batch.
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
        self.model = CPC(model, constrain)
        self.languages = tuple(languages)

    def init(self, key: jax.Array) -> dict[str, Any]:
        """Parameters, fp32, as a plain nested dict."""
        samples, _ = self.model.config.geometry
        waveform = jnp.zeros((1, samples))
        return self.model.init(key, waveform, jnp.array([samples]), method=CPC.encode)["params"]

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

        It is the sum over the K steps of the mean over positions, those frames of a row after
        which it has K more.

        Args:
          key: the update's; the same for all of its microbatches.
          step: of no effect.
          train: whether to draw dropout, and negatives from the whole group.
          microbatches: into how many parts the update's rows were cut.

        Raises:
          ConfigError: where the rows do not divide into groups, or have no more than K frames.
        """
        cfg, c = self.config, self.model.config
        rows, samples = batch["waveform"].shape
        layout = self._layout(rows, microbatches) if train else Layout(rows, 1, 1)
        positions = c.frames(samples) - c.steps
        if positions < 1:
            raise ConfigError(
                f"a batch of {samples} samples a row has {c.frames(samples)} frames and "
                f"model.steps={c.steps} are foretold; crops need at least {c.steps + 1} frames"
            )
        keys_B = draws.row_keys(key, batch["row"])
        usable_B = batch["weight"] > 0
        frames_B = c.frames(batch["samples"])
        if "negative_row" in batch:
            negatives = Negatives(batch["negative_row"], batch["negative_time"])
        else:
            drawn = draws.purpose(keys_B, draws.DISTRACTORS)
            negatives = draw_negatives(
                drawn, frames_B, usable_B & (frames_B > 1), layout, positions, cfg.negatives
            )
        seeds = row_seeds(draws.purpose(keys_B, draws.DROPOUT)) if train else None
        forward = self.model.apply({"params": params}, batch["waveform"], batch["samples"], seeds)
        loss_KBP, correct_KBP = score(forward.predictions, forward.features, negatives, layout)
        valid_BP = (jnp.arange(positions) + c.steps < frames_B[:, None]) & usable_B[:, None]
        over_positions = lambda x_KBP: jnp.sum(jnp.where(valid_BP, x_KBP, 0), axis=-1)  # noqa: E731
        positions_B = jnp.sum(valid_BP, axis=1, dtype=jnp.float32)
        return self._sums(over_positions(loss_KBP), over_positions(correct_KBP), positions_B, batch)

    def _layout(self, rows: int, microbatches: int) -> Layout:
        cfg = self.config
        strands, left = divmod(cfg.woven, microbatches)
        if left:
            raise ConfigError(
                f"objective.woven {cfg.woven} must be a multiple of training.accumulation "
                f"{microbatches}, so that a microbatch holds whole groups"
            )
        block = cfg.group_rows * strands
        if rows < block and microbatches == 1:
            return Layout(1, rows, 1)
        if rows % block:
            raise ConfigError(
                f"{rows} rows of a microbatch do not divide into groups: batches need a multiple "
                f"of objective.group_rows x objective.woven = {cfg.group_rows * cfg.woven} rows; "
                "set data.same_speaker to it"
            )
        return Layout(rows // block, cfg.group_rows, strands)

    def _sums(self, loss_KB, correct_KB, positions_B, batch) -> Sums:
        steps, one = len(loss_KB), jnp.ones(())
        count = jnp.sum(positions_B)
        candidates = 1 + self.config.negatives
        seconds_B = batch["weight"] * batch["samples"] / SAMPLE_RATE
        sums = {
            "loss": (jnp.sum(loss_KB), count),
            "contrastive_loss": (jnp.sum(loss_KB), steps * count),
            "accuracy": (jnp.sum(correct_KB), steps * count),
            "step_accuracy": (jnp.sum(correct_KB, axis=1), count),
            "chance_loss": (math.log(candidates) * count, count),
            "chance_accuracy": (count / candidates, count),
            "seconds": (jnp.sum(seconds_B), one),
        }
        if self.languages:
            language_BL = jax.nn.one_hot(batch["language"], len(self.languages))
            per_language = lambda x_B: x_B @ language_BL  # noqa: E731
            count_L = steps * per_language(positions_B)
            sums["language_loss"] = (per_language(jnp.sum(loss_KB, axis=0)), count_L)
            sums["language_accuracy"] = (per_language(jnp.sum(correct_KB, axis=0)), count_L)
            sums["language_audio"] = (per_language(seconds_B), jnp.sum(seconds_B))
        # What is reported needs no gradient, and must not keep activations for one.
        return {k: v if k == "loss" else jax.lax.stop_gradient(v) for k, v in sums.items()}

    def summarize(self, sums: Sums) -> dict[str, jax.Array]:
        """Logged scalars of sums that were added over microbatches, devices or batches.

        "loss" is nats a position, summed over the K steps; "contrastive_loss" nats a position and
        step, to be held against "chance_loss", log(1 + N). "accuracy" is over all steps,
        "accuracy/k" that of foretelling k frames ahead. Languages without audio give NaN.
        """
        ratio = {name: jnp.asarray(n) / d for name, (n, d) in sums.items()}
        plain = ("loss", "contrastive_loss", "accuracy", "chance_loss", "chance_accuracy")
        metrics = {name: ratio[name] for name in plain}
        metrics |= {"positions": sums["loss"][1], "audio_seconds": sums["seconds"][0]}
        for number, value in enumerate(ratio["step_accuracy"], start=1):
            metrics[f"accuracy/{number}"] = value
        for i, language in enumerate(self.languages):
            metrics[f"loss/{language}"] = ratio["language_loss"][i]
            metrics[f"accuracy/{language}"] = ratio["language_accuracy"][i]
            metrics[f"audio_share/{language}"] = ratio["language_audio"][i]
        return metrics

    def alarms(self, figures: Mapping[str, float], step: int) -> dict[str, str]:
        """What in the figures of a log line deserves a warning: name -> text."""
        loss, chance = figures["contrastive_loss"], figures["chance_loss"]
        if step < self.config.alarm_patience or not loss > AT_CHANCE * chance:
            return {}
        text = (
            f"contrastive loss {loss:.3f} nats after {step} updates is still the chance level "
            f"{chance:.3f}; try a lower config.optimizer.peak_lr, a longer warm-up, or a larger "
            "config.data.batch_seconds"
        )
        return {"not learning": text}

    def flops(self, rows: int, samples: int) -> float:
        """Model FLOPs of one update, see ``models/flops.py``."""
        return pretraining_flops(self.model.config, rows, samples, 1 + self.config.negatives)


def make_objective(
    model: ModelConfig,
    objective: ObjectiveConfig,
    languages: Sequence[str],
    constrain: layers.Constrain = layers.unconstrained,
) -> CPCObjective:
    """The objective as ``experiment`` asks every method for it."""
    return CPCObjective(model, objective, languages, constrain)
