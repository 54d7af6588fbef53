"""espeak-ng in process: phonemes, their times, and nothing carried from one text to the next."""

import _ctypes
import ctypes
import hashlib
import subprocess
import sys
import time

import espeakng_loader
import numpy as np
import pytest

from xlsr_jax.text import espeak
from xlsr_jax.text.espeak import Voice, speak

TEXTS = [
    ("Twenty-one bottles, and the weather today?", Voice("en", "m1")),
    ("中国，二十一", Voice("cmn", "f3")),
    ("Vingt et un septembre", Voice("fr", "f2", 200, 40)),
    ("двадцать один", Voice("ru", "f1")),
    ("Twenty-one bottles, and the weather today?", Voice("en", "m1", 140, 70)),
]


def digest(text, voice):
    spoken = speak(text, voice)
    data = spoken.waveform.tobytes() + repr(spoken.alignment).encode()
    return hashlib.sha256(data).hexdigest()


# Broad transcriptions as in pronunciation dictionaries, in espeak's writing of IPA.
@pytest.mark.parametrize(
    "language, word, phonemes",
    [
        ("es", "casa", "k a s a"),
        ("es", "perro", "p e r o"),
        ("es", "niño", "n i ɲ o"),
        ("it", "pizza", "p i tsː a"),
        ("it", "gatto", "ɡ a tː o"),
        ("fr", "bonjour", "b ɔ̃ ʒ u ʁ"),
        ("fr", "roi", "ʁ w a"),
        ("en", "thing", "θ ɪ ŋ"),
        ("en", "twelve", "t w ɛ l v"),
        ("en-us", "cat", "k æ t"),
        ("nl", "schip", "s x ɪ p"),
        ("sv", "kött", "ɕ œ t"),
        ("tr", "çocuk", "tʃ o dʒ ʊ k"),
        ("tt", "әни", "æ n i"),
        ("ru", "дом", "d o m"),
        ("cmn", "马", "m ɑ2"),
        ("cmn", "麻", "m ɑɜ"),
    ],
)
def test_phonemes_of_known_words(language, word, phonemes):
    assert speak(word, Voice(language)).phonemes == phonemes


def test_language_switch_is_no_phoneme():
    spoken = speak("le weekend", Voice("fr"))
    assert spoken.phonemes == "l ə- w iː k ɛ n d"


@pytest.mark.parametrize("text, voice", TEXTS)
def test_alignment_is_in_order_inside_and_as_long_as_phones_are(text, voice):
    spoken = speak(text, voice)
    starts = np.array([start for _, start, _ in spoken.alignment])
    ends = np.array([end for _, _, end in spoken.alignment])
    assert (starts < ends).all() and (ends[:-1] <= starts[1:]).all()
    assert starts[0] >= 0 and ends[-1] <= len(spoken.waveform)
    seconds = (ends - starts) / spoken.rate
    assert 0.05 < np.median(seconds) < 0.15 and seconds.max() < 0.5
    assert seconds.sum() > 0.6 * spoken.seconds


def test_sound_is_where_the_alignment_says():
    """Two words with a pause: silence in the gap, hiss in s, voice in a."""
    spoken = speak("asa, asa", Voice("es", "m3"))
    assert spoken.phonemes == "a s a a s a"
    (_, _, first), (_, second, _) = spoken.alignment[2:4]
    assert 0.1 < (second - first) / spoken.rate < 0.4
    decay = round(0.03 * spoken.rate)
    assert np.abs(spoken.waveform[first + decay : second]).max() == 0

    def share_above_4_khz(start, end):
        power = np.abs(np.fft.rfft(spoken.waveform[start:end])) ** 2
        frequency = np.fft.rfftfreq(end - start, 1 / spoken.rate)
        return power[frequency > 4000].sum() / power.sum()

    for symbol, start, end in spoken.alignment:
        assert (share_above_4_khz(start, end) > 0.5) == (symbol == "s"), symbol


def test_nothing_carries_over_from_one_text_to_the_next():
    forwards = [digest(*item) for item in TEXTS]
    backwards = [digest(*item) for item in reversed(TEXTS)]
    assert forwards == backwards[::-1]
    assert len(set(forwards)) == len(forwards)


def test_breath_noise_does_not_come_from_the_clock():
    breathy = Voice("es", "f5")  # espeak seeds its noise with the second it was started in
    first = digest("siete", breathy)
    time.sleep(1.1)
    assert digest("siete", breathy) == first


def test_another_process_says_the_same():
    code = (
        "from xlsr_jax.text.espeak import Voice, speak; import hashlib;"
        f"s = speak({TEXTS[3][0]!r}, {TEXTS[3][1]!r});"
        "print(hashlib.sha256(s.waveform.tobytes() + repr(s.alignment).encode()).hexdigest())"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == digest(*TEXTS[3])


def test_rate_and_pitch_and_variant_are_heard():
    def pitch(spoken):  # Hz, of the strongest repetition below 350 Hz in the last vowel
        _, start, end = spoken.alignment[-1]
        vowel = spoken.waveform[start:end] * np.hanning(end - start)
        spectrum = np.fft.rfft(vowel, 1 << 15)
        spectrum[round(800 * (1 << 15) / spoken.rate) :] = 0
        correlation = np.fft.irfft(np.abs(spectrum) ** 2)
        shortest, longest = round(spoken.rate / 350), round(spoken.rate / 60)
        return spoken.rate / (shortest + correlation[shortest:longest].argmax())

    plain = speak("la casa", Voice("es", "m3"))
    slow = speak("la casa", Voice("es", "m3", rate=90))
    high = speak("la casa", Voice("es", "m3", pitch=90))
    female = speak("la casa", Voice("es", "f5"))
    assert slow.seconds > 1.5 * plain.seconds
    assert pitch(high) > 1.15 * pitch(plain)
    assert pitch(female) > 1.4 * pitch(plain)


@pytest.mark.parametrize(
    "text, voice, said",
    [
        ("casa", Voice("xx"), "no voice 'xx'"),
        ("casa", Voice("es", "f99"), "no voice variant 'f99'"),
        ("casa", Voice("es", rate=10), "rate must be 80 to 450"),
        ("casa", Voice("es", pitch=100), "pitch must be 0 to 99"),
        (" ... ", Voice("es"), "nothing to speak"),
    ],
)
def test_what_cannot_be_spoken_says_why(text, voice, said):
    with pytest.raises(espeak.SynthesisError, match=said):
        speak(text, voice)


def test_versions_name_the_library():
    versions = espeak.versions()
    assert versions["espeak-ng"].startswith("1.") and versions["espeakng-loader"]


def test_a_library_in_use_elsewhere_is_refused():
    held = ctypes.CDLL(espeakng_loader.get_library_path())
    try:
        with pytest.raises(espeak.SynthesisError, match="already loaded in this process"):
            speak("casa", Voice("es"))
    finally:
        _ctypes.dlclose(held._handle)
    assert speak("casa", Voice("es")).phonemes == "k a s a"
