"""Scaled dot-product attention with dropout on its weights, keeping one [T, T] array a head.

Plain differentiation keeps four: scores, their exponentials, weights, and weights after dropout.
Here the weights are kept and the rest is made from them again; on TPUs nothing is kept at all
(``tpu_attention``).
"""

import functools

import jax
import jax.numpy as jnp

from xlsr_jax.models import tpu, tpu_attention
from xlsr_jax.models.dropout import at_site, dropout


def attention(
    rate: float,
    query_BTHd: jax.Array,
    key_BTHd: jax.Array,
    value_BTHd: jax.Array,
    valid_BT: jax.Array,
    seeds_B2: jax.Array | None,
    site: int | jax.Array,
) -> jax.Array:
    """softmax(q k^T / sqrt(d)) v, [B, T, H, d], over valid keys; softmax in fp32.

    Args:
      rate: of dropout on the weights, with ``seeds_B2`` and ``site`` as in ``dropout``.
      valid_BT: bool, keys that are not padding. A row without any attends evenly to all.
    """
    _, length, heads, size = query_BTHd.shape
    if tpu.here() and tpu_attention.fits(length, heads * size, heads):
        return on_chip(rate, query_BTHd, key_BTHd, value_BTHd, valid_BT, seeds_B2, site)
    # Heads stand before frames here: products of plain matrices, which need no transposition.
    first = functools.partial(jnp.swapaxes, axis1=1, axis2=2)
    query, key, value = first(query_BTHd), first(key_BTHd), first(value_BTHd)
    return first(_plain(rate, query, key, value, valid_BT, seeds_B2, site))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _plain(rate, query, key, value, valid_BT, seeds, site):
    return _forward(rate, query, key, value, valid_BT, seeds, site)[0]


def _forward(rate, query, key, value, valid_BT, seeds, site):
    scores = jnp.einsum("bhtd,bhsd->bhts", query, key, preferred_element_type=jnp.float32)
    # A finite floor, so that a row without any valid frame does not turn into NaN.
    floor = jnp.finfo(jnp.float32).min
    scores = jnp.where(valid_BT[:, None, None, :], scores * query.shape[-1] ** -0.5, floor)
    weights = jax.nn.softmax(scores).astype(value.dtype)
    mixed = jnp.matmul(dropout(weights, rate, seeds, site), value)
    return mixed, (query, key, value, weights, seeds, site)


def _backward(rate, residual, g):
    query, key, value, weights, seeds, site = residual
    dropped = dropout(weights, rate, seeds, site)
    dvalue = jnp.einsum("bhts,bhtd->bhsd", dropped, g)
    dweights = jnp.einsum("bhtd,bhsd->bhts", g, value)
    dweights = dropout(dweights, rate, seeds, site)
    weights32, dweights32 = weights.astype(jnp.float32), dweights.astype(jnp.float32)
    along = jnp.sum(weights32 * dweights32, axis=-1, keepdims=True)
    # Where a key is padding its weight is 0, and so is this.
    dscores = weights32 * (dweights32 - along) * query.shape[-1] ** -0.5
    dscores = dscores.astype(query.dtype)
    dquery = jnp.matmul(dscores, key)
    dkey = jnp.einsum("bhts,bhtd->bhsd", dscores, query)
    return dquery, dkey, dvalue, None, None, None


_plain.defvjp(_forward, _backward)


def on_chip(
    rate: float,
    query_BTHd: jax.Array,
    key_BTHd: jax.Array,
    value_BTHd: jax.Array,
    valid_BT: jax.Array,
    seeds_B2: jax.Array | None,
    site: int | jax.Array,
) -> jax.Array:
    """``attention`` by the TPU's kernel; without a TPU its definition is run step by step."""
    batch, length, heads, size = query_BTHd.shape
    seeds = None if seeds_B2 is None or rate == 0.0 else at_site(seeds_B2, site)
    arrays = (x.reshape(batch, length, heads * size) for x in (query_BTHd, key_BTHd, value_BTHd))
    return _on_chip(rate, heads, *arrays, valid_BT, seeds).reshape(query_BTHd.shape)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _on_chip(rate, heads, query, key, value, valid_BT, seeds):
    return tpu_attention.forward(rate, heads, query, key, value, valid_BT, seeds)


_on_chip.defvjp(
    lambda rate, heads, *arrays: (tpu_attention.forward(rate, heads, *arrays), arrays),
    lambda rate, heads, arrays, g: (
        *tpu_attention.backward(rate, heads, *arrays, g), None, None,
    ),
)  # fmt: skip
