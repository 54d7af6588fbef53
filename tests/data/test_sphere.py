"""SPHERE files, parts of recordings, and bytes that only look like audio."""

import io
import time
import tracemalloc

import numpy as np
import pytest
import soundfile

from xlsr_jax.data import audio, containers
from xlsr_jax.data.speech import UnreadableAudio


def sphere(data: bytes, size=1024, end="\n", **fields) -> bytes:
    """A SPHERE file: ``fields`` with their types, such as sample_rate="-i 8000"."""
    lines = ["NIST_1A", f"{size:7d}", *(f"{name} {value}" for name, value in fields.items())]
    return "".join(line + end for line in [*lines, "end_head"]).encode().ljust(size) + data


def telephone(count, coding="ulaw", **more):
    """Fields as the LDC's telephone corpora have them."""
    return {
        "sample_count": f"-i {count}", "sample_n_bytes": "-i 1", "channel_count": "-i 1",
        "sample_byte_format": "-s1 1", "sample_rate": "-i 8000",
        "sample_coding": f"-s{len(coding)} {coding}", **more,
    }  # fmt: skip


def studio(count, order="01", **more):
    """Fields as sox writes them for 16 bits."""
    return {
        "sample_count": f"-i {count}", "sample_n_bytes": "-i 2", "channel_count": "-i 1",
        "sample_byte_format": f"-s2 {order}", "sample_rate": "-i 16000",
        "sample_coding": "-s3 pcm", **more,
    }  # fmt: skip


def mu_law(waveform: np.ndarray) -> bytes:
    """G.711 of [-1, 1): 14 bits, chord and step of the biased magnitude, all bits inverted."""
    level = np.minimum(np.floor(np.abs(waveform) * 8192), 8158) + 33
    chord = np.floor(np.log2(level)).astype(int) - 5
    step = np.floor(level / 2.0 ** (chord + 1)).astype(int) - 16
    return (255 - (128 * (waveform < 0) + 16 * chord + step)).astype(np.uint8).tobytes()


def a_law(waveform: np.ndarray) -> bytes:
    """G.711 of [-1, 1): 12 bits of magnitude, every second bit inverted, positive has the top."""
    level = np.floor(np.abs(waveform) * 4096)
    chord = np.maximum(np.floor(np.log2(np.maximum(level, 1))).astype(int) - 4, 0)
    step = np.floor(level / 2.0 ** np.maximum(chord, 1)).astype(int) % 16
    return ((128 * (waveform >= 0) + 16 * chord + step) ^ 0x55).astype(np.uint8).tobytes()


def tone(rate, seconds=1.0, amplitude=0.5):
    return amplitude * np.sin(2 * np.pi * 440 * np.arange(int(rate * seconds)) / rate)


@pytest.mark.parametrize(("coding", "encode"), [("ulaw", mu_law), ("alaw", a_law)])
def test_g711_is_that_of_the_standard(coding, encode, tmp_path):
    path = tmp_path / "a.sph"
    every = bytes(range(256))
    path.write_bytes(sphere(every, **telephone(256, coding)))
    ours = audio.decode(path).waveform
    theirs, _ = soundfile.read(
        io.BytesIO(every), format="RAW", subtype=coding.upper(), samplerate=8_000, channels=1
    )
    np.testing.assert_array_equal(ours, theirs.astype(np.float32))
    waveform = tone(8_000)
    path.write_bytes(sphere(encode(waveform), **telephone(8_000, coding)))
    speech = audio.decode(path)
    assert speech.rate == 8_000 and len(speech.waveform) == 8_000
    error = speech.waveform - waveform
    # Half a step of sixteen to a chord: a 64th of the level at most, 38 dB of noise in all.
    assert np.abs(error).max() <= 0.5 / 32 + 1e-3
    assert 36 < 10 * np.log10(np.mean(waveform**2) / np.mean(error**2)) < 41


