"""The objective: sums that add up however the batch is cut, and penalties against NumPy."""

import collections
import dataclasses
import functools
import math
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xlsr_jax.models.wav2vec2 import ModelConfig
from xlsr_jax.objectives.wav2vec2 import ObjectiveConfig, Wav2Vec2Objective
from xlsr_jax.schema import ConfigError

MODEL = ModelConfig(
    conv_dims=(8, 8), conv_kernels=(10, 16), conv_strides=(5, 16), dim=16, layers=2, heads=2,
    ffn=24, position_kernel=8, position_groups=4, codewords=5, code_dim=8, final_dim=8,
    layerdrop=0.5,
)  # fmt: skip
RATES = ("dropout", "attention_dropout", "dropout_input", "dropout_features", "layerdrop")
CALM = dataclasses.replace(MODEL, **dict.fromkeys(RATES, 0.0))
WIDE = ("query", "key", "value", "out", "ffn_in", "ffn_out")
CONFIG = ObjectiveConfig(distractors=12, mask_length=5)
SAMPLES = 3205  # 39 frames
KEY, STEP = jax.random.key(7), jnp.asarray(1000)
# Compiling is what takes the time here.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


@functools.cache
def params():
    """Wide weights in the Transformer: as initialised, it hardly adds to its input."""
    params = jit(Wav2Vec2Objective(MODEL, CONFIG).init)(jax.random.key(0))
    layers = params["context_network"]["layers"]
    wide = {name: jax.tree.map(lambda x: 15 * x, layers[name]) for name in WIDE}
    return params | {"context_network": params["context_network"] | {"layers": layers | wide}}


def make_batch(rows, seed=0):
    rng = np.random.default_rng(seed)
    samples = rng.integers(1500, SAMPLES + 1, rows).astype(np.int32)
    waveform = rng.normal(size=(rows, SAMPLES)) * (np.arange(SAMPLES) < samples[:, None])
    return {
        "waveform": waveform.astype(np.float32),
        "samples": samples,
        "row": np.arange(rows, dtype=np.int32),
        "language": rng.integers(0, 3, rows).astype(np.int32),
        "weight": np.ones(rows, np.float32),
    }


def take(batch, rows):
    return {name: value[np.asarray(rows)] for name, value in batch.items()}


@functools.cache
def program(model=MODEL, config=CONFIG, languages=(), train=True, microbatches=1):
    """(objective, jitted batch -> sums, jitted batch -> (sums, gradient of the loss))."""
    objective = Wav2Vec2Objective(model, config, languages)

    def sums(params, batch):
        return objective.loss(params, batch, KEY, STEP, train=train, microbatches=microbatches)

    def numerator(params, batch):
        all_sums = sums(params, batch)
        return all_sums["loss"][0], all_sums

    run, differentiate = jit(sums), jit(jax.grad(numerator, has_aux=True))
    return (
        objective,
        lambda batch: run(params(), batch),
        lambda batch: differentiate(params(), batch)[::-1],
    )


def assert_same(actual, expected, rtol=1e-4):
    """Trees alike, each leaf up to ``rtol`` of its largest value.

    Some gradients are nothing but rounding (attention's key bias): hence the floor.
    """

    def close(path, a, e):
        name, largest = jax.tree_util.keystr(path), np.max(np.abs(e))
        np.testing.assert_allclose(a, e, rtol=rtol, atol=rtol * largest + 1e-5, err_msg=name)

    jax.tree.map_with_path(close, actual, expected)


@functools.cache
def plain_forward():
    """Jitted batch -> the model's forward pass over the given masks, nothing random."""
    model = Wav2Vec2Objective(MODEL, CONFIG).model

    def run(batch):
        hit = batch["masked"][..., None] == jnp.arange(MODEL.frames(SAMPLES))
        mask = jnp.any(hit & batch["masked_valid"][..., None], axis=1)
        inputs = batch["waveform"], batch["samples"], mask, batch["masked"]
        return jax.tree.map(np.asarray, compiled(params(), *inputs))

    compiled = jit(lambda params, *inputs: model.apply({"params": params}, *inputs))
    return run


def with_masks(batch, seed=1):
    """The batch with masked frames given, 6 to 15 of each row in a dense [B, 16]."""
    rng = np.random.default_rng(seed)
    rows = len(batch["samples"])
    masked, valid = np.zeros((rows, 16), np.int32), np.zeros((rows, 16), bool)
    distractors = np.zeros((rows, 16, CONFIG.distractors), np.int32)
    for b, frames in enumerate(MODEL.frames(batch["samples"])):
        count = rng.integers(6, 16)
        masked[b, :count] = np.sort(rng.choice(frames, count, replace=False))
        valid[b, :count] = True
        for m in range(count):
            others = np.delete(np.arange(count), m)
            distractors[b, m] = rng.choice(others, CONFIG.distractors)
    return batch | {"masked": masked, "masked_valid": valid, "distractors": distractors}


