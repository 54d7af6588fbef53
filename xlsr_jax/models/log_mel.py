"""Log-mel frames: what the warm start regresses, and a network of no parameters for comparison."""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from xlsr_jax.models import layers
from xlsr_jax.schema import setting

SAMPLE_RATE = 16_000
FLOOR = 1e-5  # of the utterance's mean band energy: 50 dB down


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Settings of ``LogMel``."""

    dim: int = setting(80, "mel bands", low=1)
    window: int = setting(400, "samples of a frame", low=16)
    hop: int = setting(160, "samples between frames", low=1)
    dtype: str = setting("float32", "of what is read", choices=("float32", "bfloat16"))

    # What fine-tuning asks of every network, and is no setting here.
    PRETRAINING_ONLY: ClassVar = frozenset()
    layers: ClassVar = 0
    layerdrop: ClassVar = 0.0
    feature_grad_scale: ClassVar = 1.0

    def frames(self, samples):
        """Frames made of ``samples`` (int or integer array); at least 0."""
        count = (samples - self.window) // self.hop + 1
        return count * (count > 0)

    @property
    def geometry(self) -> tuple[int, int]:
        """Samples that a frame sees, and samples between frames."""
        return self.window, self.hop


class LogMel(nn.Module):
    """Log-mel frames where a network's contexts would be: what a probe has to be better than.

    Attributes:
      config: settings.
      constrain: see ``wav2vec2.Wav2Vec2``.
    """

    config: ModelConfig
    constrain: layers.Constrain = layers.unconstrained

    def read(
        self,
        waveform_BN: jax.Array,
        samples_B: jax.Array,
        mask_BT: jax.Array | None = None,
        channel_mask_BD: jax.Array | None = None,
        randomness: Any = None,
        grad_scale: float | None = None,
        layer: int = -1,
    ) -> jax.Array:
        """[B, T, D]: normalised log-mel frames; what is masked is 0, the others as in ``CPC``."""
        c = self.config
        x = log_mel(waveform_BN, c.frames(samples_B), c.dim, c.window, c.hop).astype(c.dtype)
        return self.constrain(layers.masked(x, mask_BT, channel_mask_BD), "batch", None, None)


def log_mel(
    waveform_BN: jax.Array, frames_B: jax.Array, bands: int, window: int, hop: int
) -> jax.Array:
    """[B, T, bands]: log mel energies, each band zero mean and unit variance over valid frames.

    Frame t is the Hann-windowed power spectrum of samples [t hop, t hop + window), the same
    samples as the feature encoder's frame t sees.
    """
    batch, samples = waveform_BN.shape
    frames = (samples - window) // hop + 1
    pieces = -(-window // hop)
    blocks = frames + pieces - 1
    padded = jnp.pad(waveform_BN, ((0, 0), (0, max(0, blocks * hop - samples))))
    blocked = padded[:, : blocks * hop].reshape(batch, blocks, hop)
    patches = jnp.concatenate([blocked[:, j : j + frames] for j in range(pieces)], axis=-1)
    hann = np.hanning(window + 1)[:-1].astype(np.float32)
    spectrum = jnp.fft.rfft(patches[..., :window] * hann)
    energy = (jnp.square(spectrum.real) + jnp.square(spectrum.imag)) @ _filterbank(bands, window)

    valid = (jnp.arange(frames) < frames_B[:, None])[..., None]
    count = jnp.maximum(frames_B, 1)[:, None, None]
    mean = lambda x: jnp.sum(jnp.where(valid, x, 0), axis=1, keepdims=True) / count  # noqa: E731
    floor = FLOOR * jnp.mean(mean(energy), axis=-1, keepdims=True) + 1e-10
    logs = jnp.log(energy + floor)
    centred = logs - mean(logs)
    return centred * jax.lax.rsqrt(mean(jnp.square(centred)) + 1e-5)


def _filterbank(bands: int, window: int) -> np.ndarray:
    """[window // 2 + 1, bands] triangular mel filters (Slaney), 0 to 8 kHz."""
    import librosa

    return librosa.filters.mel(sr=SAMPLE_RATE, n_fft=window, n_mels=bands).T
