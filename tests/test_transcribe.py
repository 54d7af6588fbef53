"""The transcription command and function, with a recognizer that reads loudness as symbols."""

import io
import json
import shutil
import sys
import tracemalloc
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile

from xlsr_jax import recognizer, runtime, transcribe
from xlsr_jax.data import audio
from xlsr_jax.data.speech import UnreadableAudio
from xlsr_jax.schema import ConfigError
from xlsr_jax.text import vocabulary
from xlsr_jax.training.checkpoint import CheckpointError

RATE = 16_000
CHARACTERS = vocabulary.build([("en", list("|abcde"))], "characters")
SEPARATE = vocabulary.build([("es", "ab"), ("fr", "cd")], "phonemes", separate=True)


class Loudness:
    """Hears symbol n where a frame's peak is nearest to n / 10: blank in silence."""

    window, hop = 400, 320

    def __init__(self, vocab=CHARACTERS, normalize=False, remember=True):
        self.vocabulary, self.normalize, self.remember, self.heard = vocab, normalize, remember, []

    def log_probabilities(self, waveforms):
        if self.remember:
            self.heard.append([waveform.copy() for waveform in waveforms])
        levels = np.arange(len(self.vocabulary.symbols)) / 10
        outputs = []
        for waveform in waveforms:
            peaks = np.lib.stride_tricks.sliding_window_view(waveform, 400)[::320].max(axis=1)
            scores = -10 * np.abs(peaks[:, None] - levels)
            outputs.append(scores - np.logaddexp.reduce(scores, axis=1, keepdims=True))
        return [output.astype(np.float32) for output in outputs]

    @property
    def lengths(self):
        return [[len(waveform) for waveform in batch] for batch in self.heard]


def say(text, vocab=CHARACTERS, rate=RATE, hold=0.1, silence=0.1):
    """A tone of 500 Hz with the peak of each symbol in turn, and silence between."""
    wave = 0.1 * np.sin(2 * np.pi * 500 / rate * np.arange(round(hold * rate)))
    parts = []
    for symbol in text:
        loud = vocab.symbols.index(symbol) * wave.astype(np.float32)
        parts += [np.zeros(round(silence * rate), np.float32), loud]
    return np.concatenate([*parts, np.zeros(round(silence * rate), np.float32)])


def write(path, waveform, rate=RATE, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, waveform, rate, **options)
    return str(path)


@pytest.fixture
def run(monkeypatch):
    """The recognizer that the command loads; the process's JAX settings are left alone."""
    fake = Loudness()
    monkeypatch.setattr(recognizer, "load", lambda run, step=None: fake)
    monkeypatch.setattr(runtime, "start", lambda: None)
    return fake


def command(*arguments):
    return transcribe.main(["--run=somewhere", *map(str, arguments)])


def test_one_recording_goes_to_standard_output(run, tmp_path, capsys):
    path = write(tmp_path / "a.wav", say("bad|cab"))
    assert command(path) == 0
    out, err = capsys.readouterr()
    assert (out, err) == ("bad cab\n", "")


def test_symbols_and_words_have_their_times(run, tmp_path, capsys):
    path = write(tmp_path / "a.wav", say("ad|a"))
    assert command(path, "--format=json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["path"], found["seconds"]) == (path, pytest.approx(0.9))
    expected = {"a": (0.1, 0.2), "d": (0.3, 0.4)}
    for token in found["tokens"][:2]:
        start, end = expected[token["symbol"]]
        assert token["start"] == pytest.approx(start, abs=0.021)  # a frame sees 25 ms
        assert token["end"] == pytest.approx(end, abs=0.021)
    assert [word["word"] for word in found["words"]] == ["ad", "a"]
    assert found["words"][0]["start"] == found["tokens"][0]["start"]
    assert found["words"][0]["end"] == found["tokens"][1]["end"]


@pytest.mark.parametrize("form", ["txt", "json", "srt", "textgrid"])
def test_a_folder_is_mirrored_below_output(form, run, tmp_path, capsys):
    source, output = tmp_path / "in", tmp_path / "out"
    write(source / "a.wav", say("ab"))
    write(source / "deep/er/a.FLAC", say("cd"), format="FLAC")
    write(source / "deep/twin.wav", say("ac"))
    write(source / "deep/twin.flac", say("ca"))
    (source / "deep/notes.txt").write_text("not audio, passed over")
    (source / "deep/._a.wav").write_bytes(b"hidden, passed over")
    assert command(source, f"--output={output}", f"--format={form}") == 0
    assert capsys.readouterr() == ("", "")
    suffix = {"textgrid": "TextGrid"}.get(form, form)
    contents = {
        path.relative_to(output).as_posix(): path.read_text()
        for path in output.rglob("*")
        if path.is_file()
    }
    said = {
        f"a.{suffix}": "ab",
        f"deep/er/a.{suffix}": "cd",
        f"deep/twin.wav.{suffix}": "ac",
        f"deep/twin.flac.{suffix}": "ca",
    }
    assert contents.keys() == said.keys()
    assert all(said[name] in content for name, content in contents.items())


def test_many_recordings_are_lines_with_their_paths(run, tmp_path, capsys):
    said = {"a": "ace", "b": "be", "c": "e"}
    for name in "bac":
        write(tmp_path / "x" / f"{name}.wav", say(said[name]))
    assert command(tmp_path / "x") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        f"{tmp_path}/x/{n}.wav\t{t}" for n, t in [("a", "ace"), ("b", "be"), ("c", "e")]
    ]
    assert command(tmp_path / "x/[bc].wav", tmp_path / "x/b.wav") == 0
    assert [line[-2:] for line in capsys.readouterr().out.splitlines()] == ["be", "\te"]
    assert command(tmp_path / "x", "--format=json") == 0
    texts = [json.loads(line)["text"] for line in capsys.readouterr().out.splitlines()]
    assert texts == ["ace", "be", "e"]


