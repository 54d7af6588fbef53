"""Dropout: its rate, its independence between elements, rows and sites, and its gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xlsr_jax.models.dropout import dropout, row_seeds, uniform_bits

KEYS = jax.random.split(jax.random.key(0), 8)
SEEDS = row_seeds(KEYS)


def _kept(rate, site=0, seeds=SEEDS, shape=(8, 100, 250)):
    return np.asarray(dropout(jnp.ones(shape), rate, seeds, site) > 0)


@pytest.mark.parametrize("rate", [0.05, 0.1, 0.5])
def test_rate_and_scale(rate):
    out = np.asarray(dropout(jnp.ones((8, 100, 250)), rate, SEEDS, 3))
    assert set(np.unique(out)) == {0.0, np.float32(1 / (1 - rate))}
    deviation = np.sqrt(rate * (1 - rate) / out.size)
    assert abs((out == 0).mean() - rate) < 4 * deviation
    rows = (out == 0).mean(axis=(1, 2))
    assert np.all(np.abs(rows - rate) < 5 * deviation * np.sqrt(8))


def test_bits_are_uniform():
    """Every bit is 1 half of the time, and the leading byte takes all values alike."""
    bits = np.asarray(uniform_bits((8, 100, 250), SEEDS, 7)).ravel()
    ones = np.array([(bits >> i & 1).mean() for i in range(32)])
    assert np.all(np.abs(ones - 0.5) < 5 * 0.5 / np.sqrt(bits.size))
    counts = np.bincount(bits >> 24, minlength=256)
    chi_square = np.sum((counts - bits.size / 256) ** 2) / (bits.size / 256)
    assert chi_square < 255 + 5 * np.sqrt(2 * 255)


def _correlation(a, b):
    return np.corrcoef(a.ravel(), b.ravel())[0, 1]


def test_independent_between_elements_rows_and_sites():
    kept = _kept(0.5).astype(float)
    bound = 5 / np.sqrt(kept[0].size)
    for lag in (1, 2, 3, 64, 249):  # neighbours in memory
        flat = kept.reshape(8, -1)
        assert abs(_correlation(flat[:, lag:], flat[:, :-lag])) < bound
    assert abs(_correlation(kept[:, 1:], kept[:, :-1])) < bound  # neighbouring frames
    for other in range(1, 8):
        assert abs(_correlation(kept[0], kept[other])) < bound
    for site in (1, 2, 16, 17, 63):
        assert abs(_correlation(kept, _kept(0.5, site))) < bound


def test_rows_with_near_seeds_do_not_run_through_the_same_sequence():
    """With a seed that only shifts the counter, one row would be the other a few elements on."""
    seeds = jnp.array([[7, 1], [8, 1], [7, 2]], jnp.uint32)
    kept = _kept(0.5, 0, seeds, (3, 20_000)).astype(float)
    for a, b in ((0, 1), (0, 2), (1, 2)):
        for lag in range(20):
            assert abs(_correlation(kept[a, lag:], kept[b, : 20_000 - lag])) < 5 / np.sqrt(19_000)


def test_a_row_does_not_depend_on_its_batch():
    together = _kept(0.1, 5)
    np.testing.assert_array_equal(together[2:5], _kept(0.1, 5, SEEDS[2:5], (3, 100, 250)))


def test_gradient_has_the_same_mask():
    x = jax.random.normal(jax.random.key(1), (8, 50))
    out, pull = jax.vjp(lambda x: dropout(x, 0.3, SEEDS, 2), x)
    (gradient,) = pull(jnp.ones_like(out))
    np.testing.assert_array_equal(np.asarray(gradient) == 0, np.asarray(out) == 0)
    np.testing.assert_allclose(out, x * gradient, rtol=1e-6)


def test_without_seeds_nothing_happens():
    x = jnp.arange(6.0).reshape(2, 3)
    assert dropout(x, 0.5, None, 0) is x
