"""Processing: speech stays and silence goes, no sample is lost in cutting, options are named."""

import argparse
import dataclasses
import functools

import numpy as np
import pytest
import soundfile

from xlsr_jax import prepare as entry
from xlsr_jax.data import audio, records
from xlsr_jax.data.records import CorpusError, Manifest, Record
from xlsr_jax.data.speech import Phone, Speech, UnreadableAudio
from xlsr_jax.preparation import channel, processing
from xlsr_jax.preparation.corpora.base import Utterance
from xlsr_jax.preparation.processing import AS_IS, Processing
from xlsr_jax.preparation.shards import Aside, Task, to_records
from xlsr_jax.text import espeak
from xlsr_jax.text.phonemes import Phonemizer

RATE = records.SAMPLE_RATE


def noise(seconds, seed=0, level=0.1):
    rng = np.random.default_rng(seed)
    return (level * rng.standard_normal(round(seconds * RATE))).astype(np.float32)


def made(waveform, rules, alignment=(), encoding="pcm16", **labels):
    """What an utterance "u" of ``waveform`` gives."""
    speech = Speech(waveform, RATE, alignment=alignment)
    utterance = Utterance("u", "es", lambda: speech, **labels)
    task = Task("", "", "train", "es", encoding, (utterance,), processing=rules)
    (told,) = rules.texts(task.utterances, "es")
    return list(to_records(told, task))


