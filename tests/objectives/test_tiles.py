"""Frames filled up to whole tiles, as on TPUs: the same losses and gradients, dropout included."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.objectives.test_wav2vec2 import CONFIG, KEY, MODEL, STEP, assert_same, jit, make_batch
from xlsr_jax.models import layers, unispeech
from xlsr_jax.objectives import finetune
from xlsr_jax.objectives import unispeech as joint
from xlsr_jax.objectives.wav2vec2 import Wav2Vec2Objective

CLASSES, SAMPLES = 7, 3_125  # 39 frames


def objective(name):
    if name == "wav2vec2":
        return Wav2Vec2Objective(MODEL, CONFIG)
    if name == "unispeech":
        config = joint.ObjectiveConfig(distractors=12, mask_length=5, distractors_from="everywhere")
        model = unispeech.ModelConfig(**dataclasses.asdict(MODEL), final_dropout=0.2)
        return joint.UniSpeechObjective(model, config, CLASSES)
    config = finetune.ObjectiveConfig(mask_length=5, mask_prob=0.5, channel_prob=0.2)
    return finetune.FinetuneObjective(MODEL, config, CLASSES)


def labelled_batch(rows=3):
    batch = make_batch(rows)
    batch["waveform"] = batch["waveform"][:, :SAMPLES]
    batch["samples"] = np.minimum(batch["samples"], SAMPLES)
    labels = np.random.default_rng(1).integers(1, CLASSES, (rows, 6)).astype(np.int32)
    return batch | {"labels": labels, "label_count": np.full(rows, 5, np.int32)}


def padded(x_BT):
    missing = layers.tiled(x_BT.shape[1]) - x_BT.shape[1]
    return jnp.pad(x_BT, ((0, 0), (0, missing), *((0, 0),) * (x_BT.ndim - 2)))


@pytest.mark.parametrize("name", ["wav2vec2", "unispeech", "finetune"])
def test_filling_up_changes_nothing(name, monkeypatch):
    ours, batch = objective(name), labelled_batch()
    # Drawn wide, so that what begins at zero tells something too.
    leaves, tree = jax.tree.flatten(jit(ours.init)(jax.random.key(0)))
    keys = jax.random.split(jax.random.key(1), len(leaves))
    drawn = [
        leaf + 0.1 * jax.random.normal(key, leaf.shape)
        for leaf, key in zip(leaves, keys, strict=True)
    ]
    params = jax.tree.unflatten(tree, drawn)

    def run():
        def loss(params):
            sums = ours.loss(params, batch, KEY, STEP)
            return sums["loss"][0], sums

        return jit(jax.grad(loss, has_aux=True))(params)

    plain = run()
    filled = []
    monkeypatch.setattr(layers, "in_tiles", lambda x: filled.append(x.shape[1] % 8) or padded(x))
    tiled = run()
    assert any(filled), "no frame was filled up"
    assert_same(tiled, plain, 1e-5)


def test_only_masked_frames_have_a_gradient():
    """What is taken, and its gradient, against plain indexing and its gradient."""
    random = np.random.default_rng(0)
    x, mask = random.normal(size=(2, 11, 3)).astype(np.float32), random.random((2, 11)) < 0.4
    positions = np.argsort(~mask, axis=1, kind="stable")[:, :7].astype(np.int32)
    weight = random.normal(size=(2, 7, 3)) * (np.arange(7) < mask.sum(1)[:, None])[..., None]

    def ours(x):
        return jnp.sum(layers.take_masked(x, jnp.asarray(mask), jnp.asarray(positions)) * weight)

    def plain(x):
        return jnp.sum(jnp.stack([x[row, positions[row]] for row in range(2)]) * weight)

    assert mask.sum(1).max() < 7
    for mine, theirs in zip(jax.value_and_grad(ours)(x), jax.value_and_grad(plain)(x), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-6)
