"""Modified CPC's network against the same in PyTorch, forward and back."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xlsr_jax.models.cpc import CPC, ModelConfig, pretraining_flops
from xlsr_jax.schema import ConfigError

torch = pytest.importorskip("torch", reason="torch is not installed; pip install torch")

# Compiling is what takes the time here.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
SMALL = ModelConfig(
    conv_dims=(12, 10, 8), conv_kernels=(10, 8, 4), conv_strides=(5, 4, 2),
    conv_paddings=(3, 2, 1), dim=8, steps=3, heads=2, ffn=12, distances=7,
)  # fmt: skip
CALM = dataclasses.replace(SMALL, dropout=0.0)
SAMPLES = 800  # 20 frames, of which 17 foretell three
KINDS = [("lstm", "transformer"), ("gru", "linear")]


@functools.cache
def problem(config, rows=2, samples=SAMPLES):
    """Model, parameters with no two norms alike, and a waveform."""
    rng = np.random.default_rng(0)
    waveform = rng.normal(size=(rows, samples)).astype(np.float32)
    shake = lambda x: (x + 0.2 * rng.normal(size=x.shape)).astype(np.float32)  # noqa: E731
    return CPC(config), jax.tree.map(shake, initial(config)), waveform


def initial(config):
    # Any parameter that is asked for brings all of them.
    init = jit(lambda key: CPC(config).init(key, method=lambda model: model.feature_encoder))
    return jax.device_get(init(jax.random.key(3))["params"])


@functools.cache
def program(model, **settings):
    return jit(lambda params, *arrays: model.apply({"params": params}, *arrays, **settings))


def forward(model, params, waveform, samples=None, seeds=None):
    samples = np.full(len(waveform), waveform.shape[1]) if samples is None else np.array(samples)
    return program(model)(params, waveform, samples, seeds)


# --- the same in PyTorch


def reference(params, waveform, config):
    """(features, contexts, predictions) of PyTorch tensors in our layout."""
    x = waveform[:, None]
    for i, (stride, padding) in enumerate(
        zip(config.conv_strides, config.conv_paddings, strict=True)
    ):
        conv, norm = params["feature_encoder"][f"conv_{i}"], params["feature_encoder"][f"norm_{i}"]
        kernel = conv["kernel"].permute(2, 1, 0)
        x = torch.nn.functional.conv1d(x, kernel, conv["bias"], stride, padding)
        x = (x - x.mean(1, keepdim=True)) * torch.rsqrt(x.var(1, keepdim=True) + 1e-5)
        x = torch.relu(x * norm["scale"][:, None] + norm["bias"][:, None])
    features = x.transpose(1, 2)
    recurrent = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU}[config.context]
    weights = {}
    for ours, theirs in (("input", "ih"), ("hidden", "hh")):
        weights[f"weight_{theirs}_l0"] = params["context_network"][ours]["kernel"].T
        weights[f"bias_{theirs}_l0"] = params["context_network"][ours]["bias"]
    network = recurrent(config.conv_dims[-1], config.dim, batch_first=True)
    contexts, _ = torch.func.functional_call(network, weights, (features,))
    known = contexts[:, : features.shape[1] - config.steps]
    predict = transformer if config.predictors == "transformer" else linear
    predictions = [
        predict(known, pick(params["predictors"], k), config) for k in range(config.steps)
    ]
    return features, contexts, torch.stack(predictions)


def pick(tree, k):
    return {name: pick(x, k) if isinstance(x, dict) else x[k] for name, x in tree.items()}


def linear(x, params, config):
    return x @ params["kernel"]


def transformer(x, params, config):
    """A causal post-norm layer; the relative term summed distance by distance."""
    length, width = x.shape[1:]
    head = width // config.heads
    outputs = []
    for h in range(config.heads):
        part = slice(h * head, (h + 1) * head)
        q, k, v = (x @ params[name]["kernel"][:, part] for name in ("query", "key", "value"))
        distance = torch.arange(length)[:, None] - torch.arange(length)
        vectors = params["distance"][distance.clamp(0, len(params["distance"]) - 1)]
        scores = torch.einsum("btd,btsd->bts", q, k[:, None] + vectors) / math.sqrt(head)
        weights = scores.masked_fill(distance < 0, -math.inf).softmax(-1)
        outputs.append(weights @ v)
    norm = lambda x, p: torch.nn.functional.layer_norm(x, (width,), p["scale"], p["bias"])  # noqa: E731
    x = norm(x + torch.cat(outputs, -1) @ params["out"]["kernel"], params["attention_norm"])
    hidden = torch.relu(x @ params["ffn_in"]["kernel"] + params["ffn_in"]["bias"])
    return norm(x + hidden @ params["ffn_out"]["kernel"] + params["ffn_out"]["bias"],
                params["ffn_norm"])  # fmt: skip


@pytest.mark.parametrize(("context", "predictors"), KINDS)
def test_outputs_and_gradients_against_torch(context, predictors):
    config = dataclasses.replace(CALM, context=context, predictors=predictors)
    model, params, waveform = problem(config)
    rng, samples = np.random.default_rng(1), np.full(2, SAMPLES)
    shapes = ((2, 20, 8), (2, 20, 8), (3, 2, 17, 8))
    cotangents = [rng.normal(size=shape).astype(np.float32) for shape in shapes]

    def weighed(params):
        outputs = model.apply({"params": params}, waveform, samples)
        pairs = zip(outputs, cotangents, strict=True)
        return sum(jnp.sum(x * c) for x, c in pairs), outputs

    gradient, ours = jit(jax.grad(weighed, has_aux=True))(params)
    leaves = jax.tree.map(lambda x: torch.tensor(x, requires_grad=True), params)
    theirs = reference(leaves, torch.tensor(waveform), config)
    for name, a, b in zip(ours._fields, ours, theirs, strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b.detach(), rtol=1e-4, atol=1e-4, err_msg=name)
    sum((x * torch.tensor(c)).sum() for x, c in zip(theirs, cotangents, strict=True)).backward()

    def close(path, a, b):
        b, name = b.grad.numpy(), jax.tree_util.keystr(path)
        assert np.abs(b).max() > 1e-3, name
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4 * np.abs(b).max(), err_msg=name)

    jax.tree.map_with_path(close, gradient, leaves)


def test_initial_scale_against_torch():
    """Bounds of every layer as PyTorch draws them by default."""
    params = initial(ModelConfig())
    lstm, ffn = torch.nn.LSTM(256, 256), torch.nn.Linear(2048, 256)
    pairs = {
        "conv_0": (params["feature_encoder"]["conv_0"], torch.nn.Conv1d(1, 256, 10)),
        "conv_1": (params["feature_encoder"]["conv_1"], torch.nn.Conv1d(256, 256, 8)),
        "ffn_out": (params["predictors"]["ffn_out"], ffn),
    }
    for name, (ours, theirs) in pairs.items():
        for key, weight in (("kernel", theirs.weight), ("bias", theirs.bias)):
            std = float(weight.detach().std())
            assert abs(ours[key].std() / std - 1) < 0.15, (name, key)
    hidden = params["context_network"]["hidden"]["kernel"]
    assert abs(hidden.std() / float(lstm.weight_hh_l0.detach().std()) - 1) < 0.02
    distance = params["predictors"]["distance"]
    assert distance.shape == (12, 116, 32)
    assert abs(distance.std() / (32**-0.5 / 3**0.5) - 1) < 0.02
    # Predictors are drawn apart.
    assert np.abs(np.corrcoef(distance.reshape(12, -1)) - np.eye(12)).max() < 0.1


# --- lengths


def test_frame_counts_against_torch():
    published, samples = ModelConfig(), [0, 3, 159, 160, 465, 1000, 16000, 20480, 20481, 99999]
    assert published.frames(20480) == 128
    for count in samples[3:]:
        x = torch.zeros(1, 1, count)
        for geometry in zip(
            published.conv_kernels, published.conv_strides, published.conv_paddings, strict=True
        ):
            kernel, stride, padding = geometry
            x = torch.nn.functional.conv1d(x, torch.zeros(1, 1, kernel), None, stride, padding)
        assert published.frames(count) == x.shape[-1], count
    assert published.frames(0) == published.frames(3) == 0
    expected = [published.frames(count) for count in samples]
    np.testing.assert_array_equal(published.frames(np.array(samples)), expected)
    window, hop = published.geometry  # what plans count with
    assert (window, hop) == (465 - 2 * 153, 160)
    every = np.arange(2_000)
    counted = np.maximum((every - window) // hop + 1, 0)
    np.testing.assert_array_equal(published.frames(every), counted)


def test_a_padded_row_is_the_row_alone():
    samples = 471
    model, params, waveform = problem(CALM)
    padded = waveform.copy()
    padded[1, samples:] = 0
    together = forward(model, params, padded, [SAMPLES, samples])
    alone = forward(model, params, waveform[1:, :samples])
    frames = CALM.frames(samples)
    for name in ("features", "contexts"):
        row = getattr(together, name)[1, :frames]
        np.testing.assert_allclose(row, getattr(alone, name)[0], atol=2e-5, err_msg=name)
    expected = alone.predictions[:, 0]
    np.testing.assert_allclose(
        together.predictions[:, 1, : frames - CALM.steps], expected, atol=2e-5
    )
    assert np.all(np.asarray(together.features[1, frames:]) == 0)


# --- what a classifier reads


def test_read_gives_contexts_or_features_and_masks_what_the_context_network_sees():
    model, params, waveform = problem(CALM)
    plain = forward(model, params, waveform)
    samples = np.full(2, SAMPLES)
    contexts = program(model, method=CPC.read)(params, waveform, samples)
    features = program(model, method=CPC.read, layer=0)(params, waveform, samples)
    np.testing.assert_allclose(contexts, plain.contexts, atol=1e-6)
    np.testing.assert_allclose(features, plain.features, atol=1e-6)
    mask, channels = np.zeros((2, 20), bool), np.zeros((2, 8), bool)
    mask[0, 10], channels[1, 3] = True, True
    seen = np.array(plain.features)
    seen[0, 10], seen[1, :, 3] = 0, 0
    expected = program(model, method=CPC.contextualise)(params, seen)
    masked = program(model, method=CPC.read)(params, waveform, samples, mask, channels)
    np.testing.assert_allclose(masked, expected, atol=1e-5)
    assert np.abs(expected - plain.contexts).max() > 1e-2


def test_gradient_scale_is_of_the_encoder_alone():
    model, params, waveform = problem(CALM)

    @jit
    def gradients(params):
        def loss(params, scale):
            settings = {"grad_scale": scale, "method": CPC.read}
            contexts = model.apply({"params": params}, waveform, np.full(2, SAMPLES), **settings)
            return jnp.sum(jnp.square(contexts))

        return [jax.grad(loss)(params, scale) for scale in (None, 0.25, 0.0)]

    plain, quarter, none = gradients(params)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-4)
    for scaled, factor in ((quarter, 0.25), (none, 0)):
        encoder = jax.tree.map(lambda x, factor=factor: factor * x, plain["feature_encoder"])
        jax.tree.map(close, scaled["feature_encoder"], encoder)
        jax.tree.map(close, scaled["context_network"], plain["context_network"])


# --- dropout, precision, sizes


def test_dropout_of_predictions_halves_them_apart_for_each_step_and_row():
    config = dataclasses.replace(CALM, predictors="linear", prediction_dropout=0.5)
    model, params, waveform = problem(config)
    seeds = jnp.array([[1, 2], [3, 4]], jnp.uint32)
    plain = np.asarray(forward(model, params, waveform).predictions)
    dropped = np.asarray(forward(model, params, waveform, seeds=seeds).predictions)
    kept = dropped != 0
    np.testing.assert_allclose(dropped[kept], 2 * plain[kept], rtol=1e-5)
    assert abs(kept.mean() - 0.5) < 0.06
    masks = kept.reshape(config.steps * 2, -1)
    assert np.abs(np.corrcoef(masks) - np.eye(len(masks))).max() < 0.3
    second = forward(model, params, waveform[1:], seeds=seeds[1:]).predictions[:, 0]
    np.testing.assert_allclose(second, dropped[:, 1], atol=1e-5)


def test_dropout_inside_the_predictors_leaves_the_mean_and_the_contexts():
    model, params, waveform = problem(dataclasses.replace(SMALL, dropout=0.1), rows=1)
    many = np.repeat(waveform, 200, axis=0)
    seeds = jax.random.bits(jax.random.key(0), (200, 2), jnp.uint32)
    plain = forward(model, params, waveform)
    dropped = forward(model, params, many, seeds=seeds)
    np.testing.assert_allclose(dropped.contexts[7], plain.contexts[0], atol=1e-5)
    mean, spread = dropped.predictions.mean(axis=1), dropped.predictions.std(axis=1)
    assert 0.02 < spread.mean() < 0.5
    assert np.abs(mean - plain.predictions[:, 0]).mean() < 0.3 * spread.mean()


def test_bfloat16_is_close():
    model, params, waveform = problem(CALM)
    exact = forward(model, params, waveform)
    coarse = forward(CPC(dataclasses.replace(CALM, dtype="bfloat16")), params, waveform)
    for a, b in zip(coarse, exact, strict=True):
        assert a.dtype == jnp.bfloat16
        error = np.abs(np.asarray(a, np.float32) - b)
        assert error.mean() < 0.02 * np.abs(b).mean() + 0.005


def test_flops_against_the_compiler():
    config = ModelConfig(conv_dims=(64,) * 5, dim=64, heads=4, ffn=256, steps=4, dropout=0.0)
    model, params, waveform = problem(config, rows=1, samples=8000)
    run = jax.jit(lambda p: model.apply({"params": p}, waveform, np.array([8000])))
    counted = run.lower(params).compile().cost_analysis()["flops"]
    # Of the recurrent loop the compiler counts one turn; norms and activations are its alone.
    frames = config.frames(8000)
    counted += (frames - 1) * 2 * 4 * 64 * 64
    ours = pretraining_flops(config, 1, 8000, 0) / 3
    assert ours < counted < 1.3 * ours
    candidates = pretraining_flops(config, 1, 8000, 129) / 3 - ours
    assert candidates == 2 * 4 * (frames - 4) * 129 * 64


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"conv_paddings": (3, 2)}, "have 5, 5, 5, 2"),
        ({"dim": 128}, "must be the last of model.conv_dims, 256"),
        ({"heads": 7}, "multiple of model.heads 7"),
    ],
)
def test_settings_that_do_not_fit_are_refused(changed, said):
    with pytest.raises(ConfigError, match=said):
        ModelConfig(**changed)