@pytest.mark.parametrize("emphasis", [0.0, 0.97])
def test_levels_are_those_of_the_definition(emphasis, monkeypatch):
    waveform = noise(1.234) + np.float32(0.5)
    signal = waveform.astype(np.float64) - waveform.astype(np.float64).mean()
    signal[1:] = signal[1:] - emphasis * signal[:-1]
    expected = [
        20 * np.log10(np.sqrt(np.mean(signal[begin : begin + 400] ** 2)))
        for begin in range(0, len(signal) - 399, 160)
    ]
    np.testing.assert_allclose(processing.levels(waveform, emphasis), expected, atol=1e-9)
    long = np.tile(waveform, 40)  # more than a block
    found = processing.levels(long, emphasis)
    assert len(found) == (len(long) - 400) // 160 + 1
    np.testing.assert_allclose(found[: len(expected)], expected, atol=1e-9)
    np.testing.assert_allclose(found[len(long) // 160 // 2 :].mean(), np.mean(expected), atol=0.02)


SPOKEN = [
    ("en-us", "m3", "three soft fish swim past the shop at six"),
    ("en-us", "f2", "stop that cat"),
    ("es", "f5", "los perros corren por la calle"),
    ("fr", "m3", "je cherche les choses qui passent"),
    ("ru", "f2", "спасибо за хлеб"),
]


@pytest.mark.parametrize("snr", [None, 30.0, 20.0])
def test_trimming_cuts_silence_and_no_speech(snr):
    left = []
    for number, (language, variant, text) in enumerate(SPOKEN):
        spoken = espeak.speak(text, espeak.Voice(language, variant, 170, 50))
        clean = audio.resample(spoken.waveform, spoken.rate)
        loud = np.flatnonzero(np.abs(clean) > 10 ** (-30 / 20) * np.abs(clean).max())
        before, after = 0.4 + 0.3 * number, 1.7 - 0.3 * number
        if snr is None:
            pads = [round(part * RATE) for part in (before, after)]
            waveform = np.pad(clean, pads)
        else:
            rng = np.random.default_rng(number)
            drawn = dataclasses.replace(channel.draw(rng), before=before, after=after, snr=snr)
            waveform = channel.record(clean, drawn, rng)
        first, last = (round(before * RATE) + int(loud[place]) for place in (0, -1))
        start, end = processing.speech_span(waveform, 0.1)
        assert start <= first and last < end
        tight = processing.speech_span(waveform, 0.0)
        assert (start, end) == (tight[0] - 1_600, min(tight[1] + 1_600, len(waveform)))
        left += [first - start, end - last]
    assert np.mean(left) / RATE < 0.25 and np.max(left) / RATE < 0.4


def test_trimming_leaves_what_holds_no_speech_and_reaches_a_late_burst():
    for waveform in (np.zeros(20_000, np.float32), noise(0.03)):
        assert processing.speech_span(waveform, 0.1) == (0, len(waveform))
    waveform = noise(4.0, level=1e-4)
    waveform[32_000:40_000] += noise(0.5)
    click = noise(0.02)
    for gap, reached in ((0.2, True), (0.5, False)):
        begin = 40_000 + round(gap * RATE)
        clicked = waveform.copy()
        clicked[begin : begin + 320] += click
        start, end = processing.speech_span(clicked, 0.0)
        assert 32_000 - 400 <= start <= 32_000
        assert 0 <= end - (begin + 320 if reached else 40_000) <= 400


def test_alignment_and_audio_are_trimmed_together():
    waveform = noise(3.0, level=1e-4)
    waveform[16_000:32_000] += noise(1.0)
    phones = (Phone("#", 0, 3_000), Phone("a", 16_000, 24_000), Phone("b", 24_000, 32_005))
    whole, trimmed = (made(waveform, Processing(trim=on), phones)[0] for on in (False, True))
    start = 16_000 - trimmed.alignment[1][1]
    assert 0.85 < start / RATE <= 0.9  # the margin is 0.1 s
    end = start + trimmed.samples
    assert 2.1 <= end / RATE < 2.15
    assert trimmed.audio == whole.audio[2 * start : 2 * end]
    assert whole.alignment == tuple((p.symbol, p.start, p.end) for p in phones)
    assert trimmed.alignment == (
        ("#", 0, 0), ("a", 16_000 - start, 24_000 - start), ("b", 24_000 - start, 32_005 - start)
    )  # fmt: skip
    wide = made(waveform, Processing(trim=True, trim_margin=0.5), phones)[0]
    assert wide.samples == trimmed.samples + round(0.8 * RATE)


@pytest.mark.parametrize("encoding", ["pcm16", "flac"])
def test_long_recordings_are_cut_where_it_is_quiet_and_no_sample_is_lost(encoding):
    waveform = noise(65.4321)
    gaps = [(8.0, 8.3), (17.0, 17.3), (24.0, 24.4), (33.3, 33.6), (41.0, 41.3), (49.0, 49.5)]
    for begin, end in gaps:
        waveform[round(begin * RATE) : round(end * RATE)] *= 0.001
    (whole,) = made(waveform, AS_IS, encoding=encoding)
    pieces = made(waveform, Processing(segment=10.0), encoding=encoding)
    assert [piece.id for piece in pieces] == [f"u#{n:04d}" for n in range(len(pieces))]
    joined = np.concatenate([piece.waveform() for piece in pieces])
    np.testing.assert_array_equal(joined, whole.waveform())
    assert all(piece.samples <= 10 * RATE for piece in pieces)
    assert all(piece.samples >= 5 * RATE for piece in pieces[:-1])
    cuts = np.cumsum([piece.samples for piece in pieces])[:-1] / RATE
    for (begin, end), cut in zip(gaps, cuts, strict=False):
        assert begin + 0.09 < cut < end - 0.09


@pytest.mark.parametrize("samples", [160_001, 160_159, 200_000, 239_999, 240_001, 479_999])
def test_pieces_of_any_length_hold_to_the_bounds(samples):
    for waveform in (noise(samples / RATE), np.zeros(samples, np.float32)):
        places = [0, *processing.cuts(waveform, 160_000), samples]
        sizes = np.diff(places)
        assert sizes.max() <= 160_000 and sizes.min() >= 40_000 and sizes[:-1].min() >= 80_000


def test_what_has_labels_is_not_cut():
    waveform, rules = noise(3.0), Processing(segment=2.0)
    phones = (Phone("a", 0, 900),)
    for labels in ({"text": "a"}, {"phonemes": "a"}, {"alignment": phones}):
        (record,) = made(waveform, rules, **labels)
        assert (record.id, record.samples) == ("u", 48_000)
        strict = dataclasses.replace(rules, segment_labelled="refuse")
        assert made(waveform, strict, **labels) == [
            Aside("u", "labelled and longer than a segment: 3.00 s, over 2 s")
        ]
        assert made(waveform[:32_000], strict, **labels)[0].samples == 32_000
    assert len(made(waveform, rules)) == 2
    assert [r.id for r in made(waveform[:32_000], rules)] == ["u"]


def test_limits_hold_after_trimming_and_name_what_they_found():
    waveform = noise(3.0, level=1e-4)
    waveform[16_000:32_000] += noise(1.0)
    rules = Processing(min_seconds=1.5, max_seconds=2.5)
    assert made(waveform, rules) == [Aside("u", "too long: 3.00 s, over 2.5 s")]
    (short,) = made(waveform, dataclasses.replace(rules, trim=True))
    assert short.reason.startswith("too short: 1.2") and short.reason.endswith(" s, under 1.5 s")
    assert isinstance(made(waveform[:24_000], rules)[0], Record)  # both bounds are allowed
    assert isinstance(made(waveform[:40_000], rules)[0], Record)


def test_silence_is_told_by_its_loudest_window():
    rules = Processing(silence="drop")
    assert made(np.full(8_000, 0.5, np.float32), rules) == [
        Aside("u", "silence: nothing above -120.0 dBFS")  # a constant is no sound
    ]
    tone = np.sin(np.arange(8_000) * 2 * np.pi * 0.05) * np.sqrt(2)
    for level, kept in ((-60.5, False), (-59.5, True)):
        quiet = (tone * 10 ** (level / 20)).astype(np.float32)
        (found,) = made(quiet, rules)
        assert isinstance(found, Record) == kept
        if not kept:
            assert found.reason == "silence: nothing above -60.5 dBFS"
    waveform = np.zeros(80_000, np.float32)
    waveform[40_000:40_400] = noise(0.025)
    assert isinstance(made(waveform, rules)[0], Record)
    pieces = made(np.concatenate([noise(2.0), np.zeros(48_000, np.float32)]),
                  Processing(silence="drop", segment=2.0))  # fmt: skip
    assert isinstance(pieces[0], Record)
    assert pieces[-1] == Aside(f"u#{len(pieces) - 1:04d}", "silence: nothing above -120.0 dBFS")


def test_text_rules_and_phonemes_reach_the_record():
    rules = Processing(text="plain", lower=True, remove_punctuation=True, require_text=True)
    (record,) = made(noise(1.0), rules, text=" \u00a1Hola,\u200b \u201cPaco\u201d! ")
    assert record.text == "hola paco"
    assert made(noise(1.0), rules, text="\u201c\u2014\u200b") == [Aside("u", "no text")]
    assert made(noise(1.0), AS_IS, text=" \u201c ")[0].text == " \u201c "
    refused = Utterance("r", "es", functools.partial(refuse, "file is missing"))
    task = Task("", "", "train", "es", "pcm16", (refused,), processing=rules)
    assert list(to_records(refused, task)) == [Aside("r", "file is missing")]  # the better reason
    turkish = Processing(lower=True).texts([Utterance("t", "tr", noise, text="I")], "tr")
    assert turkish[0].text == "\u0131"


def refuse(reason):
    raise UnreadableAudio(reason)


def test_phonemes_fill_what_the_corpus_has_not():
    given = [
        Utterance("1", "es", noise, text="\u00a1Hola,  mundo!"),
        Utterance("2", "es", noise, text="hola", phonemes="x y"),
        Utterance("3", "es", noise),
        Utterance("4", "es", noise, text="el perro corre"),
    ]
    rules = Processing(phonemes=True, text="plain")
    told = rules.texts(given, "es")
    expected = [" ".join(t) for t in Phonemizer("es").tokens(["hola mundo", "el perro corre"])]
    assert expected[1].split() == list("elpeɾɾokoɾɾe")
    assert [u.phonemes for u in told] == [expected[0], "x y", "", expected[1]]
    assert [u.phonemes for u in rules.texts(given, "tl")] == ["", "x y", "", ""]
    assert any(key.startswith("phonemes by espeak-ng") for key in rules.made_with())


def test_options_are_in_the_manifest_where_they_do_something():
    assert AS_IS.made_with() == {}
    assert Processing(trim_margin=0.2).made_with() == {}
    found = Processing(
        min_seconds=1, max_seconds=20, silence="drop", trim=True, segment=15, duplicates="drop",
        text="plain", lower=True,
    ).made_with()  # fmt: skip
    assert set(found) == {
        "min_seconds", "max_seconds", "silence", "trim", "segment", "duplicates", "text", "lower",
        "unicode version",
    }  # fmt: skip
    assert found["trim"].endswith("0.1 s about them") and "-60 dBFS" in found["silence"]


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"silence": "cut"}, "--silence is 'cut'; use keep or drop"),
        ({"text": "nfkc"}, "--text is 'nfkc'; use as_is or nfc or plain"),
        ({"min_seconds": 3, "max_seconds": 2}, "--min-seconds 3 and --max-seconds 2 leave nothing"),
        ({"min_seconds": float("nan")}, "leave nothing"),
        ({"segment": 0.5}, "--segment 0.5 must be 1 second or more, or 0"),
        ({"trim_margin": -1}, "--trim-margin -1 must be 0 seconds or more"),
    ],
)
def test_options_without_sense_are_refused(options, complaint):
    with pytest.raises(CorpusError, match=complaint):
        Processing(**options)