def test_what_cannot_be_read_is_named_and_the_rest_is_written(run, tmp_path, capsys):
    folder = tmp_path / "x"
    whole = write(folder / "a.wav", say("ab" * 9))
    data = (folder / "a.wav").read_bytes()
    (folder / "b-cut.wav").write_bytes(data[: len(data) // 2])
    (folder / "c-empty.wav").touch()
    (folder / "d-words.wav").write_bytes(b"These are words and not a sound.\n" * 20)
    write(folder / "e-short.wav", np.zeros(399))
    write(folder / "f-nan.wav", np.full(4_000, np.nan), subtype="FLOAT")
    write(folder / "g-rate.wav", np.zeros(4_000), 4_000)
    write(folder / "z.wav", say("e"))
    assert command(folder, tmp_path / "gone.wav") == 1
    out, err = capsys.readouterr()
    assert [line.split("\t")[1] for line in out.splitlines()] == ["ab" * 9, "e"]
    assert out.startswith(whole)
    reasons = [
        "gone.wav: no such file",
        "b-cut.wav: truncated: ",
        "c-empty.wav: zero-length file",
        "d-words.wav: not audio: ",
        "e-short.wav: shorter than one frame: 399 of 400 samples at 16 kHz",
        "f-nan.wav: NaN or infinite samples: 4000 of 4000",
        "g-rate.wav: sampling rate outside 8000 to 96000 Hz: 4000 Hz",
    ]
    lines = err.splitlines()
    assert len(lines) == len(reasons)
    for reason, line in zip(reasons, lines, strict=True):
        assert reason in line


def test_files_are_refused_for_the_reasons_of_the_decoder(tmp_path):
    noise = 0.1 * np.random.default_rng(0).standard_normal(32_000)
    for suffix in ("wav", "flac", "mp3", "ogg"):
        data = Path(write(tmp_path / f"a.{suffix}", noise)).read_bytes()
        (tmp_path / f"cut.{suffix}").write_bytes(data[: int(0.7 * len(data))])
        with pytest.raises(UnreadableAudio, match="truncated|damaged"):
            list(transcribe.transcribe(tmp_path / f"cut.{suffix}", Loudness()))
    (tmp_path / "a.raw").write_bytes(bytes(4_000))
    with pytest.raises(UnreadableAudio, match="not audio: no header"):
        list(transcribe.transcribe(tmp_path / "a.raw", Loudness()))


@pytest.mark.parametrize("suffix", ["wav", "flac", "mp3", "ogg"])
@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100])
def test_blocks_are_what_the_decoder_gives_in_one(suffix, rate, tmp_path, monkeypatch):
    noise = 0.1 * np.random.default_rng(rate).standard_normal((3 * rate, 2))
    path = write(tmp_path / f"a.{suffix}", noise, rate)
    expected = audio.to_record_rate(audio.decode(path))
    monkeypatch.setattr(audio, "BLOCK", 10_007)
    fake = Loudness()
    list(transcribe.transcribe(path, fake))
    exact = 0 if suffix != "mp3" else 1e-6  # that decoder rounds by how much it is asked for
    np.testing.assert_allclose(fake.heard[0][0], expected, rtol=0, atol=exact)


