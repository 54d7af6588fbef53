"""UniSpeech (arXiv 2101.07597): wav2vec 2.0 with a classifier over contexts and quantized vectors.

The classifier sees, frame by frame, the context or with some probability the quantized vector of
the same frame, so that the codebook has to carry what labels tell apart (section 3.2). No layer of
the Transformer sees the mixture.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from xlsr_jax.models import context_network, layers, wav2vec2
from xlsr_jax.models.context_network import Randomness
from xlsr_jax.models.dropout import dropout
from xlsr_jax.models.quantizer import Quantized
from xlsr_jax.models.wav2vec2 import Wav2Vec2
from xlsr_jax.schema import ConfigError, setting


@dataclasses.dataclass(frozen=True)
class ModelConfig(wav2vec2.ModelConfig):
    """The network of wav2vec 2.0, and how targets and classifier are joined to it."""

    targets: str = setting(
        "context_width",
        "context_width: targets are projected to the contexts' width and compared with the "
        "contexts themselves (released code); final_dim: both projected, as in wav2vec 2.0",
        choices=("context_width", "final_dim"),
    )
    final_dropout: float = setting(0.1, "rate on the classifier's input", low=0, high=0.99)

    def __post_init__(self):
        super().__post_init__()
        if self.targets == "final_dim" and self.final_dim != self.dim:
            raise ConfigError(
                f"model.targets final_dim needs model.final_dim {self.final_dim} to be model.dim "
                f"{self.dim}: a quantized vector takes the place of a context"
            )


class Forward(NamedTuple):
    """``wav2vec2.Forward``, and what UniSpeech adds.

    Attributes:
      everywhere: ``Quantized`` of all T frames, with noise of its own; on TPUs T in whole tiles.
      vectors: [B, T, P] fp32, projected quantized vectors of all frames, as many.
      logits: [B, T, V] fp32 of the classifier; None where it has no classes.
    """

    contexts: jax.Array
    targets: jax.Array
    quantized: Quantized
    features: jax.Array
    hidden: jax.Array
    last: jax.Array
    everywhere: Quantized
    vectors: jax.Array
    logits: jax.Array | None


class UniSpeech(Wav2Vec2):
    """The pretraining network.

    Attributes:
      classes: of the CTC classifier, the blank among them; 0 for none.
    """

    config: ModelConfig
    classes: int = 0

    def setup(self):
        super().setup()
        if self.classes:
            self.ctc_output = self.param("ctc_output", self._init_output)

    def setup_comparison(self):
        c = self.config
        if c.targets == "final_dim":
            super().setup_comparison()
        else:
            self.target_projection = self.param(
                "target_projection", layers.init_linear, c.final_dim, c.dim
            )

    def _init_output(self, _: jax.Array) -> layers.Params:
        """Zeros, as the output layer of fine-tuning (``objectives.ctc.init_head``) and why."""
        shape = (self.config.dim, self.classes)
        return {"kernel": jnp.zeros(shape), "bias": jnp.zeros(self.classes)}

    def project(self, quantized: Quantized) -> jax.Array:
        """[B, M, P]: quantized vectors, to be compared with contexts and to replace them."""
        projected = layers.linear(quantized.vectors, self.quantized_projection)
        if self.config.targets == "context_width":
            projected = layers.linear(projected, self.target_projection)
        return projected

    def classify(
        self,
        contexts_BTD: jax.Array,
        vectors_BTD: jax.Array,
        replace_BT: jax.Array | None = None,
        randomness: Randomness | None = None,
    ) -> jax.Array:
        """[B, T, V] fp32: logits over contexts, or over the vectors where ``replace_BT``."""
        x = contexts_BTD
        if replace_BT is not None:
            x = jnp.where(replace_BT[..., None], vectors_BTD.astype(x.dtype), x)
        seeds = None if randomness is None else randomness.seeds
        x = dropout(x, self.config.final_dropout, seeds, context_network.SITE_HEAD)
        return layers.linear(x, self.ctc_output).astype(jnp.float32)

    def transcribe(
        self,
        waveform_BN: jax.Array,
        samples_B: jax.Array,
        replace_BT: jax.Array | None = None,
    ) -> jax.Array:
        """[B, T, V] fp32: logits of evaluation, over what is not masked and without noise."""
        normalised = self.normalise(self.encode(waveform_BN, samples_B))
        last, _ = self.contextualise(normalised, self.config.frames(samples_B))
        return self.classify(last, self.project(self.quantize(normalised)), replace_BT)

    def __call__(
        self,
        waveform_BN: jax.Array,
        samples_B: jax.Array,
        mask_BT: jax.Array,
        masked_BM: jax.Array,
        gumbel_BMGV: jax.Array | None = None,
        temperature: jax.Array | float = 1.0,
        randomness: Randomness | None = None,
        everywhere_BTGV: jax.Array | None = None,
        replace_BT: jax.Array | None = None,
    ) -> Forward:
        """The pretraining forward pass; what is not named is as in ``Wav2Vec2``.

        Args:
          everywhere_BTGV: noise of the code choice for all frames, None in evaluation.
          replace_BT: bool, frames whose context the classifier does not see.
        """
        seeds = None if randomness is None else randomness.seeds
        features = self.encode(waveform_BN, samples_B)
        length, mask_BT = features.shape[1], layers.in_tiles(mask_BT)
        normalised = self.normalise(layers.in_tiles(features))
        frames_B = self.config.frames(samples_B)
        last, hidden = self.contextualise(normalised, frames_B, mask_BT, randomness=randomness)
        unmasked = dropout(
            normalised, self.config.dropout_features, seeds, context_network.SITE_FEATURES
        )
        take = lambda x: layers.take_masked(x, mask_BT, masked_BM)  # noqa: E731
        quantized = self.quantize(take(unmasked), gumbel_BMGV, temperature)
        targets, contexts = self.project(quantized), take(last)
        if self.config.targets == "final_dim":
            contexts = layers.linear(contexts, self.context_projection)
        contexts = self.constrain(contexts.astype(jnp.float32), "batch", None, None)
        if everywhere_BTGV is not None:
            everywhere_BTGV = layers.in_tiles(everywhere_BTGV)
        everywhere = self.quantize(unmasked, everywhere_BTGV, temperature)
        vectors = self.project(everywhere)
        logits = None
        if self.classes:
            replace_BT = None if replace_BT is None else layers.in_tiles(replace_BT)
            logits = self.classify(last, vectors, replace_BT, randomness)[:, :length]
        hidden, last = hidden[:, :, :length], last[:, :length]
        return Forward(
            contexts, targets, quantized, features, hidden, last, everywhere, vectors, logits
        )
