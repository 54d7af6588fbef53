"""A tiny pretraining run with random parameters, and an aligned corpus whose phones are tones."""

from pathlib import Path

import jax
import numpy as np

from xlsr_jax import config as configuration
from xlsr_jax.data.records import Manifest, Record, encode_audio, write_shard
from xlsr_jax.objectives.wav2vec2 import make_objective
from xlsr_jax.training.checkpoint import Checkpoints
from xlsr_jax.training.state import TrainState

TONES = {"a": 300, "i": 900, "u": 2000, "s": 5000}  # Hz
SPOKEN = {"es": "aisu", "it": "aiss", "sv": "uuia"}  # phones of a language, in turn
PHONE = 2_000  # samples of each


def tiny_config(**model):
    """A wav2vec 2.0 of a few hundred weights; ``model`` changes its settings."""
    config = configuration.default("tiny")
    small = {
        "encoder_norm": "layer", "conv_dims": (6, 8, 8), "conv_kernels": (10, 4, 3),
        "conv_strides": (5, 8, 4), "conv_bias": True, "dim": 16, "layers": 1, "heads": 2,
        "ffn": 16, "position_kernel": 4, "position_groups": 2, "codewords": 5, "code_dim": 8,
        "final_dim": 8, "gelu": "exact",
    }  # fmt: skip
    for name, value in (small | model).items():
        config.model[name] = value
    return configuration.resolve(config)


def parameters(config, seed: int = 0) -> dict:
    """Random everywhere, also where training would begin with zeros and ones."""
    params = make_objective(config.model, config.objective, ()).init(jax.random.key(seed))
    draw = np.random.default_rng(seed)
    wiggled = lambda leaf: np.asarray(leaf + 0.3 * draw.standard_normal(leaf.shape), np.float32)  # noqa: E731
    return jax.tree.map(wiggled, params)


def make_run(folder: Path, step: int = 7, seed: int = 0, corpus: Path | str = "", **model) -> Path:
    """Writes the run's only checkpoint; ``model`` changes settings, ``corpus`` is its data."""
    config = tiny_config(**model)
    about = {"config": configuration.to_dict(config), "languages": [], "step": step}
    about["config"]["data"]["path"] = str(corpus)
    save(folder, step, parameters(config, seed), about)
    return folder


def save(folder: Path, step: int, params: dict, about: dict) -> None:
    zero = np.zeros((), np.int32)
    checkpoints = Checkpoints(folder)
    checkpoints.save(step, TrainState(zero + step, params, (), zero, zero), about, {})
    checkpoints.wait()
    checkpoints.close()


def make_corpus(root: Path, aligned: bool = True, spoken=SPOKEN, utterances: int = 6) -> Path:
    """Utterances of each language, tones with a little noise; 250 samples of silence before."""
    shards, draw = [], np.random.default_rng(0)
    for language, order in spoken.items():
        found = []
        for number in range(utterances):
            phones = [order[(number + n) % len(order)] for n in range(3 + number)]
            time = np.arange(PHONE) / 16_000
            tones = [0.3 * np.sin(2 * np.pi * TONES[phone] * time) for phone in phones]
            waveform = np.concatenate([np.zeros(250), *tones]).astype(np.float32)
            waveform += 0.01 * draw.standard_normal(len(waveform)).astype(np.float32)
            begins = range(250, len(waveform), PHONE)
            times = zip(phones, begins, strict=True)
            alignment = tuple((phone, begin, begin + PHONE) for phone, begin in times)
            found.append(
                Record(
                    f"{language}-{number}",
                    language,
                    encode_audio(waveform, "pcm16"),
                    "pcm16",
                    len(waveform),
                    alignment=alignment if aligned else (),
                )  # fmt: skip
            )
        path = f"train/{language}-00000.array_record"
        shards.append(write_shard(root, path, "train", language, found))
    Manifest("tones", tuple(shards), {}, {}).save(root)
    return root