def test_telephone_stereo_is_mixed_and_resampled(run, tmp_path, capsys):
    mono = say("bad", rate=8_000)
    path = write(tmp_path / "a.wav", np.stack([1.5 * mono, 0.5 * mono], 1), 8_000)
    assert command(path) == 0
    assert capsys.readouterr().out == "bad\n"
    assert run.lengths == [[2 * len(mono)]]


def test_standard_input(run, tmp_path, monkeypatch, capsys):
    data = bytearray(Path(write(tmp_path / "a.wav", say("dab"))).read_bytes())
    at = data.find(b"data") + 4
    data[at : at + 4] = b"\xff" * 4  # a stream whose length was not known when it began
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(data)))
    assert command("-", "--format=json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["path"], found["text"]) == ("-", "dab")
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"")))
    assert command("-") == 1
    assert capsys.readouterr() == ("", "-: zero-length file\n")


def test_nothing_to_do(run, tmp_path, capsys):
    assert command(tmp_path, tmp_path / "*.flac") == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and err.startswith("nothing to transcribe in ")


def test_what_cannot_be_is_one_line(run, tmp_path, capsys, monkeypatch):
    for name in ("x/a.wav", "y/a.wav"):
        write(tmp_path / name, say("a"))
    for arguments, words in [
        ([tmp_path, "--format=srt"], "--format=srt of several recordings needs --output=DIR"),
        ([tmp_path / "x", tmp_path / "y", "--output=o"], "several recordings would be a.txt in o"),
        ([tmp_path, "--language=en"], "language=en picks from a separate vocabulary"),
        ([tmp_path, "--window_seconds=2"], "windows of 2 s cannot overlap by 4 s"),
    ]:
        assert command(*arguments) == 1
        out, err = capsys.readouterr()
        assert out == "" and err.count("\n") == 1 and words in err

    def missing(run, step):
        raise CheckpointError(f"no checkpoint in {run}; is it a run's --workdir?")

    monkeypatch.setattr(recognizer, "load", missing)
    assert command(tmp_path) == 1
    assert capsys.readouterr().err == (
        "CheckpointError: no checkpoint in somewhere; is it a run's --workdir?\n"
    )


def test_a_missing_run_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(runtime, "start", lambda: None)
    path = write(tmp_path / "a.wav", say("a"))
    assert transcribe.main([f"--run={tmp_path / 'none'}", path]) == 1
    err = capsys.readouterr().err
    assert err.startswith("CheckpointError: ") and "none" in err and err.count("\n") == 1


def test_windows_give_what_the_whole_gives(tmp_path):
    rng = np.random.default_rng(1)
    text = "".join(rng.choice(list("abcde|"), 200))
    waveform = say(text, hold=0.09, silence=0.06)
    path = write(tmp_path / "a.wav", waveform, subtype="FLOAT")
    whole = list(transcribe.transcribe([path], Loudness(), window_seconds=60))
    assert whole[0].text == " ".join(text.replace("|", " ").split())
    for window, overlap, batch in [(3, 1, 120), (2.5, 0.3, 1), (1, 0.9, 5)]:
        fake = Loudness()
        settings = dict(window_seconds=window, overlap_seconds=overlap, batch_seconds=batch)
        assert list(transcribe.transcribe([path], fake, **settings)) == whole
        longest = (round(window * RATE) - 400) // 320 * 320 + 400
        assert {length for batch in fake.lengths for length in batch} == {longest}
        assert max(map(len, fake.lengths)) <= max(1, batch / window)


def test_what_fits_a_window_is_seen_whole_to_its_last_sample():
    frames = (2 * RATE - 400) // 320  # beyond the first, in two seconds
    for samples, lengths in [
        (frames * 320 + 400 + 319, [[frames * 320 + 400 + 319]]),
        (frames * 320 + 400 + 320, [[frames * 320 + 400] * 2]),
    ]:
        fake = Loudness()
        waveform = np.zeros(samples, np.float32)
        list(transcribe.transcribe(waveform, fake, window_seconds=2, overlap_seconds=1))
        assert fake.lengths == lengths


