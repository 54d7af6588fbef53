"""What an objective draws, and from which keys, so that no draw depends on how a batch is cut.

Everything of a row comes from fold_in(key of the update, global row number), folded with its
purpose; LayerDrop alone is drawn once for all rows.
"""

import jax

from xlsr_jax.models.context_network import Randomness
from xlsr_jax.models.dropout import row_seeds
from xlsr_jax.models.wav2vec2 import ModelConfig

MASK, DISTRACTORS, GUMBEL, DROPOUT, CHANNELS, EVERYWHERE, REPLACE = range(7)
_LAYERDROP_KEY = 2**31 - 1  # beyond every row number


def row_keys(key: jax.Array, row_B: jax.Array) -> jax.Array:
    """One key a row, [B], from the update's key and global row numbers."""
    return jax.vmap(jax.random.fold_in, (None, 0))(key, row_B)


def purpose(keys_B: jax.Array, number: int) -> jax.Array:
    """[B]: the rows' keys for one of the purposes above."""
    return jax.vmap(jax.random.fold_in, (0, None))(keys_B, number)


def randomness(key: jax.Array, keys_B: jax.Array, model: ModelConfig) -> Randomness:
    """Dropout's seeds and LayerDrop's draw of one update."""
    layerdrop = jax.random.fold_in(key, _LAYERDROP_KEY)
    keep = jax.random.bernoulli(layerdrop, 1.0 - model.layerdrop, (model.layers,))
    return Randomness(row_seeds(purpose(keys_B, DROPOUT)), keep)
