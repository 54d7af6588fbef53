"""AdamW and the learning-rate schedules of the papers."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import optax

from xlsr_jax.schema import ConfigError, setting

SCHEDULES = ("linear", "tri_stage", "tri_stage_linear")


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """Defaults are the released wav2vec 2.0 Base pretraining values."""

    peak_lr: float = setting(5e-4, "learning rate at the end of warm-up", low=0.0)
    warmup_share: float = setting(0.08, "share of the updates that warm up linearly", low=0, high=1)
    beta1: float = setting(0.9, "decay of the first moment", low=0.0, high=1.0)
    beta2: float = setting(0.98, "decay of the second moment", low=0.0, high=1.0)
    epsilon: float = setting(1e-6, "added to the root of the second moment", low=0.0)
    weight_decay: float = setting(0.01, "decoupled decay of every parameter", low=0.0)
    clip_norm: float = setting(0.0, "global gradient norm bound; 0 leaves gradients alone", low=0.0)
    schedule: str = setting(
        "linear",
        "after warm-up: linear to 0; tri_stage: held, then exponential to final_scale (the "
        "released code); tri_stage_linear: held, then linear to final_scale (the papers)",
        choices=SCHEDULES,
    )
    hold_share: float = setting(0.4, "tri_stage: share of the updates held", low=0.0, high=1.0)
    initial_scale: float = setting(0.01, "tri_stage: first rate over the peak", low=0.0, high=1.0)
    final_scale: float = setting(0.05, "tri_stage: last rate over the peak", low=0.0, high=1.0)
    peak_lr_choices: tuple[float, ...] = setting(
        (), "peak rates to try; the run with the lowest held-out figure is kept", low=0.0
    )

    def __post_init__(self):
        if self.schedule != "linear" and self.warmup_share + self.hold_share > 1:
            raise ConfigError(
                f"optimizer.warmup_share {self.warmup_share} and optimizer.hold_share "
                f"{self.hold_share} must not be more than 1 together"
            )
        if self.schedule == "tri_stage" and not self.final_scale:
            raise ConfigError(
                "optimizer.final_scale 0 cannot be reached exponentially; use a value above 0 or "
                "optimizer.schedule=tri_stage_linear"
            )


def linear_schedule(peak: float, updates: int, warmup_share: float) -> optax.Schedule:
    """Linear from peak/warmup to peak, then linear towards 0, one update after the last.

    wav2vec 2.0 section 4.2, XLSR section 3.2. As the released code counts (``polynomial_decay``
    with power 1): update c, from 0, is made at the rate of c updates done, the first at one's.
    """
    warmup = max(1, round(updates * warmup_share))

    def schedule(count: jax.Array) -> jax.Array:
        done = jnp.asarray(count, jnp.float32)
        rising = jnp.maximum(done, 1) / warmup
        falling = (updates - done) / max(1, updates - warmup)
        return peak * jnp.clip(jnp.minimum(rising, falling), 0.0, 1.0)

    return schedule


def tri_stage_schedule(config: OptimizerConfig, updates: int) -> optax.Schedule:
    """Linear warm-up, a constant stretch, then decay to ``final_scale`` times the peak.

    wav2vec 2.0 section 4.3 and XLSR section 3.2 write "linearly decayed"; the released code
    (``tri_stage_lr_scheduler.py``) multiplies by a constant each update. Update c, from 0, is made
    at the rate of c updates done.
    """
    warmup, hold = (round(updates * share) for share in (config.warmup_share, config.hold_share))
    decay = max(1, updates - warmup - hold)

    def schedule(count: jax.Array) -> jax.Array:
        done = jnp.asarray(count, jnp.float32)
        start = config.initial_scale
        rising = start + (1 - start) * done / max(1, warmup)
        past = jnp.clip((done - warmup - hold) / decay, 0.0, 1.0)
        if config.schedule == "tri_stage":
            falling = jnp.exp(past * math.log(config.final_scale))
        else:
            falling = 1 + past * (config.final_scale - 1)
        return config.peak_lr * jnp.where(done < warmup, rising, falling)

    return schedule


def make_schedule(config: OptimizerConfig, updates: int) -> optax.Schedule:
    """The rate of update number count, from 0."""
    if config.schedule == "linear":
        return linear_schedule(config.peak_lr, updates, config.warmup_share)
    return tri_stage_schedule(config, updates)


def make_optimizer(
    config: OptimizerConfig, updates: int, offset: int = 0, frozen: tuple[str, ...] = ()
) -> optax.GradientTransformation:
    """AdamW with decay on all parameters, norms and biases included, as in the released code.

    Args:
      updates: that the schedule spans.
      offset: of them that were made before, by another phase.
      frozen: top-level names of parameters that do not decay, because nothing trains them.
    """
    schedule = make_schedule(config, updates)

    def decays(params: dict[str, Any]) -> dict[str, Any]:
        return {name: jax.tree.map(lambda _, n=name: n not in frozen, sub)
                for name, sub in params.items()}  # fmt: skip

    adamw = optax.adamw(
        lambda count: schedule(count + offset),
        config.beta1,
        config.beta2,
        config.epsilon,
        weight_decay=config.weight_decay,
        mask=decays,
    )
    if config.clip_norm:
        return optax.chain(optax.clip_by_global_norm(config.clip_norm), adamw)
    return optax.chain(optax.identity(), adamw)


def learning_rate(
    config: OptimizerConfig, updates: int, count: int | jax.Array, offset: int = 0
) -> jax.Array:
    """The rate that update number ``count`` (from 0, after ``offset``) is made with."""
    return make_schedule(config, updates)(count + offset)