def test_normalization_is_over_the_whole_recording(tmp_path):
    rng = np.random.default_rng(2)
    quiet, loud = 0.01 * rng.standard_normal(80_000), 0.2 * rng.standard_normal(80_000)
    waveform = (0.1 + np.concatenate([quiet, loud])).astype(np.float32)
    path = write(tmp_path / "a.wav", waveform, subtype="FLOAT")
    exact = waveform.astype(np.float64)
    expected = (exact - exact.mean()) / np.sqrt(exact.var() + 1e-5)
    fake = Loudness(normalize=True)
    settings = dict(window_seconds=2, overlap_seconds=0.5, batch_seconds=2)
    whole = list(transcribe.transcribe([path], fake))
    np.testing.assert_array_equal(fake.heard[0][0], audio.normalize(waveform))
    windowed = list(transcribe.transcribe([path], fake, **settings))
    first, last = fake.heard[1][0], fake.heard[-1][-1]
    np.testing.assert_allclose(first, expected[: len(first)], atol=1e-6)
    end = (160_000 - 400) // 320 * 320 + 400
    np.testing.assert_allclose(last, expected[end - len(last) : end], atol=1e-6)
    assert first.std() < 0.1 < 1.2 < last.std()
    assert windowed[0].seconds == whole[0].seconds == 10.0


def test_recordings_of_like_length_share_a_batch_and_keep_their_order():
    texts = ["ab", "abcde", "ba", "edcba", "c"]
    fake, done = Loudness(), []
    waveforms = [say(text) for text in texts]
    found = transcribe.transcribe(waveforms, fake, batch_seconds=2.3, progress=done.append)
    assert [(item.path, item.text) for item in found] == [
        (f"array {number}", text) for number, text in enumerate(texts)
    ]
    assert fake.lengths == [[17_600, 17_600], [8_000, 8_000, 4_800]]
    assert sum(done) == pytest.approx(sum(map(len, waveforms)) / RATE)


def test_arrays_are_checked_and_failures_can_be_taken():
    bad = [np.zeros((4_000, 2), np.float32), np.zeros(100, np.float32), np.full(4_000, np.inf)]
    failures = []
    found = transcribe.transcribe(
        [bad[0], say("ab"), *bad[1:]],
        Loudness(),
        failed=lambda name, error: failures.append(f"{name}: {error}"),
    )
    assert [item.path for item in found] == ["array 1"]
    assert [line.split(":")[:2] for line in failures] == [
        ["array 0", " not mono"],
        ["array 2", " shorter than one frame"],
        ["array 3", " NaN or infinite samples"],
    ]
    with pytest.raises(UnreadableAudio, match="not mono"):
        list(transcribe.transcribe(bad[0], Loudness()))
    with pytest.raises(ConfigError, match="cannot overlap"):
        transcribe.transcribe([], Loudness(), window_seconds=0.01, overlap_seconds=0)


def test_a_language_of_a_separate_vocabulary():
    waveform = say(["(es)b", "(fr)c"], SEPARATE)
    fake = Loudness(SEPARATE)
    assert next(transcribe.transcribe(waveform, fake)).text == "b c"
    assert next(transcribe.transcribe(waveform, fake, language="es")).text == "b b"
    assert next(transcribe.transcribe(waveform, fake, language="fr")).text == "c c"


def test_hours_take_the_memory_of_minutes(tmp_path):
    """Three hours of silence with a word every 40 minutes, 691 MB as float32."""
    path, said = tmp_path / "long.flac", say("bad|", silence=0.06)
    part = np.zeros(2_400 * RATE, np.int16)
    part[-len(said) :] = np.rint(said * 32768)
    with soundfile.SoundFile(path, "w", RATE, 1, "PCM_16") as file:
        for _ in range(4):
            file.write(part)
        file.write(part[: 1_200 * RATE])
    del part
    tracemalloc.start()
    try:
        (found,) = transcribe.transcribe([path], Loudness(remember=False))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert found.seconds == 10_800 and peak < 100e6
    starts = [start for _, start, _ in found.words]
    begin = 0.06 - len(said) / RATE
    np.testing.assert_allclose(starts, 2_400 * np.arange(1, 5) + begin, atol=0.02)
    assert found.text == "bad bad bad bad"


def test_a_long_recording_amid_short_ones(run, tmp_path, capsys):
    for name, text in [("a", "ab"), ("b", "abcde" * 8), ("c", "cd")]:
        write(tmp_path / "x" / f"{name}.wav", say(text))
    shutil.copy(tmp_path / "x/a.wav", tmp_path / "x/d.wav")
    arguments = ["--window_seconds=4", "--overlap_seconds=1", "--batch_seconds=9"]
    assert command(tmp_path / "x", *arguments) == 0
    texts = [line.split("\t")[1] for line in capsys.readouterr().out.splitlines()]
    assert texts == ["ab", "abcde" * 8, "cd", "ab"]
    assert [len(batch) for batch in run.lengths] == [1, 2, 1, 2]
