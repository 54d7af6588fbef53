"""The warm start's targets against librosa, its regression against least squares in NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xlsr_jax.models.log_mel import log_mel
from xlsr_jax.models.wav2vec2 import ModelConfig
from xlsr_jax.objectives.log_mel import LogMelObjective

librosa = pytest.importorskip("librosa", reason="librosa is not installed; pip install librosa")

# Compiling is what takes the time here.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
BANDS, RATE = 6, 16_000
SAMPLES = np.array([4000, 2900])


def speechlike(samples, seed=0):
    """A chirp with harmonics and noise under a slow envelope."""
    rng, t = np.random.default_rng(seed), np.arange(samples) / RATE
    phase = 2 * np.pi * (150 * t + 400 * t**2)
    voice = sum(np.sin(h * phase) / h for h in range(1, 12))
    audio = 0.1 * voice * (1.1 + np.sin(20 * t)) + 0.01 * rng.normal(size=samples)
    return audio.astype(np.float32)


def plain(waveform, bands, window=400, hop=320):
    """[T, bands] of one row, from librosa's power mel spectrogram."""
    energy = librosa.feature.melspectrogram(
        y=waveform.astype(float), sr=RATE, n_fft=window, hop_length=hop, center=False, n_mels=bands
    ).T
    logs = np.log(energy + 1e-5 * energy.mean() + 1e-10)
    centred = logs - logs.mean(0)
    return centred / np.sqrt(np.mean(centred**2, axis=0) + 1e-5)


def test_targets_against_librosa():
    waveform = np.stack([speechlike(16_000), speechlike(16_000, seed=1)])
    waveform[1, 9000:] = 0
    frames = np.array([49, 27])
    ours = jit(log_mel, static_argnums=(2, 3, 4))(waveform, frames, 40, 400, 320)
    assert ours.shape == (2, 49, 40)
    np.testing.assert_allclose(ours[0], plain(waveform[0], 40), atol=2e-3)
    np.testing.assert_allclose(ours[1, :27], plain(waveform[1, :9000], 40), atol=2e-3)


def test_loudness_does_not_matter():
    waveform = speechlike(8000)[None]
    targets = jit(log_mel, static_argnums=(2, 3, 4))
    quiet = targets(1e-2 * waveform, jnp.array([24]), 20, 400, 320)
    loud = targets(waveform, jnp.array([24]), 20, 400, 320)
    np.testing.assert_allclose(quiet, loud, atol=5e-3)


@functools.cache
def problem():
    model = ModelConfig(
        conv_dims=(8, 8, 48), conv_kernels=(10, 8, 8), conv_strides=(5, 8, 8), dim=16, layers=1,
        heads=2, ffn=16, position_kernel=8, position_groups=4, codewords=4, code_dim=8,
        final_dim=8, feature_grad_scale=0.1,
    )  # fmt: skip
    objective = LogMelObjective(model, bands=BANDS)
    params = jit(objective.init)(jax.random.key(0))
    waveform = np.stack([speechlike(4000), speechlike(4000, seed=1)])
    waveform[1, SAMPLES[1] :] = 0
    batch = {
        "waveform": waveform,
        "samples": SAMPLES.astype(np.int32),
        "row": np.arange(2, dtype=np.int32),
        "language": np.zeros(2, np.int32),
        "weight": np.ones(2, np.float32),
    }
    loss = jit(lambda params, batch: objective.loss(params, batch, jax.random.key(1), 0))
    return objective, params, batch, loss


def features_and_targets(params, batch):
    """Valid frames of all rows: the head's input, and log-mel frames of the encoder's window."""
    objective = problem()[0]
    window, hop = 10 + 7 * 5 + 7 * 40, 320
    encode = lambda m: m.normalise(m.encode(batch["waveform"], batch["samples"]))  # noqa: E731
    features = jit(lambda p: objective.model.apply({"params": p}, method=encode))(params)
    x, y = [], []
    for row, waveform, samples in zip(features, batch["waveform"], batch["samples"], strict=True):
        frames = (samples - window) // hop + 1
        x.append(np.asarray(row[:frames], float))
        y.append(plain(waveform[:samples], BANDS, window, hop))
    return np.concatenate(x), np.concatenate(y)


def with_head(params, kernel, bias):
    head = {"kernel": kernel.astype(np.float32), "bias": bias.astype(np.float32)}
    return params | {"log_mel_head": head}


def test_the_exact_solution_explains_everything():
    objective, params, batch, loss = problem()
    x, y = features_and_targets(params, batch)
    assert len(x) < x.shape[1]  # fewer frames than features: there is an exact solution
    inputs = np.concatenate([x, np.ones((len(x), 1))], axis=1)
    solution = np.linalg.lstsq(inputs, y, rcond=1e-8)[0]
    figures = objective.summarize(loss(with_head(params, solution[:-1], solution[-1]), batch))
    assert figures["r2"] == pytest.approx(1, abs=1e-3)
    assert figures["loss"] < 1e-3


def test_sums_against_numpy():
    objective, params, batch, loss = problem()
    x, y = features_and_targets(params, batch)
    rng = np.random.default_rng(2)
    kernel, bias = 0.1 * rng.normal(size=(48, BANDS)), rng.normal(size=BANDS)
    error = np.mean((x @ kernel + bias - y) ** 2, axis=1)
    sums = loss(with_head(params, kernel, bias), batch)
    np.testing.assert_allclose(sums["loss"], (error.sum(), len(y)), rtol=2e-3)
    figures = objective.summarize(sums)
    assert figures["r2"] == pytest.approx(1 - error.sum() / np.mean(y**2, axis=1).sum(), rel=2e-3)
    assert figures["audio_seconds"] == pytest.approx(SAMPLES.sum() / RATE)
    # The mean of every band, 0, explains nothing.
    nothing = loss(with_head(params, 0 * kernel, 0 * bias), batch)
    assert objective.summarize(nothing)["r2"] == pytest.approx(0, abs=1e-6)


def test_filler_rows_change_nothing():
    _, params, batch, loss = problem()
    one = loss(params, jax.tree.map(lambda x: x[:1], batch))
    filled = loss(params, batch | {"weight": np.array([1, 0], np.float32)})
    for name, pair in one.items():
        np.testing.assert_allclose(filled[name], pair, rtol=1e-4, err_msg=name)


def test_gradient_reaches_encoder_whole_and_nothing_beyond():
    """Whole: the model's ``feature_grad_scale`` is the contrastive phase's."""
    objective, params, batch, loss = problem()
    key = jax.random.key(1)
    gradient = jit(jax.grad(lambda p: objective.loss(p, batch, key, 0)["loss"][0]))(params)
    rng = np.random.default_rng(3)
    # Along a random direction of one encoder kernel against the difference quotient.
    kernel = np.asarray(params["feature_encoder"]["conv_1"]["kernel"])
    direction = rng.normal(size=kernel.shape).astype(np.float32)

    def moved(step):
        encoder = params["feature_encoder"]
        conv = {**encoder["conv_1"], "kernel": kernel + step * direction}
        changed = params | {"feature_encoder": encoder | {"conv_1": conv}}
        return float(loss(changed, batch)["loss"][0])

    slope = np.sum(direction * gradient["feature_encoder"]["conv_1"]["kernel"])
    assert slope == pytest.approx((moved(1e-3) - moved(-1e-3)) / 2e-3, rel=0.02)
    for name in ("context_network", "quantizer", "mask_embedding", "feature_projection"):
        assert not any(np.any(leaf) for leaf in jax.tree.leaves(gradient[name])), name
