"""Scaled dot-product attention with dropout on its weights, keeping one [T, T] array a head.

Plain differentiation keeps four: scores, their exponentials, weights, and weights after dropout.
Here the weights are kept and the rest is made from them again.
"""

import functools

import jax
import jax.numpy as jnp

from xlsr_jax.models.dropout import dropout


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def attention(
    rate: float,
    query_BHTd: jax.Array,
    key_BHTd: jax.Array,
    value_BHTd: jax.Array,
    valid_BT: jax.Array,
    seeds_B2: jax.Array | None,
    site: jax.Array,
) -> jax.Array:
    """softmax(q k^T / sqrt(d)) v, [B, H, T, d], over valid keys; softmax in fp32.

    Args:
      rate: of dropout on the weights, with ``seeds_B2`` and ``site`` as in ``dropout``.
      valid_BT: bool, keys that are not padding. A row without any attends evenly to all.
    """
    return _forward(rate, query_BHTd, key_BHTd, value_BHTd, valid_BT, seeds_B2, site)[0]


# Heads stand before frames everywhere: products of plain matrices, which need no transposition.


def _forward(rate, query, key, value, valid_BT, seeds, site):
    scores = jnp.einsum("bhtd,bhsd->bhts", query, key, preferred_element_type=jnp.float32)
    # A finite floor, so that a row without any valid frame does not turn into NaN.
    floor = jnp.finfo(jnp.float32).min
    scores = jnp.where(valid_BT[:, None, None, :], scores * query.shape[-1] ** -0.5, floor)
    weights = jax.nn.softmax(scores).astype(value.dtype)
    mixed = jnp.matmul(dropout(weights, rate, seeds, site, apart=True), value)
    return mixed, (query, key, value, weights, seeds, site)


def _backward(rate, residual, g):
    query, key, value, weights, seeds, site = residual
    dropped = dropout(weights, rate, seeds, site, apart=True)
    dvalue = jnp.einsum("bhts,bhtd->bhsd", dropped, g)
    dweights = jnp.einsum("bhtd,bhsd->bhts", g, value)
    dweights = dropout(dweights, rate, seeds, site, apart=True)
    weights32, dweights32 = weights.astype(jnp.float32), dweights.astype(jnp.float32)
    along = jnp.sum(weights32 * dweights32, axis=-1, keepdims=True)
    # Where a key is padding its weight is 0, and so is this.
    dscores = weights32 * (dweights32 - along) * query.shape[-1] ** -0.5
    dscores = dscores.astype(query.dtype)
    dquery = jnp.matmul(dscores, key)
    dkey = jnp.einsum("bhts,bhtd->bhsd", dscores, query)
    return dquery, dkey, dvalue, None, None, None


attention.defvjp(_forward, _backward)
