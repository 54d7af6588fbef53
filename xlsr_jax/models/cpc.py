"""Modified contrastive predictive coding: encoder, context network and predictors.

Riviere et al. 2020, "Unsupervised pretraining transfers well across languages" (arXiv 2002.02848),
section 2. Five padded convolutions make a vector every 10 ms, a recurrent network reads them from
left to right, and from its contexts up to t each of K predictors foretells the encoder's output at
t + k.

Shape suffixes beside those of ``layers``: ``K`` predictors, ``P`` = T - K frames, those after
which the row has K more.
"""

import dataclasses
import functools
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from xlsr_jax.models import layers, predictors
from xlsr_jax.models.feature_encoder import convolution, receptive_field
from xlsr_jax.models.flops import BACKWARD
from xlsr_jax.schema import ConfigError, setting

GATES = {"lstm": 4, "gru": 3}


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The network. Defaults are the published ones."""

    conv_dims: tuple[int, ...] = setting((256,) * 5, "channels of each convolution", low=2)
    conv_kernels: tuple[int, ...] = setting((10, 8, 4, 4, 4), "taps of each", low=1)
    conv_strides: tuple[int, ...] = setting((5, 4, 2, 2, 2), "stride of each", low=1)
    conv_paddings: tuple[int, ...] = setting((3, 2, 1, 1, 1), "zeros at each end of it", low=0)
    dim: int = setting(256, "width of the contexts", low=1)
    context: str = setting("lstm", "the recurrent network", choices=tuple(GATES))
    predictors: str = setting(
        "transformer",
        "transformer: one causal layer a step; linear: one matrix a step, as the original CPC",
        choices=("transformer", "linear"),
    )
    steps: int = setting(12, "K, frames foretold, each by a predictor of its own", low=1)
    heads: int = setting(8, "attention heads of a predictor", low=1)
    ffn: int = setting(2048, "width of a predictor's feed-forward layer", low=1)
    distances: int = setting(
        116, "relative positions with a vector of their own; farther frames share the last", low=1
    )
    dropout: float = setting(
        0.1, "rate on a predictor's attention weights and in its feed-forward", low=0, high=0.99
    )
    prediction_dropout: float = setting(
        0.0, "rate on the predictions (0.5 is the published option)", low=0, high=0.99
    )
    dtype: str = setting("float32", "of the computation", choices=("float32", "bfloat16"))

    # What a fine-tuned model may have otherwise than the pretrained one it begins from.
    PRETRAINING_ONLY: ClassVar = frozenset({"predictors", "steps", "heads", "ffn", "distances"})
    # What fine-tuning asks of every network, and is no setting here.
    layers: ClassVar = 1
    layerdrop: ClassVar = 0.0
    feature_grad_scale: ClassVar = 1.0

    def __post_init__(self):
        names = ("conv_dims", "conv_kernels", "conv_strides", "conv_paddings")
        sizes = [len(getattr(self, name)) for name in names]
        if len(set(sizes)) != 1 or 0 in sizes:
            raise ConfigError(
                f"model.{', model.'.join(names)} must have one entry a convolution each; they have "
                f"{', '.join(map(str, sizes))}"
            )
        if self.predictors == "linear":
            return
        if self.dim != self.conv_dims[-1]:
            raise ConfigError(
                f"model.predictors=transformer keep the width: model.dim {self.dim} must be the "
                f"last of model.conv_dims, {self.conv_dims[-1]}"
            )
        if self.dim % self.heads:
            raise ConfigError(
                f"model.dim {self.dim} must be a multiple of model.heads {self.heads}"
            )

    def frames(self, samples):
        """Frames made of ``samples`` (int or integer array); at least 0."""
        for geometry in zip(self.conv_kernels, self.conv_strides, self.conv_paddings, strict=True):
            samples = _outputs(samples, *geometry)
        return samples

    @property
    def geometry(self) -> tuple[int, int]:
        """Samples that a frame stands for, and samples between frames.

        Each frame sees as many more on either side as were padded. Without them frames lie as if
        nothing was: frame t is centred where samples [t hop, t hop + window) are.
        """
        window, hop = receptive_field(self.conv_kernels, self.conv_strides)
        padded, apart = 0, 1
        for stride, padding in zip(self.conv_strides, self.conv_paddings, strict=True):
            padded += 2 * padding * apart
            apart *= stride
        return window - padded, hop


def _outputs(length, kernel, stride, padding):
    """Outputs of a padded convolution over ``length`` (int or integer array); none of nothing."""
    count = (length + 2 * padding - kernel) // stride + 1
    keep = (length > 0) & (count > 0)
    return count * keep


class Forward(NamedTuple):
    """One pretraining forward pass.

    Attributes:
      features: [B, T, C], the encoder's output, which is foretold.
      contexts: [B, T, D], the recurrent network's output.
      predictions: [K, B, P, C]; [k - 1, :, t] foretells features[:, t + k].
    """

    features: jax.Array
    contexts: jax.Array
    predictions: jax.Array


class CPC(nn.Module):
    """The pretraining network.

    Attributes:
      config: settings.
      constrain: see ``wav2vec2.Wav2Vec2``.
      pretraining: whether there are predictors; without them only ``encode``, ``contextualise``
        and ``read`` can be called.
    """

    config: ModelConfig
    constrain: layers.Constrain = layers.unconstrained
    pretraining: bool = True

    def setup(self):
        c = self.config
        self.feature_encoder = self.param("feature_encoder", _init_encoder, c)
        self.context_network = self.param("context_network", _init_recurrent, c)
        if self.pretraining:
            self.predictors = self.param("predictors", predictors.init, c)

    def encode(
        self, waveform_BN: jax.Array, samples_B: jax.Array, grad_scale: float | None = None
    ) -> jax.Array:
        """[B, T, C]: the convolutions' output; a padded row's valid frames are those of it alone.

        ``grad_scale`` is a factor on the gradient into the encoder, 1 where not given.
        """
        c = self.config
        x = jax.lax.stop_gradient(waveform_BN).astype(c.dtype)[..., None]
        count_B = samples_B
        for i, geometry in enumerate(
            zip(c.conv_kernels, c.conv_strides, c.conv_paddings, strict=True)
        ):
            conv, norm = (self.feature_encoder[f"{name}_{i}"] for name in ("conv", "norm"))
            count_B = _outputs(count_B, *geometry)
            x = _padded_convolution(x, conv["kernel"].astype(x.dtype), *geometry[1:])
            x = _normalised(x, conv["bias"], norm)
            # The next convolution sees zeros beyond a row's end, as if it stood alone.
            valid_BT = jnp.arange(x.shape[1]) < count_B[:, None]
            x = self.constrain(jnp.where(valid_BT[..., None], x, 0), "batch", None, None)
        return layers.scale_gradient(x, 1.0 if grad_scale is None else grad_scale)

    def contextualise(self, features_BTC: jax.Array) -> jax.Array:
        """[B, T, D]: contexts, each of the frames up to it."""
        contexts = recurrent(features_BTC, self.context_network, self.config.context)
        return self.constrain(contexts, "batch", None, None)

    def read(
        self,
        waveform_BN: jax.Array,
        samples_B: jax.Array,
        mask_BT: jax.Array | None = None,
        channel_mask_BC: jax.Array | None = None,
        randomness: Any = None,
        grad_scale: float | None = None,
        layer: int = -1,
    ) -> jax.Array:
        """[B, T, D]: what a classifier reads, the contexts or (``layer`` 0) the encoder's output.

        Features in ``mask_BT`` and ``channel_mask_BC`` are 0 to the context network. Nothing
        here is random; ``randomness`` is taken for the sake of those who call any model.
        """
        x = self.encode(waveform_BN, samples_B, grad_scale)
        x = layers.masked(x, mask_BT, channel_mask_BC)
        return x if layer == 0 else self.contextualise(x)

    def predict(self, contexts_BTD: jax.Array, seeds_B2: jax.Array | None = None) -> jax.Array:
        """[K, B, P, C]: what each predictor foretells from the first P = T - K frames."""
        c = self.config
        x = contexts_BTD[:, : contexts_BTD.shape[1] - c.steps]
        one = lambda params, number: predictors.predict(x, params, c, seeds_B2, number)  # noqa: E731
        predictions = jax.vmap(one)(self.predictors, jnp.arange(c.steps))
        return self.constrain(predictions, None, "batch", None, None)

    def __call__(
        self, waveform_BN: jax.Array, samples_B: jax.Array, seeds_B2: jax.Array | None = None
    ) -> Forward:
        """The pretraining forward pass.

        Args:
          waveform_BN: fp32 at 16 kHz, valid to ``samples_B``, of more than K frames.
          seeds_B2: of dropout, ``dropout.row_seeds``; None in evaluation.
        """
        features = self.encode(waveform_BN, samples_B)
        contexts = self.contextualise(features)
        return Forward(features, contexts, self.predict(contexts, seeds_B2))


def _init_encoder(key: jax.Array, config: ModelConfig) -> layers.Params:
    """Convolutions uniform by fan-in, kernel and bias (PyTorch's default), and norms."""
    params, width = {}, 1
    for i, (dim, kernel) in enumerate(zip(config.conv_dims, config.conv_kernels, strict=True)):
        kernel_key, bias_key = jax.random.split(jax.random.fold_in(key, i))
        draw = layers.uniform_fan_in(kernel * width)
        params[f"conv_{i}"] = {
            "kernel": draw(kernel_key, (kernel, width, dim)),
            "bias": draw(bias_key, (dim,)),
        }
        params[f"norm_{i}"] = layers.init_norm(key, dim)
        width = dim
    return params


def _padded_convolution(x_BTC, kernel_kCD, stride, padding):
    """Strided convolution with ``padding`` zeros at each end, no bias: [B, ``_outputs``, D]."""
    length = x_BTC.shape[1]
    count = _outputs(length, len(kernel_kCD), stride, padding)
    blocks = max(count, -(-(length + padding) // stride))  # whole ones, see ``convolution``
    right = blocks * stride - length - padding
    padded = jnp.pad(x_BTC, ((0, 0), (padding, right), (0, 0)))
    return convolution(padded, kernel_kCD, stride)[:, :count]


@jax.checkpoint
def _normalised(x, bias, norm):
    """ReLU of ``x + bias`` with each frame normalised over its channels, unbiased variance.

    Computed again on the way back, which is cheaper than keeping what it is made of.
    """
    y = x.astype(jnp.float32) + bias
    y = y - jnp.mean(y, axis=-1, keepdims=True)
    variance = jnp.sum(jnp.square(y), axis=-1, keepdims=True) / (y.shape[-1] - 1)
    y = y * jax.lax.rsqrt(variance + layers.EPSILON) * norm["scale"] + norm["bias"]
    return jax.nn.relu(y).astype(x.dtype)


def _init_recurrent(key: jax.Array, config: ModelConfig) -> layers.Params:
    """Everything uniform by the width of the state. Two biases, as in PyTorch.

    Both are needed where the hidden product is gated (GRU), and keep the published rate of
    learning where they are only added (LSTM).
    """
    kernel_in, bias_in, kernel_hidden, bias_hidden = jax.random.split(key, 4)
    draw, outputs = layers.uniform_fan_in(config.dim), GATES[config.context] * config.dim
    return {
        "input": {
            "kernel": draw(kernel_in, (config.conv_dims[-1], outputs)),
            "bias": draw(bias_in, (outputs,)),
        },
        "hidden": {
            "kernel": draw(kernel_hidden, (config.dim, outputs)),
            "bias": draw(bias_hidden, (outputs,)),
        },
    }


def recurrent(x_BTC: jax.Array, params: layers.Params, kind: str) -> jax.Array:
    """[B, T, D]: one recurrent layer from a state of zeros, with PyTorch's equations.

    "lstm": gates in the order input, forget, candidate, output. "gru": reset, update, candidate,
    the reset gate applied after the hidden product. The state is fp32, products are in the dtype
    of ``x_BTC``.
    """
    batch, dtype = x_BTC.shape[0], x_BTC.dtype
    inputs_TBG = jnp.swapaxes(layers.linear(x_BTC, params["input"]), 0, 1)
    state = jnp.zeros((batch, params["hidden"]["kernel"].shape[0]))

    def gates(x, h):
        hidden = layers.linear(h.astype(dtype), params["hidden"])
        split = functools.partial(jnp.split, indices_or_sections=GATES[kind], axis=-1)
        return split(x.astype(jnp.float32)), split(hidden.astype(jnp.float32))

    def lstm(carry, x):
        h, cell = carry
        i, f, g, o = (a + b for a, b in zip(*gates(x, h), strict=True))
        cell = jax.nn.sigmoid(f) * cell + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(cell)
        return (h, cell), h.astype(dtype)

    def gru(h, x):
        (r, z, n), (hidden_r, hidden_z, hidden_n) = gates(x, h)
        n = jnp.tanh(n + jax.nn.sigmoid(r + hidden_r) * hidden_n)
        z = jax.nn.sigmoid(z + hidden_z)
        h = (1 - z) * n + z * h
        return h, h.astype(dtype)

    step, carry = (lstm, (state, state)) if kind == "lstm" else (gru, state)
    return jnp.swapaxes(jax.lax.scan(step, carry, inputs_TBG)[1], 0, 1)


def encoder_flops(config: ModelConfig, samples: int) -> float:
    """Forward FLOPs of the convolutions for one row; conventions of ``flops``."""
    total, width = 0.0, 1
    for dim, kernel, stride, padding in zip(
        config.conv_dims, config.conv_kernels, config.conv_strides, config.conv_paddings,
        strict=True,
    ):  # fmt: skip
        samples = _outputs(samples, kernel, stride, padding)
        total += 2.0 * samples * kernel * width * dim
        width = dim
    return total


def context_flops(config: ModelConfig, frames: int) -> float:
    """Forward FLOPs of the recurrent network for one row; conventions of ``flops``."""
    return 2.0 * frames * GATES[config.context] * config.dim * (config.conv_dims[-1] + config.dim)


def pretraining_flops(config: ModelConfig, rows: int, samples: int, candidates: int) -> float:
    """FLOPs of one update, forward and backward; conventions of ``flops``.

    ``candidates`` are what each prediction is compared with, the right one among them.
    """
    total = encoder_flops(config, samples) + context_flops(config, config.frames(samples))
    dim, width = config.dim, config.conv_dims[-1]
    frames = max(config.frames(samples) - config.steps, 0)
    predictor = dim * width
    if config.predictors == "transformer":
        # Scores, their relative part and the mixture; half of each is masked and still computed.
        predictor = 4 * dim * dim + 2 * dim * config.ffn + 3 * frames * dim
    total += 2.0 * config.steps * frames * (predictor + candidates * width)
    return rows * (1 + BACKWARD) * total