@pytest.mark.parametrize(("order", "dtype"), [("01", "<i2"), ("10", ">i2")])
@pytest.mark.parametrize("size", [1024, 2048])
def test_16_bits_in_both_byte_orders(order, dtype, size, tmp_path):
    pcm = np.arange(-32_768, 32_768, 7).astype(dtype)
    fields = studio(len(pcm), order, speaker_id=f"-s{size - 600} " + "x" * (size - 600))
    (tmp_path / "a.sph").write_bytes(sphere(pcm.tobytes(), size, **fields))
    speech = audio.decode(tmp_path / "a.sph")
    assert speech.rate == 16_000
    np.testing.assert_array_equal(speech.waveform * 32_768, pcm.astype(np.float32))


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"sample_byte_format": "-s2 01"},
        {"sample_byte_format": "-s2 10"},
        {"sample_coding": "-s3 ulaw"},
        {"sample_coding": "-s6 mu-law"},
        {"sample_coding": "-s4 ULAW", "sample_n_bytes": "-s1 1"},
        {"sample_rate": "-r 8000.000000", "sample_max": "-i -5", "note": "-s9 end_heads"},
    ],
)
def test_headers_of_other_writers(fields, tmp_path):
    waveform = tone(8_000, 0.1)
    data = sphere(mu_law(waveform) + b"\0" * 99, **telephone(800, **fields))
    (tmp_path / "a.wav").write_bytes(data)  # so are many of the LDC's named
    speech = audio.decode(tmp_path / "a.wav")
    assert speech.rate == 8_000
    np.testing.assert_allclose(speech.waveform, waveform, atol=0.017)  # and no sample of the rest


def test_of_two_channels_one_may_be_taken(tmp_path):
    left, right = tone(8_000, amplitude=0.8), tone(8_000, amplitude=0.2)
    pair = np.stack([left, right], 1).ravel()
    path = tmp_path / "call.sph"
    path.write_bytes(sphere(mu_law(pair), **telephone(8_000, channel_count="-i 2")))
    for channel, expected in ((0, left), (1, right), (None, (left + right) / 2)):
        part = audio.decode_part(path, 0.25, 0.75, channel=channel).waveform
        np.testing.assert_allclose(part, expected[2_000:6_000], atol=0.03)
    with pytest.raises(UnreadableAudio, match="no such channel: 2, the file has 2"):
        audio.decode_part(path, channel=2)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"sample_count": "-i 900"}, "truncated: 800 of 900 samples"),
        ({"sample_coding": "-s26 pcm,embedded-shorten-v2.00"},
         "compressed SPHERE: pcm,embedded-shorten-v2.00; make a WAV file of it with sph2pipe"),
        ({"sample_coding": "-s5 gsm06"}, "unknown SPHERE coding: gsm06"),
        ({"sample_coding": "-s3 pcm", "sample_n_bytes": "-i 3"}, "SPHERE of 24 bits: make a WAV"),
        ({"sample_count": "-i 0"}, "no samples"),
        ({"channel_count": "-i 0"}, "damaged audio: a SPHERE header of 0 channels"),
        ({"sample_count": "-i many"}, "damaged audio: the SPHERE header says sample_count 'many'"),
        ({"sample_rate": "-i 1e999"}, "damaged audio: the SPHERE header says sample_rate '1e999'"),
        ({"sample_rate": "-i 0"}, "damaged audio: a SPHERE header without a sampling rate"),
        ({"size": 0}, "damaged audio: the SPHERE header has no size"),
        ({"size": 128}, "damaged audio: the SPHERE header has no end"),
        ({"end": "\r\n"}, "damaged audio: its line ends were rewritten; copy it in binary mode"),
    ],
)  # fmt: skip
def test_unusable_sphere_files_have_a_reason_each(fields, reason, tmp_path):
    (tmp_path / "a.sph").write_bytes(sphere(b"\x7f" * 800, **telephone(800) | fields))
    with pytest.raises(UnreadableAudio, match=reason):
        audio.decode(tmp_path / "a.sph")
    if reason != "no samples":
        with pytest.raises(UnreadableAudio, match=reason):  # nothing of it is to be trusted
            audio.decode_part(tmp_path / "a.sph", 0.0, 0.05)


def written(path, kind, waveform, rate=16_000):
    if kind == "sph":
        pcm = np.rint(waveform * 32_768).astype("<i2")
        path.write_bytes(sphere(pcm.tobytes(), **studio(len(pcm), sample_rate=f"-i {rate}")))
    elif kind == "opus":
        soundfile.write(path, waveform, rate, format="OGG", subtype="OPUS")
    else:
        soundfile.write(path, waveform, rate)
    return path


@pytest.mark.parametrize("kind", ["sph", "wav", "flac", "mp3", "ogg", "opus"])
def test_a_part_is_that_part_of_the_whole(kind, tmp_path, monkeypatch):
    noise = 0.1 * np.random.default_rng(0).standard_normal(80_000)
    path = written(tmp_path / f"a.{kind}", kind, noise)
    speech = audio.decode(path)
    whole, rate = speech.waveform, speech.rate
    monkeypatch.setattr(audio, "BLOCK", 1_000)
    for start, end in ((0.0, 0.5), (1.2345, 3.3), (4.0, float("inf"))):
        part = audio.decode_part(path, start, end, max_seconds=3)
        first, last = round(start * rate), round(min(end, 60) * rate)
        # An MP3 decoder that begins in the middle lacks a little of what overlaps.
        atol = 5e-3 if kind == "mp3" else 2e-6
        np.testing.assert_allclose(part.waveform, whole[first:last], atol=atol)
        assert part.rate == rate


