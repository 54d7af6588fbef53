"""Connectionist temporal classification: the loss, what it cannot fit, and greedy errors.

Graves et al. 2006. A row needs a frame for every label and one more between two equal ones; a row
that has fewer is infeasible, its loss infinite. Such rows are found beforehand and masked here
(fairseq's and PyTorch's ``zero_infinity``), so that no loss is infinite and none is negative.
"""

import jax
import jax.numpy as jnp
import optax

from xlsr_jax.models import layers


def frames_needed(labels_BL: jax.Array, counts_B: jax.Array) -> jax.Array:
    """[B] int32: labels plus repeats, the least number of frames that can hold the labels."""
    place = jnp.arange(1, labels_BL.shape[1])
    repeats_BL = (labels_BL[:, 1:] == labels_BL[:, :-1]) & (place < counts_B[:, None])
    return counts_B + jnp.sum(repeats_BL, axis=1)


def ctc_loss(
    logits_BTV: jax.Array,
    frames_B: jax.Array,
    labels_BL: jax.Array,
    counts_B: jax.Array,
    blank: int = 0,
) -> tuple[jax.Array, jax.Array]:
    """-log p(labels), nats, fp32 [B], and whether each row is feasible, bool [B].

    Args:
      logits_BTV: unnormalised; any float dtype, the softmax is taken in fp32.
      frames_B: valid frames; what lies beyond is not read.
      labels_BL: int32; ``counts_B`` of them are valid. No label is ``blank``.

    An infeasible row has loss 0 and no gradient.
    """
    _, length, _ = logits_BTV.shape
    # The library wants at least one label column.
    labels_BL = jnp.pad(labels_BL, ((0, 0), (0, 1)))
    feasible_B = (frames_needed(labels_BL, counts_B) <= frames_B) & (frames_B > 0)
    padded_BT = (jnp.arange(length) >= frames_B[:, None]).astype(jnp.float32)
    counts_B = jnp.where(feasible_B, counts_B, 0)
    padded_BL = (jnp.arange(labels_BL.shape[1]) >= counts_B[:, None]).astype(jnp.float32)
    # The gradient of a masked row must not meet what made it infeasible, nor NaN.
    logits_BTV = jnp.where(feasible_B[:, None, None], logits_BTV.astype(jnp.float32), 0.0)
    loss_B = optax.ctc_loss(logits_BTV, padded_BT, labels_BL, padded_BL, blank_id=blank)
    # Rounding may leave a certain row a hair below 0.
    return jnp.where(feasible_B, jnp.maximum(loss_B, 0.0), 0.0), feasible_B


def greedy_errors(
    logits_BTV: jax.Array,
    frames_B: jax.Array,
    labels_BL: jax.Array,
    counts_B: jax.Array,
    blank: int = 0,
) -> tuple[jax.Array, jax.Array]:
    """Edit distance between labels and greedy decoding, and symbols decoded, int32 [B] each.

    Greedy decoding takes the best symbol of each frame, merges repeats and drops blanks. The
    distance is Levenshtein's, a row of its table for every symbol decoded: row[j] is the least
    of row'[j] + 1, row'[j-1] + (symbol differs) and row[j-1] + 1, where the last, a running
    minimum, is taken over all j at once.
    """
    batch, length, _ = logits_BTV.shape
    best_BT = jnp.argmax(logits_BTV, axis=-1)
    before_BT = jnp.pad(best_BT, ((0, 0), (1, 0)), constant_values=blank)[:, :-1]
    valid_BT = jnp.arange(length) < frames_B[:, None]
    emits_BT = (best_BT != blank) & (best_BT != before_BT) & valid_BT
    place = jnp.arange(labels_BL.shape[1] + 1)

    def decode(row_BJ, frame):
        symbol_B, emits_B = frame
        differs = (labels_BL != symbol_B[:, None]).astype(jnp.int32)
        taken = jnp.minimum(row_BJ[:, 1:] + 1, row_BJ[:, :-1] + differs)
        candidate = jnp.concatenate([row_BJ[:, :1] + 1, taken], axis=1)
        candidate = jax.lax.cummin(candidate - place, axis=1) + place
        return jnp.where(emits_B[:, None], candidate, row_BJ), None

    first = jnp.broadcast_to(place, (batch, len(place)))
    row_BJ, _ = jax.lax.scan(decode, first, (best_BT.T, emits_BT.T))
    errors_B = jnp.take_along_axis(row_BJ, counts_B[:, None], axis=1)[:, 0]
    return errors_B, jnp.sum(emits_BT, axis=1)


def init_head(width: int, classes: int, kernel: int = 1) -> layers.Params:
    """Output layer of zeros, [kernel * width, classes] and [classes]: all symbols equally likely.

    The released code draws it (Xavier). Contexts have a large common part, so that a drawn layer
    prefers one symbol everywhere, and CTC can stay there: it writes that symbol once an utterance.
    """
    return {"kernel": jnp.zeros((kernel * width, classes)), "bias": jnp.zeros(classes)}


def apply_head(
    x_BTD: jax.Array, frames_B: jax.Array, head: layers.Params, kernel: int = 1, stride: int = 1
) -> tuple[jax.Array, jax.Array]:
    """Logits [B, T', V] fp32, and valid frames [B] of them, of a convolution without padding.

    Kernel and stride 1 is a linear layer a frame; 8 and 4 the probe of modified CPC's paper.
    """
    length = x_BTD.shape[1]
    if kernel == 1 and stride == 1:
        return layers.linear(layers.in_tiles(x_BTD), head)[:, :length].astype(jnp.float32), frames_B
    outputs = max((length - kernel) // stride + 1, 1)
    reach = (outputs - 1) * stride + kernel
    x_BTD = jnp.pad(x_BTD, ((0, 0), (0, max(reach - length, 0)), (0, 0)))
    taps = [x_BTD[:, j : j + (outputs - 1) * stride + 1 : stride] for j in range(kernel)]
    logits = layers.linear(jnp.concatenate(taps, axis=-1), head).astype(jnp.float32)
    return logits, jnp.maximum((frames_B - kernel) // stride + 1, 0)
