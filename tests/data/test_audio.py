"""Decoding, resampling and normalization against analytic signals, scipy and librosa."""

import numpy as np
import pytest
import soundfile
from scipy.signal import resample_poly

from xlsr_jax.data import audio
from xlsr_jax.data.speech import Speech, UnreadableAudio


def sine(rate, frequency=440.0, seconds=1.0, amplitude=0.5):
    time = np.arange(int(rate * seconds)) / rate
    return (amplitude * np.sin(2 * np.pi * frequency * time)).astype(np.float32)


def tone(waveform, frequency, rate=16_000):
    """Amplitude of one frequency in the middle of a waveform, by projection."""
    middle = waveform[len(waveform) // 4 : -len(waveform) // 4].astype(np.float64)
    phase = 2j * np.pi * frequency * np.arange(len(middle)) / rate
    window = np.hanning(len(middle))
    return 2 * abs(np.sum(window * middle * np.exp(-phase))) / window.sum()


@pytest.mark.parametrize("rate", [8_000, 11_025, 16_000, 22_050, 44_100, 48_000, 96_000])
def test_a_sine_keeps_frequency_amplitude_and_duration(rate, tmp_path):
    soundfile.write(tmp_path / "a.wav", sine(rate), rate, subtype="FLOAT")
    speech = audio.decode(tmp_path / "a.wav")
    waveform = audio.to_record_rate(speech)
    assert speech.rate == rate and waveform.dtype == np.float32
    assert abs(len(waveform) - 16_000) <= 1
    assert tone(waveform, 440.0) == pytest.approx(0.5, abs=1e-3)
    assert tone(waveform, 880.0) < 1e-3
    inner = slice(1_000, 15_000)  # away from the edges the phase is right as well
    assert np.abs(waveform[inner] - sine(16_000)[inner]).max() < 2e-3


def test_what_lies_above_the_new_nyquist_frequency_is_gone():
    waveform = audio.resample(sine(48_000, 10_000.0), 48_000)
    assert np.abs(waveform[1_000:-1_000]).max() < 1e-3  # 10 kHz would fold down to 6 kHz


def test_resampling_agrees_with_scipy_in_the_pass_band():
    rng = np.random.default_rng(0)
    spectrum = np.fft.rfft(rng.standard_normal(44_100))
    spectrum[6_000:] = 0  # 1 Hz a bin: content below 6 kHz only
    noise = np.fft.irfft(spectrum).astype(np.float32)
    theirs = resample_poly(noise.astype(np.float64), 160, 441, window=("kaiser", 12.0))
    ours = audio.resample(noise, 44_100)
    inner = slice(500, -500)
    error = np.sqrt(np.mean((ours - theirs[: len(ours)])[inner] ** 2) / np.mean(theirs[inner] ** 2))
    assert error < 5e-3


def test_channels_are_mixed_to_their_mean(tmp_path):
    left, right = sine(16_000, 300.0), sine(16_000, 700.0)
    soundfile.write(tmp_path / "s.wav", np.stack([left, right], 1), 16_000, subtype="FLOAT")
    np.testing.assert_allclose(
        audio.decode(tmp_path / "s.wav").waveform, (left + right) / 2, atol=1e-7
    )


def test_long_files_are_decoded_in_blocks_without_a_seam(tmp_path, monkeypatch):
    monkeypatch.setattr(audio, "BLOCK", 1_000)
    soundfile.write(tmp_path / "a.wav", sine(16_000), 16_000, subtype="FLOAT")
    np.testing.assert_array_equal(audio.decode(tmp_path / "a.wav").waveform, sine(16_000))


@pytest.mark.parametrize("suffix", ["flac", "mp3", "ogg"])
def test_formats(suffix, tmp_path):
    soundfile.write(tmp_path / f"a.{suffix}", sine(16_000), 16_000)
    waveform = audio.decode(tmp_path / f"a.{suffix}").waveform
    assert abs(len(waveform) - 16_000) < 1_200
    assert tone(waveform, 440.0) == pytest.approx(0.5, rel=0.03)


def noise_bytes(tmp_path, suffix, quiet=slice(0), **options):
    noise = 0.1 * np.random.default_rng(0).standard_normal(32_000).astype(np.float32)
    noise[quiet] = 0.0
    path = tmp_path / f"whole.{suffix}"
    soundfile.write(path, noise, 16_000, **options)
    return path.read_bytes()


@pytest.mark.parametrize("part", [0.3, 0.6, 0.9])
@pytest.mark.parametrize("suffix", ["wav", "flac", "mp3", "ogg"])
def test_truncated_files_are_refused(suffix, part, tmp_path):
    data = noise_bytes(tmp_path, suffix)
    (tmp_path / f"cut.{suffix}").write_bytes(data[: int(part * len(data))])
    with pytest.raises(UnreadableAudio, match="truncated|damaged"):
        audio.decode(tmp_path / f"cut.{suffix}")


def test_an_ogg_cut_between_two_pages_is_refused(tmp_path):
    data = noise_bytes(tmp_path, "ogg")
    (tmp_path / "cut.ogg").write_bytes(data[: data.rfind(b"OggS")])
    with pytest.raises(UnreadableAudio, match="truncated: the OGG stream has no last page"):
        audio.decode(tmp_path / "cut.ogg")


def test_an_mp3_whose_length_is_guessed_is_whole_or_refused(tmp_path):
    """Variable rate, no length header: the decoder's guess goes by the first frame."""
    for quiet, fits in ((slice(8_000), True), (slice(8_000, None), False)):
        data = noise_bytes(tmp_path, "mp3", quiet)
        assert b"Xing" in data[:200]
        (tmp_path / "a.mp3").write_bytes(data[data.find(data[:2], 4) :])
        if fits:
            count = len(audio.decode(tmp_path / "a.mp3").waveform)
            assert abs(count - 32_000) < audio.MP3_SLACK
        else:
            with pytest.raises(UnreadableAudio, match="MP3 without a length header: decodes to"):
                audio.decode(tmp_path / "a.mp3")


def test_an_mp3_of_constant_rate_needs_no_length_header(tmp_path):
    data = noise_bytes(tmp_path, "mp3", bitrate_mode="CONSTANT", compression_level=0.5)
    (tmp_path / "a.mp3").write_bytes(data[data.find(data[:2], 4) :])
    assert abs(len(audio.decode(tmp_path / "a.mp3").waveform) - 32_000) < audio.MP3_SLACK


def test_a_streamed_wav_without_a_length_is_read(tmp_path):
    data = bytearray(noise_bytes(tmp_path, "wav"))
    at = data.find(b"data") + 4
    data[at : at + 4] = b"\xff" * 4
    (tmp_path / "a.wav").write_bytes(data)
    assert len(audio.decode(tmp_path / "a.wav").waveform) == 32_000


def test_unusable_files_have_a_reason_each(tmp_path):
    path = tmp_path / "a.wav"
    cases = []
    with pytest.raises(UnreadableAudio, match="file is missing"):
        audio.decode(path)
    with pytest.raises(UnreadableAudio, match="cannot be opened: Is a directory"):
        audio.decode(tmp_path)
    for content in (b"", b"These are words and not a sound.\n" * 20):
        path.write_bytes(content)
        with pytest.raises(UnreadableAudio) as error:
            audio.decode(path)
        cases.append(str(error.value))
    soundfile.write(path, np.zeros(0, np.float32), 16_000)
    with pytest.raises(UnreadableAudio) as error:
        audio.decode(path)
    cases.append(str(error.value))
    assert cases[0] == "zero-length file"
    assert cases[1].startswith("not audio: ")
    assert cases[2] == "no samples"


def test_duration_is_capped_before_decoding(tmp_path):
    soundfile.write(tmp_path / "a.flac", np.zeros(48_000, np.int16), 16_000)
    assert len(audio.decode(tmp_path / "a.flac", max_seconds=3).waveform) == 48_000
    with pytest.raises(UnreadableAudio, match="too long: 3.0 s, over 2.9 s"):
        audio.decode(tmp_path / "a.flac", max_seconds=2.9)


@pytest.mark.parametrize(
    ("waveform", "rate", "reason"),
    [
        (np.array([0.0, np.nan, np.inf] * 1_000), 16_000, "NaN or infinite samples: 2000 of 3000"),
        (np.full(3_000, 300.0), 16_000, "samples beyond full scale: peak 300"),
        (np.zeros(3_000), 4_000, "sampling rate outside 8000 to 96000 Hz: 4000 Hz"),
        (np.zeros(3_000), 192_000, "sampling rate outside"),
        (np.zeros(399), 16_000, "shorter than one frame: 399 of 400"),
        (np.zeros((300, 2)), 16_000, "not mono"),
    ],
)
def test_unusable_waveforms_have_a_reason_each(waveform, rate, reason):
    with pytest.raises(UnreadableAudio, match=reason):
        audio.to_record_rate(Speech(waveform.astype(np.float32), rate))


def test_silence_is_usable():
    silence = np.zeros(800, np.float32)
    np.testing.assert_array_equal(audio.to_record_rate(Speech(silence, 16_000)), silence)
    np.testing.assert_array_equal(audio.normalize(silence), silence)


def test_normalization_is_that_of_the_papers():
    rng = np.random.default_rng(1)
    waveform = (0.3 + 0.01 * rng.standard_normal(50_000)).astype(np.float32)
    exact = waveform.astype(np.float64)
    expected = (exact - exact.mean()) / np.sqrt(exact.var() + 1e-5)  # biased variance
    normalized = audio.normalize(waveform)
    few = np.array([0.5, -0.5, 0.25], np.float32)  # with so few, n and n - 1 differ
    by_hand = (few - 1 / 12) / np.sqrt(((few - 1 / 12) ** 2).sum() / 3 + 1e-5)
    np.testing.assert_allclose(audio.normalize(few), by_hand, rtol=1e-5)
    np.testing.assert_allclose(normalized, expected, atol=2e-5)
    assert normalized.dtype == np.float32
    # eps counts at this level: without it the spread would be 1.
    assert normalized.std() == pytest.approx(np.sqrt(1e-4 / (1e-4 + 1e-5)), rel=5e-3)


def test_crops_are_uniform_over_all_that_fit():
    fractions = (np.arange(60_000) + 0.5) / 60_000
    starts = [audio.crop_start(10, 5, fraction) for fraction in fractions]
    np.testing.assert_array_equal(np.bincount(starts), np.full(6, 10_000))
    assert audio.crop_start(10, 5, np.nextafter(1.0, 0.0)) == 5
    assert audio.crop_start(5, 10, 0.99) == 0
    waveform = np.arange(10, dtype=np.float32)
    np.testing.assert_array_equal(audio.crop(waveform, 5, 5), [5, 6, 7, 8, 9])
    np.testing.assert_array_equal(audio.crop(waveform, 8, 4), [8, 9, 0, 0])
