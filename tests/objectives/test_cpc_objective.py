"""The modified CPC objective: loss and gradient against PyTorch, draws, cuts, and learning."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from xlsr_jax.models.cpc import ModelConfig
from xlsr_jax.objectives import cpc
from xlsr_jax.objectives.cpc import CPCObjective, Layout, ObjectiveConfig, draw_negatives
from xlsr_jax.schema import ConfigError

torch = pytest.importorskip("torch", reason="torch is not installed; pip install torch")

# Compiling is what takes the time here.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
MODEL = ModelConfig(
    conv_dims=(12, 8), conv_kernels=(10, 8), conv_strides=(5, 4), conv_paddings=(3, 2), dim=8,
    steps=3, heads=2, ffn=12, distances=30, prediction_dropout=0.2,
)  # fmt: skip
CALM = dataclasses.replace(MODEL, dropout=0.0, prediction_dropout=0.0)
CONFIG = ObjectiveConfig(negatives=11, group_rows=2, woven=2)
SAMPLES, FRAMES, POSITIONS = 400, 20, 17
KEY, STEP = jax.random.key(7), jnp.asarray(0)


@functools.cache
def params():
    """Larger than as drawn, so that scores differ."""
    drawn = jit(CPCObjective(MODEL, CONFIG).init)(jax.random.key(0))
    larger = lambda x: (2 * np.asarray(x)).astype(np.float32)  # noqa: E731
    return jax.tree.map(larger, drawn)


def make_batch(rows, seed=0):
    rng = np.random.default_rng(seed)
    samples = rng.integers(250, SAMPLES + 1, rows).astype(np.int32)
    samples[: rows // 2] = SAMPLES
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
def program(model=MODEL, config=CONFIG, train=True, microbatches=1):
    """Jitted batch -> (sums, gradient of the loss)."""
    objective = CPCObjective(model, config, ("de", "es", "fr"))

    def numerator(params, batch):
        sums = objective.loss(params, batch, KEY, STEP, train=train, microbatches=microbatches)
        return sums["loss"][0], sums

    run = jit(jax.grad(numerator, has_aux=True))
    return lambda batch: run(params(), batch)[::-1]


def assert_same(actual, expected, rtol=1e-4):
    """Trees alike, each leaf up to ``rtol`` of its largest value."""

    def close(path, a, e):
        name, largest = jax.tree_util.keystr(path), np.max(np.abs(e))
        np.testing.assert_allclose(a, e, rtol=rtol, atol=rtol * largest + 1e-6, err_msg=name)

    jax.tree.map_with_path(close, actual, expected)


# --- the loss in PyTorch, position by position


def members_of(row):
    """Rows of its group, in order: of 0 1 2 3, 4 5 6 7, ... the even, or the odd ones."""
    first = row // 4 * 4 + row % 2
    return [first, first + 2]


def torch_loss(predictions, features, batch):
    """(nats, right choices) [K, B] summed over positions, by looking every candidate up."""
    steps, rows = len(predictions), len(batch["samples"])
    loss, correct = [], np.zeros((steps, rows))
    for k in range(1, steps + 1):
        for b in range(rows):
            members = members_of(b)
            losses = [torch.zeros(())]
            for t in range(int(MODEL.frames(batch["samples"][b])) - steps):
                if not batch["weight"][b]:
                    break
                drawn = zip(batch["negative_row"][b, t], batch["negative_time"][b, t], strict=True)
                places = [(members[r], int(time)) for r, time in drawn]
                frames = torch.stack([features[b, t + k]] + [features[place] for place in places])
                logits = (predictions[k - 1, b, t] * frames).mean(-1)
                target = torch.zeros((), dtype=torch.long)
                losses.append(torch.nn.functional.cross_entropy(logits, target))
                others = [x for x, place in zip(logits[1:], places, strict=True)
                          if place != (b, t + k)]  # fmt: skip
                correct[k - 1, b] += all(logits[0] > x for x in others)
            loss.append(sum(losses))
    return torch.stack(loss).reshape(steps, rows), correct


def given_negatives(batch, seed=2):
    """Frames of any row of the group; often the frame to be foretold itself."""
    rng = np.random.default_rng(seed)
    rows = len(batch["samples"])
    shape = (rows, POSITIONS, CONFIG.negatives)
    row = rng.integers(0, 2, shape).astype(np.int32)
    of_group = MODEL.frames(batch["samples"])[np.array([members_of(b) for b in range(rows)])]
    bound = np.take_along_axis(of_group, row.reshape(rows, -1), axis=1).reshape(shape)
    time = (rng.random(shape) * bound).astype(np.int32)
    row[:, ::4, 0], time[:, ::4, 0] = 0, np.arange(0, POSITIONS, 4) + 1
    return batch | {"negative_row": row, "negative_time": time}


def test_loss_and_gradient_against_torch():
    """Two blocks of two woven groups, short rows and a filler row among them."""
    batch = given_negatives(make_batch(8))
    batch["weight"][5] = 0
    sums, gradient = program(CALM)(batch)
    model = CPCObjective(CALM, CONFIG).model

    def forward(params):
        return model.apply({"params": params}, batch["waveform"], batch["samples"])

    outputs = jax.device_get(jit(forward)(params()))
    leaves = {
        name: torch.tensor(getattr(outputs, name), requires_grad=True)
        for name in ("predictions", "features")
    }
    loss, correct = torch_loss(leaves["predictions"], leaves["features"], batch)
    loss.sum().backward()
    positions = sum(MODEL.frames(n) - 3 for n in np.delete(batch["samples"], 5))
    assert float(sums["loss"][1]) == float(sums["step_accuracy"][1]) == positions
    np.testing.assert_allclose(sums["loss"][0], loss.sum().item(), rtol=1e-5)
    np.testing.assert_array_equal(sums["step_accuracy"][0], correct.sum(axis=1))
    assert 0.02 < correct.sum() / (3 * positions) < 0.9
    per_language = np.zeros(3)
    np.add.at(per_language, batch["language"], loss.sum(axis=0).detach().numpy())
    np.testing.assert_allclose(sums["language_loss"][0], per_language, rtol=1e-4, atol=1e-5)

    # PyTorch's gradients of predictions and features, led back through the network.
    def pull(params):
        outputs = forward(params)
        return sum(jnp.sum(getattr(outputs, name) * x.grad.numpy()) for name, x in leaves.items())

    assert_same(gradient, jit(jax.grad(pull))(params()))
    assert min(float(np.abs(x).max()) for x in jax.tree.leaves(gradient)) > 1e-4


# --- draws


def test_negatives_are_uniform_over_the_group_and_over_all_times_but_their_own():
    frames, usable = np.array([20, 20, 12, 20, 20, 20]), np.array([1, 1, 1, 1, 0, 1], bool)
    keys = jax.random.split(jax.random.key(1), 6)
    layout = Layout(blocks=1, rows=3, strands=2)  # rows 0 2 4 and 1 3 5
    draw = jit(functools.partial(draw_negatives, layout=layout, positions=17, number=3000))
    row, time = map(np.asarray, draw(keys, frames, usable))
    for b in range(6):
        members = np.arange(b % 2, 6, 2)
        share = np.bincount(row[b].ravel(), minlength=3) / row[b].size
        expected = usable[members] / usable[members].sum()
        np.testing.assert_allclose(share, expected, atol=0.01)
        for t in (0, 13, 16):
            for place, length in enumerate(frames[members]):
                times = time[b, t][row[b, t] == place]
                if not usable[members[place]]:
                    continue
                counts = np.bincount(times, minlength=length)
                assert len(counts) == length and counts[t % length] == 0
                others = np.delete(counts, t % length) / len(times)
                np.testing.assert_allclose(others, 1 / (length - 1), atol=0.04)


def test_one_batch_is_two_microbatches():
    """1 x 8 rows against 2 x 4 strided ones, with everything random switched on."""
    batch = make_batch(8)
    batch["weight"][[5]] = 0
    sums, gradient = program()(batch)
    parts = [program(microbatches=2)(take(batch, range(m, 8, 2))) for m in range(2)]
    added, added_gradient = jax.tree.map(lambda *x: sum(x), *parts)
    assert_same(added_gradient, gradient)
    for name in set(sums) - {"seconds"}:  # its denominator counts microbatches
        assert_same(added[name], sums[name])
    # Other groups of the same rows would be another loss.
    other = program(config=dataclasses.replace(CONFIG, woven=1))(batch)[0]
    assert abs(other["loss"][0] / sums["loss"][0] - 1) > 1e-4


def test_what_filler_rows_hold_changes_nothing():
    loud, none = make_batch(4), make_batch(4)
    loud["waveform"][2] *= 100
    none["waveform"][2] = none["samples"][2] = 0
    loud["weight"][2] = none["weight"][2] = 0
    for run in (program(), program(train=False)):
        (sums, gradient), (expected, expected_gradient) = run(loud), run(none)
        assert_same(sums, expected)
        assert_same(gradient, expected_gradient)


def test_in_evaluation_a_row_is_judged_alone():
    batch, run = make_batch(4), program(train=False)
    one_of_four = run(batch | {"weight": np.array([0, 0, 0, 1], np.float32)})[0]
    alone = run(take(batch, [3]))[0]
    assert_same(one_of_four["loss"], alone["loss"])
    assert_same(one_of_four["step_accuracy"], alone["step_accuracy"])


def test_a_single_row_trains_on_its_own_frames():
    sums, gradient = program()(make_batch(1))
    assert 0.5 < float(sums["contrastive_loss"][0] / sums["contrastive_loss"][1]) < 8
    assert all(np.isfinite(x).all() and np.abs(x).max() > 0 for x in jax.tree.leaves(gradient))


# --- what is logged, and what is refused


def test_scores_all_alike_are_at_chance_and_raise_the_alarm():
    objective = CPCObjective(CALM, ObjectiveConfig(alarm_patience=100), ("de", "es", "fr"))
    silent = jax.tree.map(np.zeros_like, params())
    run = jit(lambda params, batch: objective.loss(params, batch, KEY, STEP, train=False))
    figures = objective.summarize(run(silent, make_batch(2)))
    assert float(figures["chance_loss"]) == pytest.approx(math.log(129))
    assert float(figures["chance_accuracy"]) == pytest.approx(1 / 129)
    assert float(figures["contrastive_loss"]) == pytest.approx(math.log(129), rel=1e-5)
    assert float(figures["loss"]) == pytest.approx(3 * math.log(129), rel=1e-5)
    assert [float(figures[f"accuracy/{k}"]) for k in (1, 2, 3)] == [0, 0, 0]
    assert list(objective.alarms(figures, 100)) == ["not learning"]
    assert objective.alarms(figures, 99) == {}
    assert objective.alarms(figures | {"contrastive_loss": 4.6}, 100) == {}


def test_batches_that_do_not_fit_are_refused():
    objective = CPCObjective(MODEL, CONFIG)
    short = make_batch(2)
    short["waveform"] = short["waveform"][:, :60]
    for batch, microbatches, said in (
        (make_batch(6), 1, "= 4 rows"),
        (make_batch(1), 2, "= 4 rows"),
        (make_batch(4), 4, "multiple of training.accumulation 4"),
        (short, 1, "at least 4 frames"),
    ):
        with pytest.raises(ConfigError, match=said):
            objective.loss({}, batch, KEY, STEP, microbatches=microbatches)


def test_the_module_offers_what_is_asked_of_a_method():
    objective = cpc.make_objective(cpc.ModelConfig(), cpc.ObjectiveConfig(), ("es",))
    assert objective.best_by == cpc.BEST_BY == "contrastive_loss" and not cpc.LABELLED
    # 8 windows of 1.28 s: the predictors, 1.3 M parameters each, are most of the work.
    predictors = 6 * 12 * 8 * 116 * (4 * 256**2 + 2 * 256 * 2048)
    assert predictors < objective.flops(8, 20_480) < 1.6 * predictors


# --- learning


def glides(rows, seed):
    """Tones that rise or fall through the row, at speeds of their own, under noise."""
    rng = np.random.default_rng(seed)
    ends = np.stack([rng.uniform(0.02, 0.2, rows), rng.uniform(0.25, 0.45, rows)])
    notes = np.linspace(*rng.permuted(ends, axis=0), 800, axis=1)
    tone = np.sin(2 * np.pi * np.cumsum(notes, axis=1))
    waveform = tone + 0.05 * rng.normal(size=tone.shape)
    return make_batch(rows) | {
        "waveform": waveform.astype(np.float32),
        "samples": np.full(rows, 800, np.int32),
    }


def test_a_short_run_beats_chance():
    model = dataclasses.replace(
        MODEL, conv_dims=(32, 32), dim=32, predictors="linear", prediction_dropout=0.0
    )
    objective = CPCObjective(model, ObjectiveConfig(negatives=31, group_rows=8))
    params = jit(objective.init)(jax.random.key(0))
    optimizer = optax.adam(3e-3)

    @jax.jit
    def update(params, moments, batch, number):
        def loss(params):
            sums = objective.loss(params, batch, jax.random.key(number), number)
            return sums["loss"][0] / sums["loss"][1]

        updates, moments = optimizer.update(jax.grad(loss)(params), moments)
        return optax.apply_updates(params, updates), moments

    moments = optimizer.init(params)
    for number in range(120):
        params, moments = update(params, moments, glides(8, seed=number), number)
    held_out = glides(8, seed=10_000)
    run = jit(lambda params: objective.loss(params, held_out, KEY, STEP, train=False))
    figures = objective.summarize(run(params))
    assert figures["accuracy"] > 5 * figures["chance_accuracy"]
    assert figures["contrastive_loss"] < 0.8 * figures["chance_loss"]