# --- cuts of the batch


def test_one_batch_is_four_microbatches():
    """1 x 32 rows against 4 x 8 strided ones, with everything random switched on."""
    config = dataclasses.replace(CONFIG, diversity_groups=4)
    languages = ("de", "es", "fr")
    objective, _, whole = program(MODEL, config, languages)
    _, _, part = program(MODEL, config, languages, microbatches=4)
    batch = make_batch(32)
    batch["weight"][[5, 9]] = 0
    sums, gradient = whole(batch)
    parts = [part(take(batch, range(m, 32, 4))) for m in range(4)]
    added, added_gradient = jax.tree.map(lambda *x: sum(x), *parts)
    assert_same(added_gradient, gradient, rtol=3e-4)
    # "temperature" and the denominator of "seconds" count microbatches.
    for name in set(sums) - {"temperature", "seconds"}:
        assert_same(added[name], sums[name])
    assert_same(objective.summarize(added), objective.summarize(sums))


def test_cuts_that_do_not_divide_are_refused():
    config = dataclasses.replace(CONFIG, diversity_groups=4)
    objective = Wav2Vec2Objective(MODEL, config)
    for rows, microbatches, said in ((6, 3, "multiple of"), (6, 1, "do not divide")):
        with pytest.raises(ConfigError, match=said):
            objective.loss({}, make_batch(rows), KEY, STEP, microbatches=microbatches)
    short = make_batch(4)
    short["waveform"] = short["waveform"][:, :84]
    with pytest.raises(ConfigError, match="at least 85 samples"):
        objective.loss({}, short, KEY, STEP)


ROWS = tuple("abcdef")  # a language a row, so that sums by language are those of each row


def test_draws_of_a_row_depend_on_its_number_only():
    batch = make_batch(6) | {"language": np.arange(6, dtype=np.int32)}
    _, _, run = program(languages=ROWS)
    sums, gradient = run(batch)
    shuffled_sums, shuffled_gradient = run(take(batch, [4, 2, 0, 5, 3, 1]))
    assert_same(shuffled_sums, sums)
    assert_same(shuffled_gradient, gradient, rtol=3e-4)
    # Rows 3 and 5 among strangers, and row 0's audio once more under another number.
    other = make_batch(6, seed=5) | {"language": np.array([0, 1, 2, 3, 4, 4], np.int32)}
    other["row"] = np.array([3, 50, 5, 0, 51, 52], np.int32)
    for name in ("waveform", "samples"):
        other[name][[0, 2, 3, 1]] = batch[name][[3, 5, 0, 0]]
    other_sums = run(other)[0]
    for name in ("language_loss", "language_accuracy"):
        actual, expected = np.array(other_sums[name]), np.array(sums[name])
        assert_same(actual[:, [0, 2, 3]], expected[:, [3, 5, 0]])
    again = other_sums["language_loss"][0][1]
    assert abs(again / sums["language_loss"][0][0] - 1) > 1e-3


def test_a_padded_row_is_the_row_alone():
    """In evaluation, with masks and distractors drawn: padding enters no statistic, no draw."""
    _, run, _ = program(train=False)
    batch = make_batch(4)
    row = take(batch, [2])
    length = int(row["samples"][0])
    assert length < SAMPLES - 100
    others = batch | {"weight": np.array([0, 0, 1, 0], np.float32)}
    assert_same(run(others), run(row | {"waveform": row["waveform"][:, :length]}))


# --- rows that do not count


def test_what_filler_rows_hold_changes_nothing():
    """That they are not counted in the first place, the sums against NumPy below say."""
    _, _, run = program(languages=ROWS)
    loud, none = make_batch(6), make_batch(6)
    loud["waveform"][[2, 4]] = 100 * np.random.default_rng(3).normal(size=(2, SAMPLES))
    loud["samples"][[2, 4]] = SAMPLES
    none["waveform"][[2, 4]] = none["samples"][[2, 4]] = none["language"][[2, 4]] = 0
    loud["weight"][[2, 4]] = none["weight"][[2, 4]] = 0
    actual, expected = run(loud), run(none)
    assert_same(actual[0], expected[0])
    assert_same(actual[1], expected[1], rtol=3e-4)


def test_rows_with_fewer_than_two_masked_frames_weigh_nothing():
    config = dataclasses.replace(CONFIG, feature_penalty_weight=0.0)
    _, _, run = program(config=config, train=False)
    batch = with_masks(make_batch(4))
    batch["masked_valid"][1, 1:] = False
    batch["masked_valid"][3] = False
    actual, expected = run(batch), run(batch | {"weight": np.array([1, 0, 1, 0], np.float32)})
    for name in ("loss", "contrastive_loss", "accuracy", "diversity", "codes", "probabilities"):
        assert_same(actual[0][name], expected[0][name])
    assert_same(actual[1], expected[1], rtol=3e-4)
    # A batch of nothing else has a loss of zero and no gradient, not NaN.
    batch["masked_valid"][:, 1:] = False
    sums, gradient = run(batch)
    assert float(sums["loss"][0]) == 0 and float(sums["loss"][1]) == 0
    assert all(np.all(np.asarray(leaf) == 0) for leaf in jax.tree.leaves(gradient))


