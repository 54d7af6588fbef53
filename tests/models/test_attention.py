"""Attention against plain differentiation of its formula, with padding and with dropout."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xlsr_jax.models.attention import attention
from xlsr_jax.models.dropout import dropout

SHAPE = (3, 2, 7, 4)
SEEDS = jnp.array([[1, 2], [3, 4], [5, 6]], jnp.uint32)


def _plain(rate, query, key, value, valid_BT, seeds, site):
    scores = jnp.einsum("bhtd,bhsd->bhts", query, key) / np.sqrt(query.shape[-1])
    weights = jax.nn.softmax(jnp.where(valid_BT[:, None, None], scores, -1e30))
    return jnp.einsum("bhts,bhsd->bhtd", dropout(weights, rate, seeds, site), value)


@pytest.mark.parametrize(("rate", "seeds"), [(0.0, None), (0.3, SEEDS)])
def test_values_and_gradients(rate, seeds):
    q, k, v, g = (jax.random.normal(jax.random.key(i), SHAPE) for i in range(4))
    valid = jnp.arange(7) < jnp.array([7, 4, 1])[:, None]

    def run(attend):
        loss = lambda *qkv: jnp.vdot(attend(rate, *qkv, valid, seeds, 5), g)  # noqa: E731
        return attend(rate, q, k, v, valid, seeds, 5), jax.grad(loss, argnums=(0, 1, 2))(q, k, v)

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), run(attention), run(_plain)
    )


def test_padding_has_no_influence():
    q, k, v = (jax.random.normal(jax.random.key(i), SHAPE) for i in range(3))
    valid = jnp.arange(7) < jnp.array([5, 5, 5])[:, None]
    before = attention(0.0, q, k, v, valid, None, 0)
    after = attention(0.0, q, k.at[:, :, 5:].add(9.0), v.at[:, :, 5:].add(9.0), valid, None, 0)
    np.testing.assert_array_equal(before, after)


def test_a_row_without_valid_frames_is_finite():
    x = jnp.ones(SHAPE)
    valid = jnp.zeros((3, 7), bool)
    value, slope = jax.value_and_grad(lambda q: attention(0.0, q, x, x, valid, None, 0).sum())(x)
    assert np.isfinite(value) and np.isfinite(slope).all()
