"""The contrastive task: find a masked frame's target among those of other masked frames.

wav2vec 2.0 section 3.2, equation 3. All distractors of an utterance are scored at once by the
[M, M] matrix of similarities between its masked contexts and its masked targets; a distractor is
a count in that matrix, so nothing of width D is gathered, forward or back.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Scores(NamedTuple):
    """Per-row sums over masked frames, each [B] fp32.

    Attributes:
      loss: nats.
      correct: frames whose target scores above all their distractors.
      chance_loss: nats of scores that are all alike: log(1 + distractors that were not left out).
      chance: share of frames that random scores would get right, one score for each code:
        distractors drawn twice, or of the same codes, are one alternative and not two.
      equal: distractors that are the target's own codes, and were left out.
      frames: masked frames; 0 in rows with fewer than two, where there is nothing to tell apart.
    """

    loss: jax.Array
    chance_loss: jax.Array
    correct: jax.Array
    chance: jax.Array
    equal: jax.Array
    frames: jax.Array


def draw_distractors(
    keys_B: jax.Array,
    valid_BM: jax.Array,
    number: int,
    positions_BM: jax.Array | None = None,
    frames_B: jax.Array | None = None,
) -> jax.Array:
    """[B, M, K] int32, uniform with replacement over the *other* frames of a row.

    Those are its masked frames, and indices count among these; or, where the ``positions_BM`` of
    the masked frames are given, all ``frames_B`` of the row. In rows with fewer than two the
    indices are meaningless.
    """
    bound = valid_BM.shape[1]
    if positions_BM is None:
        positions_BM = jnp.broadcast_to(jnp.arange(bound), valid_BM.shape)
        frames_B = jnp.sum(valid_BM, axis=1)
    others_B = jnp.maximum(frames_B - 1, 1)

    def row(key, others, positions):
        uniform = jax.random.uniform(key, (bound, number))
        drawn = jnp.minimum((uniform * others).astype(jnp.int32), others - 1)
        return drawn + (drawn >= positions[:, None])

    return jax.vmap(row)(keys_B, others_B, positions_BM)


def score(
    contexts_BMP: jax.Array,
    targets_BMP: jax.Array,
    codes_BMG: jax.Array,
    valid_BM: jax.Array,
    distractors_BMK: jax.Array,
    temperature: float,
    pool: tuple[jax.Array, jax.Array] | None = None,
) -> Scores:
    """InfoNCE between contexts and targets; gradient flows into both, distractors included.

    Args:
      contexts_BMP, targets_BMP: fp32.
      codes_BMG: int32 codes of the targets. A distractor with the target's codes is left out.
      valid_BM: which of the M are masked frames.
      distractors_BMK: int32 indices among the N of the pool.
      temperature: divides the cosine similarity.
      pool: what distractors are taken from, targets [B, N, P] and codes [B, N, G]; the targets
        themselves where not given.
    """
    pool_BNP, pool_codes_BNG = (targets_BMP, codes_BMG) if pool is None else pool
    similarity_BMN = logits(contexts_BMP, pool_BNP, temperature)
    counts_BMN = _counts(distractors_BMK, pool_BNP.shape[1])
    equal_BMN = _equal(codes_BMG, pool_codes_BNG)
    kept_BMN = jnp.where(equal_BMN, 0, counts_BMN)

    if pool is None:
        positive_BM, equal_BNN = jnp.einsum("bmm->bm", similarity_BMN), equal_BMN
    else:
        cosine_BM = jnp.sum(_unit(contexts_BMP) * _unit(targets_BMP), axis=-1)
        positive_BM = cosine_BM / temperature
        equal_BNN = _equal(pool_codes_BNG, pool_codes_BNG)
    distractor_BMN = jnp.where(kept_BMN > 0, similarity_BMN, -jnp.inf)
    best_BM = jnp.max(distractor_BMN, axis=-1)
    # Cosines are bounded, so the largest logit is: no need to look for the maximum.
    shift = 1 / temperature
    mass_BM = jnp.sum(kept_BMN * jnp.exp(similarity_BMN - shift), axis=-1)
    loss_BM = jnp.log(jnp.exp(positive_BM - shift) + mass_BM) + shift - positive_BM

    usable_BM = valid_BM & (jnp.sum(valid_BM, axis=1, keepdims=True) > 1)
    total = lambda x_BM: jnp.sum(jnp.where(usable_BM, x_BM, 0), axis=1)  # noqa: E731
    return Scores(
        loss=total(loss_BM),
        chance_loss=total(jnp.log1p(jnp.sum(kept_BMN, axis=-1))),
        correct=total((positive_BM > best_BM).astype(jnp.float32)),
        chance=total(1 / (1 + _alternatives(kept_BMN > 0, equal_BNN))),
        equal=total(jnp.sum(jnp.where(equal_BMN, counts_BMN, 0), axis=-1)),
        frames=total(jnp.ones(valid_BM.shape)),
    )


def logits(contexts_BMP: jax.Array, targets_BNP: jax.Array, temperature: float) -> jax.Array:
    """[B, M, N]: cosine similarity of every context with every target, over the temperature."""
    contexts, targets = _unit(contexts_BMP), _unit(targets_BNP)
    # Divided by a small temperature: worth full fp32 also where matrix units would round to bf16.
    cosine_BMN = jnp.einsum(
        "bmp,bnp->bmn", contexts, targets, precision=jax.lax.Precision.HIGHEST
    )
    return cosine_BMN / temperature


def _equal(codes_BMG: jax.Array, others_BNG: jax.Array) -> jax.Array:
    """[B, M, N] bool: the same codes in all groups."""
    return jnp.all(codes_BMG[:, :, None] == others_BNG[:, None], axis=-1)


def _counts(distractors_BMK, bound):
    """[B, M, N] fp32: how often n was drawn for m. Compared and summed, never scattered."""
    drawn = distractors_BMK[:, :, None, :] == jnp.arange(bound)[:, None]
    return jnp.sum(drawn, axis=-1, dtype=jnp.float32)


def _alternatives(drawn_BMN, equal_BNN):
    """[B, M]: different codes among the frames drawn for each m.

    Each drawn frame counts as one over the number of drawn frames that share its codes.
    """
    drawn = drawn_BMN.astype(jnp.float32)
    sharing = jnp.einsum("bmn,bnk->bmk", drawn, equal_BNN.astype(jnp.float32))
    return jnp.sum(drawn / jnp.maximum(sharing, 1), axis=-1)


def _unit(x):
    """``x`` over its norm, as PyTorch's cosine similarity (norms no smaller than 1e-8)."""
    square = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.maximum(square, 1e-16))
