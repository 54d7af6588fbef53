"""Model FLOPs, counted from the shapes: the numerator of model FLOPs utilisation.

Convention: a multiply and an add are two; matrix products and convolutions only (norms,
activations, softmax and the distractor count are left out); the backward pass costs twice the
forward pass; recomputation is not counted as work.
"""

from xlsr_jax.models.wav2vec2 import ModelConfig

BACKWARD = 2


def encoder_flops(model: ModelConfig, samples: int) -> float:
    """Forward FLOPs of the feature encoder for one row of ``samples``."""
    total, width = 0.0, 1
    for dim, kernel, stride in zip(
        model.conv_dims, model.conv_kernels, model.conv_strides, strict=True
    ):
        samples = max(0, (samples - kernel) // stride + 1)
        total += 2.0 * samples * kernel * width * dim
        width = dim
    return total


def context_flops(model: ModelConfig, frames: int) -> float:
    """Forward FLOPs of projection, positional convolution and Transformer for one row."""
    dim = model.dim
    per_frame = 2.0 * model.conv_dims[-1] * dim
    per_frame += 2.0 * model.position_kernel * dim * dim / model.position_groups
    per_frame += model.layers * 2.0 * (4 * dim * dim + 2 * dim * model.ffn)
    attention = model.layers * 2 * 2.0 * frames * dim
    return frames * (per_frame + attention)


def pretraining_flops(model: ModelConfig, rows: int, samples: int, masked_share: float) -> float:
    """FLOPs of one update, forward and backward, on ``rows`` of ``samples``.

    ``masked_share`` of the frames are quantized, projected, and scored against one another.
    """
    frames = model.frames(samples)
    masked = masked_share * frames
    quantizer = 2.0 * model.conv_dims[-1] * model.groups * model.codewords
    quantizer += 2.0 * model.codewords * model.code_dim
    projections = 2.0 * (model.code_dim + model.dim) * model.final_dim
    scores = 2.0 * masked * model.final_dim
    forward = encoder_flops(model, samples) + context_flops(model, frames)
    forward += masked * (quantizer + projections + scores)
    return rows * (1 + BACKWARD) * forward