def test_flags():
    parser = argparse.ArgumentParser()
    processing.add_flags(parser)
    options = parser.parse_args(["--max-seconds", "30", "--trim", "--text", "nfc"])
    assert processing.from_flags(options) == Processing(max_seconds=30, trim=True, text="nfc")


def test_the_command_prepares_as_asked_and_notices_a_changed_option(tmp_path, capsys):
    (tmp_path / "in/es").mkdir(parents=True)
    soundfile.write(tmp_path / "in/es/long.wav", noise(5.0), RATE)
    soundfile.write(tmp_path / "in/es/short.wav", noise(0.5), RATE)
    command = ["folder", "--source", str(tmp_path / "in"), "--output", str(tmp_path / "out")]
    command += ["--split", "train", "--workers", "1", "--segment", "2"]
    assert entry.main([*command, "--min-seconds", "1"]) == 0
    manifest = Manifest.load(tmp_path / "out")
    source = records.open_shards(tmp_path / "out", manifest.shards)
    found = [Record.from_bytes(source[number]) for number in range(len(source))]
    assert [record.id for record in found] == [f"es/long.wav#{n:04d}" for n in range(len(found))]
    assert sum(record.samples for record in found) == 5 * RATE
    assert manifest.rejected == {"train": {"es": {"too short": 1}}}
    assert (manifest.made_with["segment"], manifest.made_with["min_seconds"]) == ("2.0", "1.0")
    assert entry.main(command) == 1
    assert "begun with min_seconds 1.0 (now unset)" in capsys.readouterr().err
