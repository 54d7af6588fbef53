"""The context network: a convolutional position embedding and a Transformer.

wav2vec 2.0 section 2, "Contextualized representations with Transformers". Base normalises after
each residual sum (post-norm), Large and XLSR-53 before each branch (pre-norm).
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from xlsr_jax.models import layers, positional_convolution
from xlsr_jax.models.attention import attention
from xlsr_jax.models.dropout import dropout

# Dropout sites; a layer's own follow at SITE_LAYERS + 4 * layer.
SITE_INPUT, SITE_FEATURES, SITE_ENCODER, SITE_HEAD, SITE_LAYERS = 0, 1, 2, 4, 16
ATTENTION, ATTENTION_OUT, ACTIVATION, FFN_OUT = range(4)

REMAT = ("none", "dots", "layer")

# Logical axes of a layer's kernels, see ``wav2vec2.Wav2Vec2.constrain``.
KERNEL_AXES = {
    "query": (None, "heads"),
    "key": (None, "heads"),
    "value": (None, "heads"),
    "out": ("heads", None),
    "ffn_in": (None, "ffn"),
    "ffn_out": ("ffn", None),
}


class Randomness(NamedTuple):
    """What is random in a training forward pass; its absence means evaluation.

    Attributes:
      seeds: [B, 2] uint32, ``dropout.row_seeds``.
      keep_layer: [layers] bool, LayerDrop's draw for this update.
    """

    seeds: jax.Array
    keep_layer: jax.Array


class ContextNetwork(nn.Module):
    """Masked projected features [B, T, D] to contexts [B, T, D].

    Attributes:
      num_layers, heads, ffn: of the Transformer.
      position_kernel, position_groups: of the positional convolution.
      pre_norm: normalise before each branch instead of after each sum.
      dropout, attention_dropout, activation_dropout: rates.
      gelu: "exact" or "tanh".
      remat: "none" keeps every activation, "dots" only products of matrices with parameters,
        "layer" only the input of each layer.
      constrain: see ``wav2vec2.Wav2Vec2``.
    """

    num_layers: int
    heads: int
    ffn: int
    position_kernel: int
    position_groups: int
    pre_norm: bool
    dropout: float = 0.0
    attention_dropout: float = 0.0
    activation_dropout: float = 0.0
    gelu: str = "exact"
    remat: str = "none"
    constrain: layers.Constrain = layers.unconstrained

    @nn.compact
    def __call__(
        self, x_BTD: jax.Array, frames_B: jax.Array, randomness: Randomness | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """Contexts [B, T, D] and the input of every layer [layers, B, T, D]."""
        _, length, width = x_BTD.shape
        position = self.param(
            "position",
            positional_convolution.init,
            self.position_kernel,
            width,
            self.position_groups,
        )
        norm = self.param("norm", layers.init_norm, width)
        stacked = self.param("layers", _init_layers, self.num_layers, width, self.ffn)
        seeds = None if randomness is None else randomness.seeds

        valid_BT = jnp.arange(length) < frames_B[:, None]
        x = jnp.where(valid_BT[..., None], x_BTD, 0)
        embedding = positional_convolution.apply(x, position, self.position_groups)
        x = x + layers.activation(self.gelu)(embedding)
        if not self.pre_norm:
            x = layers.layer_norm(x, norm)
        x = dropout(x, self.dropout, seeds, SITE_ENCODER)

        def step(x, layer):
            index, params, keep = layer
            block = lambda x, params: self._block(x, params, valid_BT, seeds, index)  # noqa: E731
            block = _with_remat(block, self.remat)
            if randomness is None:
                return block(x, params), x
            # A dropped layer is computed all the same: a branch would copy its weights and
            # activations in and out, which costs more than a layer in twenty.
            return jnp.where(keep, block(x, params), x), x

        keep = jnp.ones(self.num_layers, bool) if randomness is None else randomness.keep_layer
        numbered = (jnp.arange(self.num_layers), stacked, keep)
        x, inputs = jax.lax.scan(step, x, numbered)
        return (layers.layer_norm(x, norm) if self.pre_norm else x), inputs

    def _block(self, x, params, valid_BT, seeds, index):
        site = SITE_LAYERS + 4 * index
        params = params | {name: self._gathered(params[name], x, name) for name in KERNEL_AXES}

        def attend(x):
            y = self._attention(x, params, valid_BT, seeds, site + ATTENTION)
            return dropout(y, self.dropout, seeds, site + ATTENTION_OUT)

        def feed_forward(x):
            h = layers.linear(x, params["ffn_in"])
            h = self.constrain(layers.activation(self.gelu)(h), "batch", None, "ffn")
            h = dropout(h, self.activation_dropout, seeds, site + ACTIVATION)
            return dropout(layers.linear(h, params["ffn_out"]), self.dropout, seeds, site + FFN_OUT)

        x = self.constrain(x, "batch", None, None)
        if self.pre_norm:
            x = x + attend(layers.layer_norm(x, params["attention_norm"]))
            return x + feed_forward(layers.layer_norm(x, params["ffn_norm"]))
        x = layers.layer_norm(x + attend(x), params["attention_norm"])
        return layers.layer_norm(x + feed_forward(x), params["ffn_norm"])

    def _gathered(self, linear, x, name):
        """A linear layer, its kernel cast and whole but for heads and ffn: gathered once a use."""
        kernel = self.constrain(linear["kernel"].astype(x.dtype), *KERNEL_AXES[name])
        return linear | {"kernel": kernel}

    def _attention(self, x_BTD, params, valid_BT, seeds, site):
        batch, length, width = x_BTD.shape

        def split(y):
            y = y.reshape(batch, length, self.heads, width // self.heads)
            return self.constrain(y, "batch", None, "heads", None)

        query, key, value = (
            split(layers.linear(x_BTD, params[name])) for name in ("query", "key", "value")
        )
        mixed = attention(self.attention_dropout, query, key, value, valid_BT, seeds, site)
        return layers.linear(mixed.reshape(batch, length, width), params["out"])


def _with_remat(block: Callable, policy: str) -> Callable:
    if policy == "none":
        return block
    saved = jax.checkpoint_policies.dots_with_no_batch_dims_saveable if policy == "dots" else None
    return jax.checkpoint(block, policy=saved)


def _init_layers(key: jax.Array, num_layers: int, width: int, ffn: int) -> layers.Params:
    """Every kernel N(0, 0.02), as BERT's; biases 0. Each leaf has a leading [layers] axis."""
    shapes = {
        "query": (width, width),
        "key": (width, width),
        "value": (width, width),
        "out": (width, width),
        "ffn_in": (width, ffn),
        "ffn_out": (ffn, width),
    }
    params = {}
    for (name, shape), subkey in zip(
        shapes.items(), jax.random.split(key, len(shapes)), strict=True
    ):
        kernel = 0.02 * jax.random.normal(subkey, (num_layers, *shape))
        params[name] = {"kernel": kernel, "bias": jnp.zeros((num_layers, shape[1]))}
    for name in ("attention_norm", "ffn_norm"):
        params[name] = {
            "scale": jnp.ones((num_layers, width)),
            "bias": jnp.zeros((num_layers, width)),
        }
    return params
