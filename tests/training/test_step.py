"""One update: divided once, however it is cut, and left out when it is not finite."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from xlsr_jax.training.state import initial_state
from xlsr_jax.training.step import train_step

RATE = 0.5


def loss(params, batch, key, step, bad=jnp.inf):
    """Weighted squares: rows count differently, so that means of means would differ."""
    error = batch["x"] @ params["w"] - batch["y"]
    total = jnp.sum(batch["weight"] * jnp.square(error))
    return {"loss": (jnp.where(step == bad, jnp.nan, total), jnp.sum(batch["weight"]))}


def make(rows=12):
    rng = np.random.default_rng(0)
    batch = {
        "x": rng.normal(size=(rows, 3)).astype(np.float32),
        "y": rng.normal(size=rows).astype(np.float32),
        "weight": rng.integers(0, 4, rows).astype(np.float32),
    }
    optimizer = optax.sgd(RATE)
    start = {"w": jnp.asarray([0.3, -0.2, 0.1])}
    state = initial_state(lambda key: start, optimizer, jax.random.key(0))
    return batch, optimizer, state


@pytest.mark.parametrize("accumulation", [1, 2, 3, 4, 12])
def test_an_update_is_the_weighted_mean_however_it_is_cut(accumulation):
    batch, optimizer, state = make()
    new, sums = train_step(loss, optimizer, accumulation, 0, state, batch, jax.random.key(1))
    x, y, weight, w = batch["x"], batch["y"], batch["weight"], np.array([0.3, -0.2, 0.1])
    gradient = 2 * (weight * (x @ w - y)) @ x / weight.sum()
    np.testing.assert_allclose(new.params["w"], w - RATE * gradient, rtol=1e-5)
    np.testing.assert_allclose(sums["grad_norm"][0], np.linalg.norm(gradient), rtol=1e-5)
    np.testing.assert_allclose(sums["loss"][0], (weight * (x @ w - y) ** 2).sum(), rtol=1e-5)
    assert int(new.step) == 1 and int(new.skipped) == 0


def test_an_update_that_is_not_finite_changes_nothing_but_counters():
    batch, optimizer, state = make()
    step = functools.partial(train_step, functools.partial(loss, bad=1), optimizer, 1, 0)
    good, _ = step(state, batch, jax.random.key(1))
    bad, sums = step(good, batch, jax.random.key(1))
    np.testing.assert_array_equal(bad.params["w"], good.params["w"])
    assert (int(bad.step), int(bad.skipped), int(bad.skipped_in_a_row)) == (2, 1, 1)
    assert float(sums["loss"][1]) == 0 and float(sums["grad_norm"][1]) == 0
    after, _ = step(bad, batch, jax.random.key(1))
    assert (int(after.skipped), int(after.skipped_in_a_row)) == (1, 0)
    assert not np.array_equal(after.params["w"], bad.params["w"])


def test_the_key_follows_the_step_and_the_phase_its_start():
    seen = []

    def spy(params, batch, key, step):
        seen.append((jax.random.key_data(key).tolist(), int(step)))
        return loss(params, batch, key, step)

    batch, optimizer, state = make()
    for _ in range(2):
        with jax.disable_jit():
            state, _ = train_step(spy, optimizer, 1, 1, state, batch, jax.random.key(3))
    assert [step for _, step in seen] == [-1, 0]
    expected = [
        jax.random.key_data(jax.random.fold_in(jax.random.key(3), n)).tolist() for n in (0, 1)
    ]
    assert [key for key, _ in seen] == expected