# --- the parts of the loss


def numpy_penalties(batch, groups, form):
    """(diversity, feature penalty), each group's times its number of masked frames; float64."""
    forward = plain_forward()(batch)
    total, frames = 2 * MODEL.codewords, MODEL.frames(batch["samples"])
    diversity = penalty = 0.0
    for group in range(groups):
        rows = [b for b in range(group, len(frames), groups) if batch["weight"][b]]
        features = [forward.features[b, : frames[b]].astype(float) for b in rows]
        probabilities = [
            forward.quantized.probabilities[b, batch["masked_valid"][b]].astype(float) for b in rows
        ]
        count = sum(map(len, probabilities))
        p = np.concatenate(probabilities).mean(axis=0)
        entropy = -np.sum(p * np.log(p), axis=-1)
        if form == "perplexity":
            diversity += count * (total - np.exp(entropy).sum()) / total
        else:
            diversity += count * -entropy.sum() / total
        penalty += count * np.mean(np.concatenate(features) ** 2)
    return diversity, penalty


def penalised(form):
    """A batch with a filler row, and its sums in training with three diversity groups."""
    config = dataclasses.replace(CONFIG, diversity=form, diversity_groups=3, diversity_weight=0.3)
    objective, run, _ = program(CALM, config)
    batch = with_masks(make_batch(6))
    batch["weight"][4] = 0
    return batch, run(batch), objective


@pytest.mark.parametrize("form", ["perplexity", "entropy"])
def test_penalties_against_numpy(form):
    batch, sums, _ = penalised(form)
    count = batch["masked_valid"][batch["weight"] > 0].sum()
    diversity, penalty = numpy_penalties(batch, 3, form)
    assert abs(diversity / numpy_penalties(batch, 1, form)[0] - 1) > 1e-3  # groups tell
    np.testing.assert_allclose(sums["diversity"], (diversity, count), rtol=1e-4)
    np.testing.assert_allclose(sums["feature_penalty"], (penalty, count), rtol=1e-4)
    total = sums["contrastive_loss"][0] + 0.3 * diversity + 10 * penalty
    np.testing.assert_allclose(sums["loss"], (total, count), rtol=1e-4)


def test_figures_of_the_codebook_against_numpy():
    batch, sums, objective = penalised("perplexity")
    figures = objective.summarize(sums)
    forward, counted = plain_forward()(batch), batch["weight"] > 0
    chosen = batch["masked_valid"] & counted[:, None]
    best = forward.quantized.best[chosen]
    hard = np.stack([np.bincount(best[:, g], minlength=5) / len(best) for g in (0, 1)])

    def perplexity(p):
        return np.sum(np.exp(-np.sum(p * np.log(np.maximum(p, 1e-30)), axis=1)))

    soft = forward.quantized.probabilities[chosen].mean(axis=0)
    assert figures["code_perplexity"] == pytest.approx(perplexity(hard), rel=1e-4)
    assert figures["prob_perplexity"] == pytest.approx(perplexity(soft), rel=1e-4)
    assert figures["code_pairs"] == len({tuple(pair) for pair in best})
    share = chosen.sum() / MODEL.frames(batch["samples"])[counted].sum()
    assert figures["masked_share"] == pytest.approx(share)
    assert figures["audio_seconds"] == pytest.approx(batch["samples"][counted].sum() / 16_000)


def test_evaluation_scores_the_model_without_noise():
    """All dropout rates of this model are above zero."""
    _, run, _ = program(languages=("de", "es", "fr"), train=False)
    batch = with_masks(make_batch(6))
    batch["weight"][4] = 0
    forward, sums = plain_forward()(batch), run(batch)
    loss, correct = np.zeros(6), np.zeros(6)
    for b, m in np.argwhere(batch["masked_valid"]):
        drawn = batch["distractors"][b, m]
        equal = np.all(forward.quantized.codes[b, drawn] == forward.quantized.codes[b, m], axis=-1)
        target = forward.targets[b, np.append(m, drawn[~equal])].astype(float)
        context = forward.contexts[b, m].astype(float)
        scores = target @ context / np.linalg.norm(target, axis=1) / np.linalg.norm(context) / 0.1
        loss[b] += np.log(np.exp(scores - scores[0]).sum())
        correct[b] += np.all(scores[0] > scores[1:])
    loss, correct = loss * batch["weight"], correct * batch["weight"]
    assert_same(np.asarray(sums["contrastive_loss"][0]), loss.sum())
    assert_same(np.asarray(sums["accuracy"][0]), correct.sum())
    # The same by language.
    by_language = lambda x: np.bincount(batch["language"], x, minlength=3)  # noqa: E731
    assert_same(np.asarray(sums["language_loss"][0]), by_language(loss))
    assert_same(np.asarray(sums["language_accuracy"][0]), by_language(correct))
    counts = by_language(batch["masked_valid"].sum(axis=1) * batch["weight"])
    assert_same(np.asarray(sums["language_loss"][1]), counts)


