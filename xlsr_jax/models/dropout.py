"""Dropout whose bits are a hash of (row seed, site, element), computed where they are used.

A counter-based generator such as threefry spends more time on the bits than the layer on its
matrices when run on a CPU. Two rounds of a multiplicative hash over the element index are enough
for dropout, fuse into the surrounding arithmetic, and make the mask of a row independent of the
other rows of the batch, of its cut into microbatches, and of its sharding over devices.
"""

import jax
import jax.numpy as jnp

from xlsr_jax.models import layers

# Odd multipliers with good avalanche ("lowbias32", found by Wellons' hash prospector search).
_FIRST, _SECOND = 0x7FEB352D, 0x846CA68B
_GOLDEN = 0x9E3779B9  # 2^32 over the golden ratio: spreads consecutive sites


def row_seeds(keys: jax.Array) -> jax.Array:
    """Two uint32 words a row, [B, 2], from one JAX key a row, [B]."""
    return jax.vmap(lambda key: jax.random.bits(key, (2,), jnp.uint32))(keys)


def dropout(
    x: jax.Array,
    rate: float,
    seeds_B2: jax.Array | None,
    site: int | jax.Array,
) -> jax.Array:
    """Zeroes each element with probability ``rate`` and scales the others by 1 / (1 - rate).

    Args:
      x: [B, ...].
      rate: probability in [0, 1).
      seeds_B2: from ``row_seeds``, or None to leave ``x`` as it is (evaluation).
      site: number of this place in the network; may be traced, as a layer index is under scan.
    """
    if seeds_B2 is None or rate == 0.0:
        return x
    return _dropout(rate, x, seeds_B2, jnp.asarray(site, jnp.uint32))


def _apply(rate, x, seeds_B2, site):
    dropped = uniform_bits(x.shape, seeds_B2, site) < jnp.uint32(threshold(rate))
    return jnp.where(dropped, jnp.zeros((), x.dtype), x * jnp.asarray(1 / (1 - rate), x.dtype))


# The mask is hashed again on the way back: cheaper than keeping it for every layer.
_dropout = jax.custom_vjp(_apply, nondiff_argnums=(0,))
_dropout.defvjp(
    lambda rate, x, seeds_B2, site: (_apply(rate, x, seeds_B2, site), (seeds_B2, site)),
    lambda rate, residual, g: (_apply(rate, g, *residual), None, None),
)


def uniform_bits(shape: tuple[int, ...], seeds_B2: jax.Array, site: jax.Array) -> jax.Array:
    """uint32 bits of ``shape`` [B, ...], each a hash of its row's seeds, the site, its index.

    Elements are counted as if each axis were filled up to whole tiles, as TPUs may have it.
    """
    seeds_B2 = at_site(seeds_B2, site)
    first, second = (seeds_B2[:, i].reshape(-1, *(1,) * (len(shape) - 1)) for i in (0, 1))
    index = jnp.zeros(shape, jnp.uint32)
    stride = 1
    for axis in reversed(range(1, len(shape))):
        index += jax.lax.broadcasted_iota(jnp.uint32, shape, axis) * jnp.uint32(stride)
        stride *= layers.tiled(shape[axis])
    return bits_of(index, first, second)


def at_site(seeds_B2: jax.Array, site: int | jax.Array) -> jax.Array:
    """The rows' two words for one place in the network, [B, 2] uint32."""
    site = jnp.asarray(site, jnp.uint32)
    return _mix(seeds_B2 ^ _mix(site * jnp.uint32(_GOLDEN) + jnp.uint32(1)))


def bits_of(index: jax.Array, first: jax.Array, second: jax.Array) -> jax.Array:
    """uint32 bits of elements by their uint32 index in the row and the row's two words.

    One seed alone would let two rows run through the same sequence in another order; the second
    gives each row its own stride through the counter.
    """
    h = ((index * (second | 1)) ^ first) * jnp.uint32(_FIRST)
    h = (h ^ (h >> 15)) * jnp.uint32(_SECOND)
    return h ^ (h >> 16)


def threshold(rate: float) -> int:
    """Bits below it are dropped."""
    return round(rate * 2**32)


def _mix(h: jax.Array) -> jax.Array:
    h = (h ^ (h >> 16)) * jnp.uint32(_FIRST)
    h = (h ^ (h >> 15)) * jnp.uint32(_SECOND)
    return h ^ (h >> 16)
