"""A recording channel for clean speech: silence at the ends, band limits, noise, level."""

import dataclasses

import numpy as np

from xlsr_jax.data.records import SAMPLE_RATE


@dataclasses.dataclass(frozen=True)
class Channel:
    """How an utterance is recorded.

    Attributes:
      before, after: seconds of silence (noise, that is) at the ends.
      low, high: pass band in Hz.
      snr: mean speech power over mean noise power in dB, both within the pass band.
      tilt: noise power falls with frequency f as f^-tilt (0 white, 1 pink, 2 brown).
      level: root mean square of the result in dB of full scale.
    """

    before: float
    after: float
    low: float
    high: float
    snr: float
    tilt: float
    level: float


def draw(rng: np.random.Generator) -> Channel:
    """A channel at random, from near and clean to far and noisy."""
    return Channel(
        before=rng.uniform(0.05, 0.4),
        after=rng.uniform(0.05, 0.4),
        low=rng.uniform(40, 300),
        high=np.exp(rng.uniform(np.log(3000), np.log(7500))),
        snr=rng.uniform(5, 30),
        tilt=rng.uniform(0, 2),
        level=rng.uniform(-32, -18),
    )


def record(clean: np.ndarray, channel: Channel, rng: np.random.Generator) -> np.ndarray:
    """[samples] float32 at 16 kHz through ``channel``: float32, longer by its silences.

    The level gives way where the peaks would pass full scale.
    """
    from scipy import signal

    before, after = (round(part * SAMPLE_RATE) for part in (channel.before, channel.after))
    band = signal.butter(4, (channel.low, channel.high), "bandpass", fs=SAMPLE_RATE, output="sos")
    speech = signal.sosfilt(band, np.pad(clean.astype(np.float64), (before, after)))
    noise = signal.sosfilt(band, _noise(len(speech), channel.tilt, rng))
    power = np.mean(speech[before : before + len(clean)] ** 2)
    noise *= np.sqrt(power / np.mean(noise**2) / 10 ** (channel.snr / 10))
    mixed = speech + noise
    gain = 10 ** (channel.level / 20) / np.sqrt(np.mean(mixed**2))
    return (mixed * min(gain, 0.99 / np.abs(mixed).max())).astype(np.float32)


def _noise(samples: int, tilt: float, rng: np.random.Generator) -> np.ndarray:
    """[samples] Gaussian noise with power falling as f^-tilt above 50 Hz."""
    from scipy import fft

    size = fft.next_fast_len(samples, real=True)
    frequency = np.maximum(fft.rfftfreq(size, 1 / SAMPLE_RATE), 50.0)
    spectrum = fft.rfft(rng.standard_normal(size)) * frequency ** (-tilt / 2)
    return fft.irfft(spectrum, size)[:samples]