def test_a_part_must_lie_within_the_file(tmp_path):
    path = written(tmp_path / "a.sph", "sph", tone(16_000, 2.0))
    whole = audio.decode(path).waveform
    np.testing.assert_array_equal(audio.decode_part(path, 1.0, 2.1).waveform, whole[16_000:])
    for start, end, reason in (
        (1.0, 2.11, r"segment beyond the end: 1 to 2.11 of 2.00 s"),
        (1.0, 1e308, r"segment beyond the end: 1 to 1e\+308 of 2.00 s"),
        (9.0, float("inf"), r"segment beyond the end: 9 to inf of 2.00 s"),
        (2.0, 2.05, r"empty segment: 2 to 2.05 of 2.00 s"),
        (1.5, 1.5, r"empty segment: 1.5 to 1.5 s"),
        (-1.0, 1.0, r"empty segment: -1 to 1 s"),
        (float("nan"), 1.0, r"empty segment: nan to 1 s"),
        (0.25, 1.5, r"too long: 1.2 s, over 1 s"),
    ):
        with pytest.raises(UnreadableAudio, match=reason):
            audio.decode_part(path, start, end, max_seconds=1 if start == 0.25 else 100)


def test_of_an_hour_only_the_part_is_read(tmp_path):
    """Ten hours of mu-law, of which the file system stores only what is not zero."""
    path = tmp_path / "day.sph"
    count = 36_000 * 8_000
    with open(path, "wb") as file:
        file.write(sphere(b"", **telephone(count)))
        file.seek(1024 + 30_000 * 8_000)
        file.write(mu_law(tone(8_000)))
        file.truncate(1024 + count)
    tracemalloc.start()
    begun = time.process_time()
    part = audio.decode_part(path, 30_000, 30_001)
    with pytest.raises(UnreadableAudio, match="too long: 36000.0 s, over 600 s"):
        audio.decode(path, max_seconds=600)
    assert time.process_time() - begun < 1
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()
    np.testing.assert_allclose(part.waveform, tone(8_000), atol=0.017)


def test_headers_state_their_length(tmp_path):
    for kind, rate in (("sph", 8_000), ("wav", 48_000)):
        path = written(tmp_path / f"a.{kind}", kind, tone(rate, 1.5), rate)
        assert containers.stated_seconds(io.BytesIO(path.read_bytes()[:2_000])) == 1.5
    for data in (b"", b"fLaC", b"RIFF\0\0\0\0WAVE", path.read_bytes()[:36], b"NIST_1A\n   1024\n"):
        with pytest.raises(UnreadableAudio, match="not audio|damaged audio"):
            containers.stated_seconds(io.BytesIO(data))


def heads(tmp_path) -> list[bytes]:
    """The first bytes of real files, one a format."""
    noise = 0.1 * np.random.default_rng(0).standard_normal(16_000)
    found = [written(tmp_path / f"h.{kind}", kind, noise).read_bytes() for kind in
             ("sph", "wav", "flac", "mp3", "ogg", "opus")]  # fmt: skip
    for kind in ("AIFF", "AU", "CAF", "W64", "RF64"):
        soundfile.write(tmp_path / "h", noise, 16_000, format=kind)
        found.append((tmp_path / "h").read_bytes())
    return [*found, b"", b"RIFF\xff\xff\xff\xffWAVE", b"ID3\4\0\0\x7f\x7f\x7f\x7f"]


def test_random_bytes_behind_real_heads_are_audio_or_refused(tmp_path):
    rng = np.random.default_rng(0)
    starts, path, refused = heads(tmp_path), tmp_path / "a.wav", 0
    tracemalloc.start()
    begun = time.process_time()
    for number in range(280):
        data = starts[number % len(starts)]
        if number % 2:  # a whole file, of which some bytes are not its own
            data = bytearray(data)
            for at in rng.integers(0, max(1, min(len(data), 200)), 6):
                data[at : at + 1] = rng.bytes(1)
        else:
            data = data[: rng.integers(0, 200)]
        path.write_bytes(bytes(data) + rng.bytes(int(rng.integers(1, 4_000))))
        try:
            waveform = audio.to_record_rate(audio.decode(path, max_seconds=600))
        except UnreadableAudio as error:
            refused += 1
            assert "\n" not in str(error) and len(str(error)) < 300
        else:
            assert np.isfinite(waveform).all()
    assert refused > 140
    assert time.process_time() - begun < 60
    assert tracemalloc.get_traced_memory()[1] < 200 << 20
    tracemalloc.stop()