def test_every_dropout_of_the_settings_is_drawn_in_training(monkeypatch):
    rates = [0.11, 0.12, 0.13, 0.14, 0.15]
    names = ("dropout", "attention_dropout", "activation_dropout", "dropout_input",
             "dropout_features")  # fmt: skip
    model = dataclasses.replace(MODEL, **dict(zip(names, rates, strict=True)))
    seen, weights = collections.Counter(), params()  # their init runs the model too

    def record(x, rate, seeds, site):
        seen[rate] += seeds is not None
        return x

    for name, module in list(sys.modules.items()):
        if name.startswith("xlsr_jax.models.") and callable(getattr(module, "dropout", None)):
            monkeypatch.setattr(module, "dropout", record)
    objective = Wav2Vec2Objective(model, CONFIG)
    trace = lambda train: jax.eval_shape(  # noqa: E731
        lambda batch: objective.loss(weights, batch, KEY, STEP, train=train), make_batch(2)
    )
    trace(train=False)
    assert not seen.total()
    trace(train=True)
    # "dropout" before the layers, and after both branches of a layer.
    assert seen[0.11] >= 3 and set(seen) == set(rates) and seen[0.14] == seen[0.15] == 1


def test_layerdrop_skips_whole_layers_in_training_only():
    """With all layers dropped their weights have no say."""
    model = dataclasses.replace(CALM, layerdrop=1.0)
    batch, untouched = make_batch(4), params()
    network = untouched["context_network"]
    layers = jax.tree.map(lambda x: 2 * x + 0.1, network["layers"])
    touched = untouched | {"context_network": network | {"layers": layers}}
    objective = Wav2Vec2Objective(model, CONFIG)
    for train in (True, False):
        loss = jit(lambda p, train=train: objective.loss(p, batch, KEY, STEP, train=train)["loss"])
        change = float(loss(touched)[0] / loss(untouched)[0]) - 1
        assert (abs(change) < 1e-6) == train


def test_figures_by_language():
    """Of microbatches of which not every one holds every language."""
    objective, run, _ = program(languages=("de", "es", "fr"), train=False)
    first, second = with_masks(make_batch(6)), with_masks(make_batch(6, seed=1), seed=2)
    first["language"][:] = [0, 0, 0, 0, 2, 1]
    second["language"][:] = [2, 2, 2, 1, 2, 2]
    first["weight"][5] = second["weight"][3] = 0  # all of "es"
    parts = run(first), run(second)
    figures = objective.summarize(jax.tree.map(lambda a, b: a + b, *parts))
    seconds = [batch["samples"] * batch["weight"] for batch in (first, second)]
    german, all_of_it = seconds[0][:4].sum(), sum(map(np.sum, seconds))
    assert figures["audio_share/de"] == pytest.approx(german / all_of_it)
    assert figures["audio_share/es"] == 0 and np.isnan(figures["loss/es"])
    assert figures["audio_share/fr"] == pytest.approx(1 - german / all_of_it)
    loss, count = np.sum([part["language_loss"] for part in parts], axis=0)
    assert figures["loss/fr"] == pytest.approx(loss[2] / count[2])
    assert figures["contrastive_loss"] == pytest.approx(loss.sum() / count.sum())


# --- the Gumbel temperature


@pytest.mark.parametrize("floor, reached", [(0.5, 277_259), (0.1, 599_145)])
def test_gumbel_temperature(floor, reached):
    config = ObjectiveConfig(gumbel_floor=floor)
    steps = [0, 1, 1000, 32_000, 100_000, 250_000, 277_000, 400_000, 599_000, 1_000_000]
    expected = [max(2 * 0.999995**step, floor) for step in steps]  # float64
    actual = jax.jit(jax.vmap(config.gumbel_temperature))(jnp.array(steps, jnp.int32))
    np.testing.assert_allclose(actual, expected, rtol=1e-5)
    assert expected[5] == pytest.approx(0.5730078)
    assert math.ceil(math.log(floor / 2) / math.log(0.999995)) == reached
    late = config.gumbel_temperature(jnp.array([reached - 100, reached + 100], jnp.int32))
    assert late[0] > floor and late[1] == pytest.approx(floor)
