"""The grouped, weight-normalised convolution that tells the Transformer about positions.

Kernel k (128), padding k // 2 on both sides, and the one frame too many that an even kernel
gives is dropped at the end: output t sees inputs t - k // 2 ... t - k // 2 + k - 1.

On a CPU the grouped convolution is slow, and so here it is done in the frequency domain, with
the Fourier transforms written as products with a matrix of cosines and sines. On a TPU two frames
make one: a group's 64 channels would leave three quarters of the matrix unit empty.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from xlsr_jax.models import layers


def init(key: jax.Array, kernel: int, width: int, groups: int) -> layers.Params:
    """weight_v N(0, sqrt(4 / (kernel * width))), weight_g its norm a tap, bias 0."""
    shape = (kernel, width // groups, width)
    weight_v = jax.random.normal(key, shape) * (4 / (kernel * width)) ** 0.5
    return {
        "weight_g": jnp.sqrt(jnp.sum(jnp.square(weight_v), axis=(1, 2), keepdims=True)),
        "weight_v": weight_v,
        "bias": jnp.zeros(width),
    }


def weight(params: layers.Params) -> jax.Array:
    """[k, D / groups, D]: g v / |v|, the norm taken over both channel axes, per kernel tap."""
    v = params["weight_v"]
    norm = jnp.sqrt(jnp.sum(jnp.square(v), axis=(1, 2), keepdims=True))
    return v * (params["weight_g"] / norm)


def apply(x_BTD: jax.Array, params: layers.Params, groups: int) -> jax.Array:
    """[B, T, D] to [B, T, D], before the activation."""
    y = jax.lax.platform_dependent(
        x_BTD,
        weight(params),
        cpu=functools.partial(in_frequency, groups=groups),
        tpu=functools.partial(in_pairs, groups=groups),
        default=functools.partial(directly, groups=groups),
    )
    return y + params["bias"].astype(x_BTD.dtype)


def directly(x_BTD: jax.Array, weight_kID: jax.Array, groups: int) -> jax.Array:
    """The convolution as the backend does it."""
    kernel = weight_kID.shape[0]
    return jax.lax.conv_general_dilated(
        x_BTD,
        weight_kID.astype(x_BTD.dtype),
        window_strides=(1,),
        padding=[(kernel // 2, kernel - 1 - kernel // 2)],
        dimension_numbers=("NTC", "TIO", "NTC"),
        feature_group_count=groups,
    )


def in_pairs(x_BTD: jax.Array, weight_kID: jax.Array, groups: int) -> jax.Array:
    """The same with two frames side by side: half the frames, twice a group's channels.

    Output q of a pair sees input p of the pair j further on by tap 2 j + p - q; one tap in k is
    zeros, and no other is stored twice but for the two places.
    """
    batch, length, width = x_BTD.shape
    kernel, inputs, _ = weight_kID.shape
    outputs, pairs, taps = width // groups, -(-length // 2), kernel // 2 + 1
    before, total = kernel // 2, 2 * (pairs + taps - 1)
    x = jnp.pad(x_BTD, ((0, 0), (before, total - before - length), (0, 0)))
    x = jnp.swapaxes(x.reshape(batch, -1, 2, groups, inputs), 2, 3)
    w = weight_kID.astype(x.dtype).reshape(kernel, inputs, groups, outputs)
    w = [jnp.pad(w, ((q, 2 * taps - kernel - q), (0, 0), (0, 0), (0, 0))) for q in (0, 1)]
    y = jax.lax.conv_general_dilated(
        x.reshape(batch, -1, 2 * width),
        jnp.stack(w, axis=-2).reshape(taps, 2 * inputs, 2 * width),
        window_strides=(1,),
        padding="VALID",
        dimension_numbers=("NTC", "TIO", "NTC"),
        feature_group_count=groups,
    )
    y = jnp.swapaxes(y.reshape(batch, pairs, groups, 2, outputs), 2, 3)
    return y.reshape(batch, 2 * pairs, width)[:, :length]


def in_frequency(x_BTD: jax.Array, weight_kID: jax.Array, groups: int) -> jax.Array:
    """The same through real Fourier transforms of length n, computed in fp32.

    The correlation c[t] = sum_j w[j] x[t + j] is wanted for t = -k // 2 ... T - 1 - k // 2. Taken
    around a circle of n >= T + k // 2 samples nothing wanted overlaps with anything else.
    """
    batch, length, width = x_BTD.shape
    kernel, inputs, _ = weight_kID.shape
    outputs = width // groups
    n = length + kernel // 2
    to_x, to_weight, back = _transforms(n, length, kernel)
    bins = n // 2 + 1
    x = jnp.einsum("ft,btd->fbd", to_x, x_BTD.astype(jnp.float32))
    x = x.reshape(2, bins, batch, groups, inputs)
    # Groups before inputs while the weight is still k taps long and not n.
    w = weight_kID.astype(jnp.float32).reshape(kernel, inputs, groups, outputs)
    w = jnp.einsum("fk,kgio->fgio", to_weight, jnp.swapaxes(w, 1, 2))
    w = w.reshape(2, bins, groups, inputs, outputs)
    # Real and imaginary part of x conj(w); both parts of x go through one product.
    with_real = jnp.einsum("pfbgi,fgio->fgpbo", x, w[0])
    with_imaginary = jnp.einsum("pfbgi,fgio->fgpbo", x, w[1])
    real = with_real[:, :, 0] + with_imaginary[:, :, 1]
    imaginary = with_real[:, :, 1] - with_imaginary[:, :, 0]
    y = jnp.stack([real, imaginary]).reshape(2 * bins, groups, batch, outputs)
    y = jnp.einsum("tf,fgbo->btgo", back, y).reshape(batch, length, width)
    return y.astype(x_BTD.dtype)


def _transforms(n: int, length: int, kernel: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Matrices [2 bins, T] and [2 bins, k] into, and [T, 2 bins] out of, the frequency domain."""
    frequency = np.arange(n // 2 + 1)

    def rows(times):
        angle = 2 * np.pi * (np.outer(frequency, times) % n) / n
        return np.concatenate([np.cos(angle), -np.sin(angle)])

    # A real signal's bins but the first, and the last of an even n, stand for two.
    count = np.where((frequency == 0) | (2 * frequency == n), 1, 2) / n
    wanted = np.arange(length) - kernel // 2
    back = rows(wanted) * np.concatenate([count, count])[:, None]
    return tuple(m.astype(np.float32) for m in (rows(np.arange(length)), rows(np.arange(kernel)),
                                                back.T))
