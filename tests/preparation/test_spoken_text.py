"""The demonstration corpus: proportions, disjoint texts, voices, alignment, determinism."""

import pickle
import re
from collections import Counter

import numpy as np
import pytest

from xlsr_jax.data import records
from xlsr_jax.data.speech import UnreadableAudio
from xlsr_jax.preparation import channel
from xlsr_jax.preparation.corpora import sentences, spoken_text, voices
from xlsr_jax.preparation.corpora.spoken_text import SpokenText
from xlsr_jax.text import espeak

# XLSR's Common Voice hours, written down a second time from the paper.
PAPER_HOURS = dict(es=168, fr=353, it=90, ky=17, nl=29, ru=55, sv=3, tr=11, tt=17, zh=50, en=557)


@pytest.fixture(scope="module")
def corpus():
    """Listed once: {split: utterances} of a corpus of 0.3 hours and 12 held-out each."""
    corpus = SpokenText(hours=0.3, seed=3, valid_utterances=12, test_utterances=12)
    return {split: corpus.utterances(split) for split in corpus.splits()}


def seconds(utterance):
    """Length without the recording channel, which is most of the work."""
    text, voice, seed, utterance_id = utterance.load.args
    drawn = channel.draw(voices.generator(seed, utterance_id))
    return espeak.speak(text, voice).seconds + drawn.before + drawn.after


def test_train_hours_keep_the_proportions_of_the_paper(monkeypatch):
    """Also where a language is spoken faster than the table has it."""
    monkeypatch.setitem(spoken_text.CHARACTERS_PER_SECOND, "es", 12.0)
    languages = ("es", "it", "ky", "zh")
    corpus = SpokenText(hours=0.5, languages=languages)
    lasted = Counter()
    for utterance in corpus.utterances("train"):
        lasted[utterance.language] += seconds(utterance)
    total = sum(PAPER_HOURS[language] for language in languages)
    for language in languages:
        wanted = 0.5 * 3600 * PAPER_HOURS[language] / total
        assert lasted[language] == pytest.approx(wanted, rel=0.05), language


def test_all_eleven_languages_in_the_order_and_hours_of_the_paper(corpus):
    assert spoken_text.COMMON_VOICE_HOURS == PAPER_HOURS
    for split in ("train", "valid", "test"):
        assert list(dict.fromkeys(u.language for u in corpus[split])) == list(PAPER_HOURS)
    counts = Counter(u.language for u in corpus["train"])
    assert min(counts.values()) >= spoken_text.FEWEST
    assert set(Counter(u.language for u in corpus["test"]).values()) == {12}


def test_no_text_is_in_two_splits_or_twice_in_one(corpus):
    texts = [(u.language, u.text) for split in corpus.values() for u in split]
    assert len(set(texts)) == len(texts)


def test_held_out_sentences_have_names_that_train_never_has(corpus):
    for split in ("valid", "test"):
        for utterance in corpus[split]:
            own = sentences._names(utterance.language, split).own
            said = [name for name in own if name.casefold() in utterance.text.casefold()]
            assert said, utterance.text
    for language in PAPER_HOURS:
        names = [set(sentences._names(language, split).own) for split in ("valid", "test")]
        shared = set(sentences._names(language, "train").shared)
        assert min(map(len, names)) >= 80 and len(shared) >= 700
        assert not names[0] & names[1] and not (names[0] | names[1]) & shared


@pytest.mark.parametrize("language", PAPER_HOURS)
def test_sentences_are_words_of_the_script(language):
    rng = np.random.default_rng(0)
    texts = [sentences.sentence(language, "train", 60, rng) for _ in range(200)]
    script = {"zh": "一-鿿，", "ky": "Ѐ-ӿ", "ru": "Ѐ-ӿ", "tt": "Ѐ-ӿ"}.get(
        language, "A-Za-zÀ-ɏ\u1e00-\u1eff\u0300-\u036fʻʼ"
    )
    for text in texts:
        assert re.fullmatch(f"[{script} ,'-]+[.?!。？！]", text), text
        assert "  " not in text and " ," not in text
    assert len(set(texts)) == len(texts)
    lengths = np.array([len(text) for text in texts])
    assert np.mean(np.abs(lengths - 60) < 12) > 0.9


def test_turkish_capital_has_its_dot():
    rng = np.random.default_rng(0)
    firsts = {sentences.sentence("tr", "train", 40, rng)[0] for _ in range(300)}
    assert "İ" in firsts


