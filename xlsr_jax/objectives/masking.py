"""Span masks, drawn on the device: which frames (or channels) of a row are hidden.

wav2vec 2.0 section 3.1 and appendix A, as fairseq samples it: the number of spans of a row is
rounded at random, span starts are distinct and lie at least one span before the end, spans may
overlap. Rows keep their own number of masked frames; nothing is thinned to the smallest row.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from xlsr_jax.models import layers


class Masked(NamedTuple):
    """The masked frames of a batch.

    Attributes:
      mask: [B, T] bool.
      positions: [B, M] int32, the masked frames of each row in order, then others.
      valid: [B, M] bool, which of ``positions`` are masked frames.
    """

    mask: jax.Array
    positions: jax.Array
    valid: jax.Array


def most_spans(length: int, prob: float, span: int, min_spans: int) -> int:
    """The most spans that a row of at most ``length`` can get."""
    return max(math.floor(prob * length / span) + 1, min_spans)


def most_masked(length: int, prob: float, span: int, min_spans: int) -> int:
    """The most masked frames that a row of at most ``length`` can get: the static bound M."""
    return max(min(length, most_spans(length, prob, span, min_spans) * span), 1)


def span_mask(
    keys_B: jax.Array,
    valid_B: jax.Array,
    length: int,
    *,
    prob: float,
    span: int,
    min_spans: int,
) -> jax.Array:
    """Draws [B, length] bool for rows of ``valid_B`` frames, total for every length.

    A row of n frames gets floor(prob * n / span + u) spans, u uniform, but at least ``min_spans``.
    Their starts are distinct draws from [0, n - span); where that leaves too few, from
    [0, spans + 1), as far as the row has frames.

    Args:
      keys_B: one JAX key a row.
      valid_B: int32 valid frames; frames beyond are never masked.
      prob: the share of frames that spans would cover without overlap (the papers' p is this
        divided by ``span``).
    """
    if prob == 0.0 and min_spans == 0:
        return jnp.zeros((keys_B.shape[0], length), bool)
    bound = most_spans(length, prob, span, min_spans)

    def row(key, valid):
        round_key, start_key = jax.random.split(key)
        spans = jnp.floor(prob * valid / span + jax.random.uniform(round_key)).astype(jnp.int32)
        spans = jnp.maximum(spans, min_spans)
        starts = jnp.where(valid - span > spans, valid - span, jnp.clip(spans + 1, 1, valid))
        # The first ``spans`` of a random order of the admissible starts: without replacement.
        order = jax.random.uniform(start_key, (length,))
        order = jnp.argsort(jnp.where(jnp.arange(length) < starts, order, 2.0))[:bound]
        chosen = jnp.arange(order.shape[0]) < jnp.minimum(spans, starts)
        is_start = jnp.zeros(length, jnp.int32).at[order].add(chosen.astype(jnp.int32))
        begun = jnp.cumsum(is_start)
        ended = jnp.pad(begun, (span, 0))[:length]
        return (begun > ended) & (jnp.arange(length) < valid)

    return jax.vmap(row)(keys_B, valid_B)


def gather_masked(mask_BT: jax.Array, bound: int) -> Masked:
    """The positions of the masked frames as a dense [B, bound] with their validity.

    On TPUs M is ``bound`` filled up to whole tiles.
    """
    positions = jnp.argsort(~mask_BT, axis=1, stable=True)[:, :bound].astype(jnp.int32)
    positions = layers.in_tiles(positions)
    count_B = jnp.sum(mask_BT, axis=1)
    return Masked(mask_BT, positions, jnp.arange(positions.shape[1]) < count_B[:, None])
