"""The recording channel, measured from what goes in and what comes out."""

import dataclasses

import numpy as np
import pytest
from scipy import signal

from xlsr_jax.data.records import SAMPLE_RATE
from xlsr_jax.preparation import channel

PLAIN = channel.Channel(
    before=0.2, after=0.3, low=100.0, high=4000.0, snr=20.0, tilt=1.0, level=-25.0
)


def tone(frequency=1000.0, seconds=2.0):
    time = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    return (0.3 * np.sin(2 * np.pi * frequency * time)).astype(np.float32)


def decibels(signal_):
    return 10 * np.log10(np.mean(np.square(signal_, dtype=np.float64)))


@pytest.mark.parametrize("snr", [5.0, 17.0, 30.0])
def test_noise_is_as_loud_as_asked(snr):
    recorded = channel.record(tone(), dataclasses.replace(PLAIN, snr=snr), np.random.default_rng(0))
    clean = channel.record(tone(), dataclasses.replace(PLAIN, snr=300), np.random.default_rng(0))
    within = slice(round(0.2 * SAMPLE_RATE), -round(0.3 * SAMPLE_RATE))
    # The least-squares multiple of the clean recording is the speech in the noisy one.
    scale = np.dot(recorded[within], clean[within]) / np.dot(clean[within], clean[within])
    noise = recorded - scale * clean
    assert decibels(scale * clean[within]) - decibels(noise) == pytest.approx(snr, abs=0.3)


def test_level_and_silences():
    recorded = channel.record(tone(), PLAIN, np.random.default_rng(0))
    assert len(recorded) == round(2.5 * SAMPLE_RATE) and recorded.dtype == np.float32
    assert decibels(recorded) == pytest.approx(-25, abs=0.01)
    level = [decibels(part) for part in (recorded[:3000], recorded[3600:35_000], recorded[-4000:])]
    assert level[1] - level[0] > 15 and level[1] - level[2] > 15


def test_peaks_stay_inside_full_scale():
    click = np.zeros(SAMPLE_RATE, np.float32)
    click[8000] = 0.9
    loud = dataclasses.replace(PLAIN, level=-18.0, snr=30.0)
    recorded = channel.record(click, loud, np.random.default_rng(0))
    assert np.abs(recorded).max() == pytest.approx(0.99)


def test_band_limits():
    hiss = np.random.default_rng(1).standard_normal(4 * SAMPLE_RATE).astype(np.float32) * 0.1
    recorded = channel.record(hiss, PLAIN, np.random.default_rng(0))
    frequency, density = signal.welch(recorded, SAMPLE_RATE, nperseg=2048)
    inside = density[(frequency > 300) & (frequency < 3000)].mean()
    assert density[frequency > 6000].mean() < inside / 100
    assert density[(frequency > 0) & (frequency < 40)].mean() < inside / 30


@pytest.mark.parametrize("tilt", [0.0, 1.0, 2.0])
def test_noise_falls_with_frequency(tilt):
    noise = channel._noise(20 * SAMPLE_RATE, tilt, np.random.default_rng(0))
    frequency, density = signal.welch(noise, SAMPLE_RATE, nperseg=4096)
    band = (frequency > 200) & (frequency < 7000)
    slope = np.polyfit(np.log(frequency[band]), np.log(density[band]), 1)[0]
    assert slope == pytest.approx(-tilt, abs=0.1)


def test_drawn_channels_fill_their_ranges():
    rng = np.random.default_rng(0)
    drawn = [channel.draw(rng) for _ in range(2000)]
    snr = np.array([one.snr for one in drawn])
    assert 5 <= snr.min() < 5.2 and 29.8 < snr.max() <= 30
    assert np.mean(snr) == pytest.approx(17.5, abs=0.5)
    assert all(40 <= one.low <= 300 and 3000 <= one.high <= 7500 for one in drawn)
