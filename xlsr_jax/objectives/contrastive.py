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


def draw_distractors(keys_B: jax.Array, valid_BM: jax.Array, number: int) -> jax.Array:
    """[B, M, K] int32, uniform with replacement over the *other* masked frames of the row.

    Indices count masked frames. Those of rows with fewer than two are meaningless.
    """
    bound = valid_BM.shape[1]
    others_B = jnp.maximum(jnp.sum(valid_BM, axis=1) - 1, 1)

    def row(key, others):
        uniform = jax.random.uniform(key, (bound, number))
        drawn = jnp.minimum((uniform * others).astype(jnp.int32), others - 1)
        return drawn + (drawn >= jnp.arange(bound)[:, None])

    return jax.vmap(row)(keys_B, others_B)


def score(
    contexts_BMP: jax.Array,
    targets_BMP: jax.Array,
    codes_BMG: jax.Array,
    valid_BM: jax.Array,
    distractors_BMK: jax.Array,
    temperature: float,
) -> Scores:
    """InfoNCE between contexts and targets; gradient flows into both, distractors included.

    Args:
      contexts_BMP, targets_BMP: fp32.
      codes_BMG: int32 codes of the targets. A distractor with the target's codes is left out.
      valid_BM: which of the M are masked frames.
      distractors_BMK: int32 indices among the M.
      temperature: divides the cosine similarity.
    """
    similarity_BMM = logits(contexts_BMP, targets_BMP, temperature)
    counts_BMM = _counts(distractors_BMK, valid_BM.shape[1])
    equal_BMM = jnp.all(codes_BMG[:, :, None] == codes_BMG[:, None, :], axis=-1)
    kept_BMM = jnp.where(equal_BMM, 0, counts_BMM)

    positive_BM = jnp.einsum("bmm->bm", similarity_BMM)
    distractor_BMM = jnp.where(kept_BMM > 0, similarity_BMM, -jnp.inf)
    best_BM = jnp.max(distractor_BMM, axis=-1)
    # Cosines are bounded, so the largest logit is: no need to look for the maximum.
    shift = 1 / temperature
    mass_BM = jnp.sum(kept_BMM * jnp.exp(similarity_BMM - shift), axis=-1)
    loss_BM = jnp.log(jnp.exp(positive_BM - shift) + mass_BM) + shift - positive_BM

    usable_BM = valid_BM & (jnp.sum(valid_BM, axis=1, keepdims=True) > 1)
    total = lambda x_BM: jnp.sum(jnp.where(usable_BM, x_BM, 0), axis=1)  # noqa: E731
    return Scores(
        loss=total(loss_BM),
        chance_loss=total(jnp.log1p(jnp.sum(kept_BMM, axis=-1))),
        correct=total((positive_BM > best_BM).astype(jnp.float32)),
        chance=total(1 / (1 + _alternatives(kept_BMM > 0, equal_BMM))),
        equal=total(jnp.sum(jnp.where(equal_BMM, counts_BMM, 0), axis=-1)),
        frames=total(jnp.ones(valid_BM.shape)),
    )


def logits(contexts_BMP: jax.Array, targets_BMP: jax.Array, temperature: float) -> jax.Array:
    """[B, M, M]: cosine similarity of every context with every target, over the temperature."""
    contexts, targets = _unit(contexts_BMP), _unit(targets_BMP)
    # Divided by a small temperature: worth full fp32 also where matrix units would round to bf16.
    cosine_BMM = jnp.einsum(
        "bmp,bnp->bmn", contexts, targets, precision=jax.lax.Precision.HIGHEST
    )
    return cosine_BMM / temperature


def _counts(distractors_BMK, bound):
    """[B, M, M] fp32: how often n was drawn for m. Compared and summed, never scattered."""
    drawn = distractors_BMK[:, :, None, :] == jnp.arange(bound)[:, None]
    return jnp.sum(drawn, axis=-1, dtype=jnp.float32)


def _alternatives(drawn_BMM, equal_BMM):
    """[B, M]: different codes among the frames drawn for each m.

    Each drawn frame counts as one over the number of drawn frames that share its codes.
    """
    drawn = drawn_BMM.astype(jnp.float32)
    sharing = jnp.einsum("bmn,bnk->bmk", drawn, equal_BMM.astype(jnp.float32))
    return jnp.sum(drawn / jnp.maximum(sharing, 1), axis=-1)


def _unit(x):
    """``x`` over its norm, as PyTorch's cosine similarity (norms no smaller than 1e-8)."""
    square = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.maximum(square, 1e-16))
