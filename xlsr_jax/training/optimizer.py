"""AdamW and the learning-rate schedules of the papers."""

import dataclasses

import jax
import jax.numpy as jnp
import optax

from xlsr_jax.schema import setting


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


def make_optimizer(config: OptimizerConfig, updates: int) -> optax.GradientTransformation:
    """AdamW with decay on all parameters, norms and biases included, as in the released code."""
    schedule = linear_schedule(config.peak_lr, updates, config.warmup_share)
    adamw = optax.adamw(
        schedule, config.beta1, config.beta2, config.epsilon, weight_decay=config.weight_decay
    )
    if config.clip_norm:
        return optax.chain(optax.clip_by_global_norm(config.clip_norm), adamw)
    return optax.chain(optax.identity(), adamw)


def learning_rate(config: OptimizerConfig, updates: int, count: int | jax.Array) -> jax.Array:
    """The rate that update number ``count`` (from 0) is made with."""
    return linear_schedule(config.peak_lr, updates, config.warmup_share)(count)
