"""One update: microbatches in, sums out, divided once, applied if finite."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import optax

from xlsr_jax.parallel import rules
from xlsr_jax.training.state import Params, TrainState

Batch = Mapping[str, jax.Array]
Sums = dict[str, tuple[jax.Array, jax.Array]]
Loss = Callable[[Params, Batch, jax.Array, jax.Array], Sums]


def train_step(
    loss: Loss,
    optimizer: optax.GradientTransformation,
    accumulation: int,
    phase_start: int,
    state: TrainState,
    batch: Batch,
    key: jax.Array,
) -> tuple[TrainState, Sums]:
    """One update of ``state`` on one global batch.

    The loss is a sum over examples and a count; both are added over microbatches and devices, and
    the gradient is divided by the count once, so that a batch gives the same update however it is
    cut (fairseq ``trainer.py``: gradients over the global sample size).

    Args:
      loss: (params, microbatch, key, step within the phase) -> sums; "loss" is trained on.
      accumulation: microbatches; microbatch m holds rows m, m + accumulation, ... so that every
        device cuts its own rows.
      phase_start: the step at which this phase began.
      key: of the run; folded with the step here.

    Returns:
      The next state, and the sums of the loss with the update's own figures among them. An update
      whose loss or gradient is not finite leaves parameters and moments as they were.
    """
    key = jax.random.fold_in(key, state.step)
    phase_step = state.step - phase_start

    def numerator(params: Params, rows: Batch) -> tuple[jax.Array, Sums]:
        sums = loss(rules.gathered(params), rows, key, phase_step)
        return sums["loss"][0], sums

    gradient = jax.grad(numerator, has_aux=True)
    grads, sums = _accumulate(gradient, state.params, batch, accumulation)
    scale = 1 / jnp.maximum(sums["loss"][1], 1.0)
    grad_norm = optax.tree.norm(grads) * scale
    grads = jax.tree.map(lambda g: g * scale, grads)
    finite = jnp.isfinite(grad_norm) & jnp.isfinite(sums["loss"][0])

    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    keep = lambda new, old: jax.tree.map(lambda n, o: jnp.where(finite, n, o), new, old)  # noqa: E731
    skipped = jnp.where(finite, 0, 1)
    new = TrainState(
        step=state.step + 1,
        params=keep(params, state.params),
        opt_state=keep(opt_state, state.opt_state),
        skipped=state.skipped + skipped,
        skipped_in_a_row=(state.skipped_in_a_row + skipped) * skipped,
    )
    one = jnp.where(finite, 1.0, 0.0)
    sums = jax.tree.map(lambda value: jnp.where(finite, value, jnp.zeros_like(value)), sums)
    sums["grad_norm"] = (jnp.where(finite, grad_norm, 0.0), one)
    sums["param_norm"] = (optax.tree.norm(new.params), jnp.ones(()))
    return new, sums


def _accumulate(
    gradient: Callable[[Params, Batch], tuple[Params, Sums]],
    params: Params,
    batch: Batch,
    accumulation: int,
) -> tuple[Params, Sums]:
    if accumulation == 1:
        return gradient(params, batch)
    rows = {
        name: jnp.swapaxes(value.reshape(-1, accumulation, *value.shape[1:]), 0, 1)
        for name, value in batch.items()
    }
    first = jax.tree.map(lambda value: value[0], rows)
    zeros = jax.tree.map(
        lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(gradient, params, first)
    )

    def add(total, microbatch):
        return jax.tree.map(jnp.add, total, gradient(params, microbatch)), None

    return jax.lax.scan(add, zeros, rows)[0]


def eval_step(loss: Loss, state: TrainState, batch: Batch, key: jax.Array) -> Sums:
    """Sums of one held-out batch; the key is fixed, so that masks and distractors never change."""
    return loss(state.params, batch, key, jnp.zeros((), jnp.int32))
