"""The product quantizer: G codebooks of V entries, chosen by a hard straight-through Gumbel.

wav2vec 2.0 section 2, "Quantization module", equation 1.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from xlsr_jax.models import layers


class Quantized(NamedTuple):
    """What the quantizer says about frames [B, M]; all of it in fp32.

    Attributes:
      vectors: [B, M, G * d] the chosen codewords of all groups, side by side.
      codes: [B, M, G] int32, which were chosen (with noise, where noise was given).
      best: [B, M, G] int32, which would be chosen without noise.
      probabilities: [B, M, G, V] softmax of the logits without noise or temperature.
    """

    vectors: jax.Array
    codes: jax.Array
    best: jax.Array
    probabilities: jax.Array


class Quantizer(nn.Module):
    """Features [B, M, C] to ``Quantized``.

    Attributes:
      groups, codewords: G and V.
      dim: width of the concatenated codewords, a multiple of G.
    """

    groups: int
    codewords: int
    dim: int

    @nn.compact
    def __call__(
        self,
        features_BMC: jax.Array,
        gumbel_BMGV: jax.Array | None = None,
        temperature: jax.Array | float = 1.0,
    ) -> Quantized:
        """Without ``gumbel_BMGV`` (evaluation) takes the most likely code, with no gradient."""
        shape = (self.groups, self.codewords, self.dim // self.groups)
        codebook_GVd = self.param("codebook", lambda key: jax.random.uniform(key, shape))
        projection = self.param("logits", self._init_logits, features_BMC.shape[-1])
        # A tie or a swap of two codes is a jump of the target: fp32 throughout.
        logits = layers.linear(features_BMC.astype(jnp.float32), projection)
        logits_BMGV = logits.reshape(*logits.shape[:-1], self.groups, self.codewords)
        best_BMG = jnp.argmax(logits_BMGV, axis=-1)
        if gumbel_BMGV is None:
            codes_BMG = best_BMG
            chosen_BMGV = jax.nn.one_hot(codes_BMG, self.codewords)
        else:
            noisy_BMGV = (logits_BMGV + gumbel_BMGV) / temperature
            codes_BMG = jnp.argmax(noisy_BMGV, axis=-1)
            soft = jax.nn.softmax(noisy_BMGV)
            hard = jax.nn.one_hot(codes_BMG, self.codewords)
            chosen_BMGV = hard + (soft - jax.lax.stop_gradient(soft))
        vectors = jnp.einsum(
            "bmgv,gvd->bmgd", chosen_BMGV, codebook_GVd, precision=jax.lax.Precision.HIGHEST
        )
        return Quantized(
            vectors.reshape(*vectors.shape[:-2], self.dim),
            codes_BMG,
            best_BMG,
            jax.nn.softmax(logits_BMGV),
        )

    def _init_logits(self, key, width):
        """N(0, 1) kernel: unusually wide, and what the published models start from."""
        kernel = jax.random.normal(key, (width, self.groups * self.codewords))
        return {"kernel": kernel, "bias": jnp.zeros(self.groups * self.codewords)}


def perplexity(probabilities_GV: jax.Array) -> jax.Array:
    """Sum over groups of exp(entropy), in [G, G * V]; G means that every group has collapsed."""
    return jnp.sum(group_perplexity(probabilities_GV), axis=-1)


def group_perplexity(probabilities_GV: jax.Array) -> jax.Array:
    """exp(entropy) of each group, in [1, V]."""
    entropy_G = -jnp.sum(probabilities_GV * jnp.log(probabilities_GV + 1e-7), axis=-1)
    return jnp.exp(entropy_G)
