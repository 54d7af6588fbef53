"""The convolutional feature encoder: 16 kHz samples to one vector every 20 ms.

wav2vec 2.0 section 2, "Feature encoder". Seven convolutions without padding; a frame sees 400
samples (25 ms) and frames are 320 samples (20 ms) apart. "group" normalises each channel over
time after the first convolution only (Base); "layer" normalises each frame over channels after
every convolution (Large, XLSR-53).
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn

from xlsr_jax.models import layers


def frame_counts(samples, kernels: Sequence[int], strides: Sequence[int]):
    """Frames left of ``samples`` (int or integer array) by unpadded convolutions; at least 0."""
    for kernel, stride in zip(kernels, strides, strict=True):
        samples = (samples - kernel) // stride + 1
        samples = max(samples, 0) if isinstance(samples, int) else samples * (samples > 0)
    return samples


def receptive_field(kernels: Sequence[int], strides: Sequence[int]) -> tuple[int, int]:
    """(samples that one frame sees, samples between frames): (400, 320) as published."""
    window, hop = 1, 1
    for kernel, stride in zip(kernels, strides, strict=True):
        window += (kernel - 1) * hop
        hop *= stride
    return window, hop


class FeatureEncoder(nn.Module):
    """Waveform [B, N] to features [B, T, C] in ``dtype``.

    Attributes:
      dims, kernels, strides: one entry a convolution.
      norm: "group" or "layer".
      bias: whether convolutions have a bias.
      statistics_include_padding: "group" only: average over padded frames too, as published
        code does, instead of over valid frames.
      gelu: "exact" or "tanh".
      dtype: of the computation.
      remat: recompute each convolution's activations on the way back.
      constrain: see ``wav2vec2.Wav2Vec2``.
    """

    dims: Sequence[int]
    kernels: Sequence[int]
    strides: Sequence[int]
    norm: str
    bias: bool
    statistics_include_padding: bool = False
    gelu: str = "exact"
    dtype: str = "float32"
    remat: bool = False
    constrain: layers.Constrain = layers.unconstrained

    @nn.compact
    def __call__(self, waveform_BN: jax.Array, samples_B: jax.Array) -> jax.Array:
        x = waveform_BN.astype(self.dtype)[..., None]
        frames_B = samples_B
        for i, (dim, kernel, stride) in enumerate(
            zip(self.dims, self.kernels, self.strides, strict=True)
        ):
            frames_B = frame_counts(frames_B, (kernel,), (stride,))
            conv = self.param(f"conv_{i}", _init_convolution, kernel, x.shape[-1], dim, self.bias)
            norm = None
            if self.norm == "layer" or i == 0:
                norm = self.param(f"norm_{i}", layers.init_norm, dim)
            block = jax.checkpoint(self._block, static_argnums=4) if self.remat else self._block
            x = self.constrain(block(x, conv, norm, frames_B, stride), "batch", None, None)
        return x

    def _block(self, x, conv, norm, frames_B, stride):
        x = convolution(x, conv["kernel"].astype(x.dtype), stride)
        if "bias" in conv:
            x = x + conv["bias"].astype(x.dtype)
        if norm is not None and self.norm == "layer":
            x = layers.layer_norm(x, norm)
        elif norm is not None:
            counts_B = None if self.statistics_include_padding else frames_B
            x = channel_norm_over_time(x, norm, counts_B)
        return layers.activation(self.gelu)(x)


def _init_convolution(key, kernel, width_in, width_out, bias):
    """Kaiming-normal kernel by fan-in; bias uniform by fan-in (PyTorch's default)."""
    kernel_key, bias_key = jax.random.split(key)
    fan_in = kernel * width_in
    shape = (kernel, width_in, width_out)
    params = {"kernel": jax.random.normal(kernel_key, shape) * (2 / fan_in) ** 0.5}
    if bias:
        params["bias"] = layers.uniform_fan_in(fan_in)(bias_key, (width_out,))
    return params


def convolution(x_BTC: jax.Array, kernel_kCD: jax.Array, stride: int) -> jax.Array:
    """Unpadded strided convolution as matrix products: [B, T, C] to [B, T', D].

    ``stride`` frames laid side by side make blocks, a free reshape of the input; output t is
    then the sum over taps of block t + j times rows of the kernel. A kernel no longer than its
    stride is one product, kernel 3 with stride 2 is two. Matrix products are what every backend
    does best, both ways; a test holds this against ``jax.lax.conv_general_dilated``.
    """
    width, channels, dims = kernel_kCD.shape
    batch, length, _ = x_BTC.shape
    frames = (length - width) // stride + 1
    pieces = -(-width // stride)
    if channels == 1:  # the samples themselves: patches are small, a product of depth 1 is not
        patches = [x_BTC[:, j : j + stride * (frames - 1) + 1 : stride, 0] for j in range(width)]
        return layers.matmul(jnp.stack(patches, axis=-1), kernel_kCD[:, 0])
    blocks = frames + pieces - 1
    x_BTC = jnp.pad(x_BTC, ((0, 0), (0, max(0, blocks * stride - length)), (0, 0)))
    x = x_BTC[:, : blocks * stride].reshape(batch, blocks, stride * channels)
    kernel = kernel_kCD.reshape(width * channels, dims)
    y = 0
    for j in range(pieces):
        rows = kernel[j * stride * channels : (j + 1) * stride * channels]
        y = y + layers.matmul(x[:, j : j + frames, : rows.shape[0]], rows)
    return y


def channel_norm_over_time(x_BTC, params, frames_B=None):
    """Group norm with one group a channel: each row's channels over its valid frames, in fp32."""
    x = x_BTC.astype(jnp.float32)
    if frames_B is None:
        mean = jnp.mean(x, axis=1, keepdims=True)
        variance = jnp.mean(jnp.square(x - mean), axis=1, keepdims=True)
    else:
        valid = (jnp.arange(x.shape[1]) < frames_B[:, None])[..., None]
        count = jnp.maximum(frames_B, 1)[:, None, None]
        mean = jnp.sum(jnp.where(valid, x, 0), axis=1, keepdims=True) / count
        variance = jnp.sum(jnp.where(valid, jnp.square(x - mean), 0), 1, keepdims=True) / count
    y = (x - mean) * (jax.lax.rsqrt(variance + layers.EPSILON) * params["scale"]) + params["bias"]
    return y.astype(x_BTC.dtype)