def test_durations_are_those_of_common_voice(corpus):
    lasted = np.array([seconds(u) for u in corpus["test"]])
    assert 4.5 < lasted.mean() < 6 and lasted.min() > 0.8 and lasted.max() < 14


def test_speakers(corpus):
    train = {u.speaker for u in corpus["train"]}
    held_out = {u.speaker for split in ("valid", "test") for u in corpus[split]}
    for language in ("en", "fr"):
        assert sum(speaker.startswith(language) for speaker in train) >= 6
        assert f"{language}-m2" not in train and f"{language}-f4" not in train
    assert {"en-m2", "es-f4"} <= held_out
    # One speaker has one accent, in every split.
    accents = {}
    for utterance in (u for split in corpus.values() for u in split):
        accents.setdefault(utterance.speaker, set()).add(utterance.load.args[1].language)
    assert all(len(of_one) == 1 for of_one in accents.values())
    assert {"en", "en-us"} == {next(iter(accents[s])) for s in accents if s.startswith("en")}


def test_alignment_moves_with_the_leading_silence_to_16_khz(corpus):
    utterance = corpus["test"][5]
    text, voice, seed, utterance_id = utterance.load.args
    spoken, speech = espeak.speak(text, voice), utterance.load()
    before = channel.draw(voices.generator(seed, utterance_id)).before
    assert speech.rate == records.SAMPLE_RATE
    assert speech.phonemes == spoken.phonemes == " ".join(p.symbol for p in speech.alignment)
    for phone, (_, start, end) in zip(speech.alignment, spoken.alignment, strict=True):
        assert phone.start / 16_000 == pytest.approx(before + start / 22_050, abs=1e-4)
        assert phone.end / 16_000 == pytest.approx(before + end / 22_050, abs=1e-4)
    assert speech.alignment[-1].end <= len(speech.waveform)


def test_speech_is_louder_inside_the_alignment_than_outside(corpus):
    louder = []
    for utterance in corpus["test"][::6]:
        speech = utterance.load()
        assert np.isfinite(speech.waveform).all() and np.abs(speech.waveform).max() < 1
        inside = np.zeros(len(speech.waveform), bool)
        for phone in speech.alignment:
            inside[phone.start : phone.end] = True
        power = speech.waveform**2
        louder.append(10 * np.log10(power[inside].mean() / power[~inside].mean()))
    assert np.min(louder) > 3 and np.median(louder) > 10


def test_audio_depends_on_seed_and_id_alone(corpus):
    utterances = corpus["test"][:4]
    forwards = [u.load().waveform.tobytes() for u in utterances]
    copies = pickle.loads(pickle.dumps(utterances))
    assert [u.load().waveform.tobytes() for u in reversed(copies)] == forwards[::-1]
    one = SpokenText(hours=0.3, seed=3, languages=("es",), valid_utterances=0, test_utterances=4)
    assert one.splits() == ("train", "test")
    assert [u.load().waveform.tobytes() for u in one.utterances("test")] == forwards
    other = SpokenText(hours=0.3, seed=4, languages=("es",), test_utterances=4)
    assert not {u.text for u in other.utterances("test")} & {u.text for u in utterances}


def test_hours_change_train_alone_and_the_fingerprint_says_all():
    small, large = (SpokenText(hours, languages=("sv",)) for hours in (0.01, 0.02))
    assert small.utterances("test")[3].text == large.utterances("test")[3].text
    assert len(small.utterances("train")) < len(large.utterances("train"))
    differing = dict(small.fingerprint().items() ^ large.fingerprint().items())
    assert set(differing) == {"hours"}
    software = ("espeak-ng", "espeakng-loader", "cldr", "babel", "num2words")
    versions = {f"{name} version" for name in software}
    assert versions | {"seed", "languages"} <= set(small.fingerprint())


def test_what_cannot_be_made_says_why():
    with pytest.raises(records.CorpusError, match="does not speak xx; it speaks es, fr"):
        SpokenText(1.0, languages=("es", "xx"))
    with pytest.raises(records.CorpusError, match="named twice"):
        SpokenText(1.0, languages=("es", "es"))
    with pytest.raises(records.CorpusError, match="hours of spoken_text must be above 0"):
        SpokenText(0.0)
    with pytest.raises(records.CorpusError, match="no split 'dev'; it has train, valid, test"):
        SpokenText(1.0).utterances("dev")
    with pytest.raises(UnreadableAudio, match="nothing to speak"):
        voices.speak_and_record("...", espeak.Voice("es"), 0, "x")
