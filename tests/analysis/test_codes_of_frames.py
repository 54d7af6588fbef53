"""Codes of a tiny random model, against its parameters in NumPy; draws and phones of frames."""

import numpy as np
import pytest
from scipy.special import erf

from tests.analysis import pretrained
from xlsr_jax.analysis import codes
from xlsr_jax.data.index import DataConfig, load_index
from xlsr_jax.data.pipeline import Reader


def normed(x, params, axis):
    unit = (x - x.mean(axis=axis, keepdims=True)) / np.sqrt(x.var(axis=axis, keepdims=True) + 1e-5)
    return unit * params["scale"] + params["bias"]


def numpy_codes(config, params, waveform):
    """[T, G] most likely codewords of one waveform, in float64."""
    model, x = config.model, waveform[:, None].astype(np.float64)
    for number, (width, stride) in enumerate(
        zip(model.conv_kernels, model.conv_strides, strict=True)
    ):
        layer = params["feature_encoder"][f"conv_{number}"]
        starts = range(0, len(x) - width + 1, stride)
        x = np.stack([np.einsum("kc,kcd->d", x[s : s + width], layer["kernel"]) for s in starts])
        if "bias" in layer:
            x = x + layer["bias"]
        norm = params["feature_encoder"].get(f"norm_{number}")
        if norm is not None:
            x = normed(x, norm, axis=1 if model.encoder_norm == "layer" else 0)
        x = x * 0.5 * (1 + erf(x / np.sqrt(2)))
    logits = params["quantizer"]["logits"]
    scores = normed(x, params["feature_norm"], axis=1) @ logits["kernel"] + logits["bias"]
    return scores.reshape(len(x), model.groups, model.codewords).argmax(axis=-1)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"groups": 4, "codewords": 3},
        {"encoder_norm": "group", "conv_bias": False, "statistics_include_padding": True},
    ],
    ids=["layer norm", "four groups", "group norm"],
)
def test_codes_are_those_of_the_parameters(tmp_path, changes):
    coder = codes.load(pretrained.make_run(tmp_path / "run", **changes))
    config = pretrained.tiny_config(**changes)
    params = pretrained.parameters(config)
    draw = np.random.default_rng(3)
    waveforms = [draw.standard_normal(n).astype(np.float32) for n in (3_000, 1_200, 700)]
    found = coder.codes(waveforms)
    for waveform, each in zip(waveforms, found, strict=True):
        expected = numpy_codes(config, params, waveform)
        assert each.shape == expected.shape == (config.model.frames(len(waveform)), coder.groups)
        assert len(np.unique(expected)) > 1
        np.testing.assert_array_equal(each, expected)


@pytest.fixture
def index(tmp_path):
    root = pretrained.make_corpus(tmp_path / "corpus")
    return load_index(DataConfig(path=str(root)), "train")


def test_the_draw_reaches_its_seconds_and_no_further(index):
    numbers = codes.draw(index, seconds=1.5, shortest=400)
    for language in range(len(index.languages)):
        lengths = index.samples[numbers[index.language[numbers] == language]]
        assert lengths.sum() >= 24_000 > lengths.sum() - lengths.max()
    np.testing.assert_array_equal(numbers, codes.draw(index, 1.5, 400))
    assert len(codes.draw(index, 0, 400)) == len(index.samples)
    assert len(codes.draw(index, 1e6, 400)) == len(index.samples)


def test_the_draw_of_a_language_does_not_follow_the_others(tmp_path, index):
    alone = load_index(DataConfig(path=index.root, languages=("it",)), "train")
    together = codes.draw(index, 1.5, 400)
    theirs = together[index.language[together] == index.languages.index("it")]
    first = np.flatnonzero(index.language == index.languages.index("it"))[0]
    np.testing.assert_array_equal(codes.draw(alone, 1.5, 400), theirs - first)


def test_a_frame_has_the_phone_that_covers_most_of_it(index):
    number = int(np.flatnonzero(index.language == index.languages.index("sv"))[0])
    frames = codes.look(Reader(index), np.array([number]), window=400, hop=1_000)
    assert frames.languages == ("sv",)
    # Silence to 250, u to 2,250, u to 4,250, i to 6,250; frames begin every 1,000 samples, and
    # that at 4,000 sees 250 samples of u and 150 of i.
    named = [frames.phones[phone] for phone in frames.phone]
    assert named == ["u", "u", "u", "u", "u", "i"]
    late = codes.look(Reader(index), np.array([number]), window=200, hop=1_000)
    assert [late.phones[phone] for phone in late.phone[:2]] == ["", "u"]


def test_codes_come_in_the_order_of_the_frames(tmp_path, index):
    coder = codes.load(pretrained.make_run(tmp_path / "run"))
    reader, numbers = Reader(index), codes.draw(index, 0, 400)
    frames = codes.look(reader, numbers, *coder.config.model.geometry)
    done = []
    found = codes.codes_of(coder, reader, numbers, 0.5, done.append)
    assert len(found) == len(frames.phone) and sum(done) == pytest.approx(frames.seconds.sum())
    for place in (0, 7, len(numbers) - 1):
        waveform = reader.waveform(int(numbers[place]), normalize=False)
        (alone,) = coder.codes([waveform])
        np.testing.assert_array_equal(found[frames.utterance == place], alone)


def test_long_utterances_count_with_their_beginning(tmp_path, index, monkeypatch):
    coder = codes.load(pretrained.make_run(tmp_path / "run"))
    reader, numbers = Reader(index), np.arange(3)
    whole = codes.codes_of(coder, reader, numbers)
    before = codes.look(reader, numbers, *coder.config.model.geometry)
    monkeypatch.setattr(codes, "LONGEST", 5_000)
    frames = codes.look(reader, numbers, *coder.config.model.geometry)
    count = coder.config.model.frames(5_000)
    assert np.bincount(frames.utterance).tolist() == [count] * 3
    found = codes.codes_of(coder, reader, numbers)
    for place in range(3):
        mine, then = frames.utterance == place, before.utterance == place
        np.testing.assert_array_equal(found[mine], whole[then][:count])  # layer norm sees a frame
        np.testing.assert_array_equal(frames.phone[mine], before.phone[then][:count])
