"""AdamW and schedules against their formulas written out in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xlsr_jax.training.optimizer import (
    OptimizerConfig,
    learning_rate,
    linear_schedule,
    make_optimizer,
)


@pytest.mark.parametrize(
    ("count", "rate"),
    [
        (0, 5e-4 / 32_000),  # wav2vec 2.0 Base: 32 k of 400 k updates warm up to 5e-4
        (1, 5e-4 / 32_000),
        (16_000, 2.5e-4),
        (32_000, 5e-4),
        (216_000, 2.5e-4),  # half way down
        (399_999, 5e-4 / 368_000),
        (400_000, 0.0),
    ],
)
def test_schedule_of_base(count, rate):
    schedule = linear_schedule(5e-4, 400_000, 0.08)
    np.testing.assert_allclose(schedule(jnp.asarray(count)), rate, rtol=1e-5, atol=1e-12)


def test_adamw_is_decoupled_and_decays_everything():
    config = OptimizerConfig(peak_lr=0.1, warmup_share=0.5, weight_decay=0.3, beta1=0.8, beta2=0.9)
    optimizer, updates = make_optimizer(config, 6), 6
    rng = np.random.default_rng(0)
    value = {"kernel": rng.normal(size=(3, 2)), "bias": rng.normal(size=2)}
    params = jax.tree.map(jnp.asarray, value)
    state = optimizer.init(params)
    first, second = ({k: np.zeros_like(v) for k, v in value.items()} for _ in range(2))
    for count in range(updates):
        grads = {k: rng.normal(size=v.shape) for k, v in value.items()}
        change, state = optimizer.update(jax.tree.map(jnp.asarray, grads), state, params)
        params = jax.tree.map(jnp.add, params, change)
        rate = 0.1 * min(max(count, 1) / 3, (6 - count) / 3)
        for k, g in grads.items():
            first[k] = 0.8 * first[k] + 0.2 * g
            second[k] = 0.9 * second[k] + 0.1 * g**2
            m, v = first[k] / (1 - 0.8 ** (count + 1)), second[k] / (1 - 0.9 ** (count + 1))
            value[k] = value[k] - rate * (m / (np.sqrt(v) + 1e-6) + 0.3 * value[k])
        for k in value:
            np.testing.assert_allclose(params[k], value[k], rtol=1e-4, atol=1e-6)
    assert float(learning_rate(config, 6, 3)) == pytest.approx(0.1)


def test_clipping_bounds_the_global_norm():
    config = OptimizerConfig(peak_lr=1.0, warmup_share=0.0, weight_decay=0.0, clip_norm=1e-3)
    clipped = make_optimizer(config, 10)
    params = {"a": jnp.ones(4)}
    # Adam divides scale away, so look at the first moment that clipping feeds.
    _, state = clipped.update({"a": jnp.full(4, 100.0)}, clipped.init(params), params)
    moment = [leaf for leaf in jax.tree.leaves(state) if leaf.shape == (4,)][0]
    np.testing.assert_allclose(np.linalg.norm(moment), 1e-3 * 0.1, rtol=1e-4)


@pytest.mark.parametrize("schedule", ["tri_stage", "tri_stage_linear"])
def test_tri_stage_in_both_published_forms(schedule):
    config = OptimizerConfig(
        peak_lr=2e-5, schedule=schedule, warmup_share=0.1, hold_share=0.4, final_scale=0.05
    )
    updates = 20_000
    # fairseq's stages: 2,000 updates from 1 % of the peak, 8,000 held, 10,000 of decay.
    rate = lambda count: float(learning_rate(config, updates, count))  # noqa: E731
    assert rate(0) == pytest.approx(2e-7)
    assert rate(1_000) == pytest.approx(2e-7 + (2e-5 - 2e-7) / 2)
    assert rate(2_000) == rate(9_999) == pytest.approx(2e-5)
    middle = 2e-5 * 0.05**0.5 if schedule == "tri_stage" else 2e-5 * (1 + 0.05) / 2
    assert rate(15_000) == pytest.approx(middle, rel=1e-4)
    assert rate(20_000) == rate(30_000) == pytest.approx(1e-6, rel=1e-4)
    assert rate(2_500 + 500) == float(learning_rate(config, updates, 2_500, offset=500))


def test_what_nothing_trains_does_not_decay():
    config = OptimizerConfig(peak_lr=0.1, warmup_share=0.0, weight_decay=0.5)
    optimizer = make_optimizer(config, 10, frozen=("still",))
    params = {"still": {"a": jnp.ones(2)}, "moving": {"a": jnp.ones(2)}}
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, _ = optimizer.update(zeros, optimizer.init(params), params)
    assert not np.any(updates["still"]["a"]) and np.all(np.asarray(updates["moving"]["a"]) < 0)
