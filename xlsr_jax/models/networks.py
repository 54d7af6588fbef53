"""The networks that fine-tuning, probes and analyses read, by the class of their settings.

Each has ``read`` as ``Wav2Vec2`` has it, and settings that tell ``dim``, ``layers``, ``geometry``
and ``frames``.
"""

import dataclasses
from typing import Any

from xlsr_jax.models import cpc, flops, layers, log_mel, wav2vec2

Network = wav2vec2.Wav2Vec2 | cpc.CPC | log_mel.LogMel
Settings = wav2vec2.ModelConfig | cpc.ModelConfig | log_mel.ModelConfig


def make_network(config: Settings, constrain: layers.Constrain = layers.unconstrained) -> Network:
    """The network of ``config`` without what only pretraining needs."""
    if isinstance(config, log_mel.ModelConfig):
        return log_mel.LogMel(config, constrain)
    network = cpc.CPC if isinstance(config, cpc.ModelConfig) else wav2vec2.Wav2Vec2
    return network(config, constrain, pretraining=False)


def forward_flops(config: Settings, samples: int) -> tuple[float, float]:
    """FLOPs of feature encoder and context network for one row; conventions of ``flops``."""
    if isinstance(config, log_mel.ModelConfig):
        return 0.0, 0.0
    counts = cpc if isinstance(config, cpc.ModelConfig) else flops
    frames = config.frames(samples)
    return counts.encoder_flops(config, samples), counts.context_flops(config, frames)


def for_inference(config: Settings) -> Settings:
    """The same network in fp32, with nothing computed twice."""
    wanted: dict[str, Any] = {"dtype": "float32", "remat": "none"}
    there = {field.name for field in dataclasses.fields(config)}
    return dataclasses.replace(config, **{k: v for k, v in wanted.items() if k in there})
