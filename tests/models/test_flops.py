"""FLOPs counted from shapes, against the compiler's count and the parameters' number."""

import jax
import jax.numpy as jnp
import pytest

from xlsr_jax.models import flops
from xlsr_jax.models.feature_encoder import FeatureEncoder
from xlsr_jax.models.wav2vec2 import ModelConfig


def test_encoder_against_the_compiler():
    config = ModelConfig(conv_dims=(64,) * 7, encoder_norm="layer")
    encoder = FeatureEncoder(
        config.conv_dims, config.conv_kernels, config.conv_strides, "layer", False
    )
    waveform, samples = jnp.zeros((1, 32_080)), jnp.array([32_080])
    params = encoder.init(jax.random.key(0), waveform, samples)
    compiled = jax.jit(encoder.apply).lower(params, waveform, samples).compile()
    ours = flops.encoder_flops(config, 32_080)
    # The compiler counts norms and activations too: a few per cent at 64 channels.
    assert ours < compiled.cost_analysis()["flops"] < 1.3 * ours


def test_large_is_close_to_six_flops_a_parameter_and_frame():
    config = ModelConfig(layers=24, dim=1024, heads=16, ffn=4096)
    frames = 999
    per_frame = flops.context_flops(config, frames) / frames
    weights = 24 * 12 * 1024**2 + 512 * 1024 + 128 * 1024 * 64
    attention = 24 * 4 * frames * 1024
    assert per_frame == pytest.approx(2 * weights + attention)
