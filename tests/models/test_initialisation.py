"""The distributions that parameters start from, leaf by leaf, by Kolmogorov-Smirnov tests."""

import jax
import numpy as np
import pytest
from scipy import stats

from xlsr_jax.models.wav2vec2 import ModelConfig
from xlsr_jax.objectives.wav2vec2 import ObjectiveConfig, Wav2Vec2Objective

DIM, FFN, WIDTH, KERNEL, CODE, FINAL = 48, 64, 24, 16, 32, 40
CONFIG = {
    "conv_dims": (WIDTH,) * 3, "conv_kernels": (10, 3, 2), "conv_strides": (5, 2, 2),
    "dim": DIM, "layers": 3, "heads": 4, "ffn": FFN, "position_kernel": KERNEL,
    "position_groups": 4, "codewords": 60, "code_dim": CODE, "final_dim": FINAL,
}  # fmt: skip


def normal(std):
    return stats.norm(0, std)


def uniform(low, high):
    return stats.uniform(low, high - low)


def fan_in(number):
    """PyTorch's default for linear layers and convolutions."""
    return uniform(-(number**-0.5), number**-0.5)


def expected(large):
    """Path to distribution, or to the one value of the whole leaf."""
    table = {
        "mask_embedding": uniform(0, 1),
        "feature_norm/scale": 1,
        "feature_norm/bias": 0,
        "feature_projection/kernel": fan_in(WIDTH),
        "feature_projection/bias": fan_in(WIDTH),
        "quantizer/codebook": uniform(0, 1),
        "quantizer/logits/kernel": normal(1),
        "quantizer/logits/bias": 0,
        "quantized_projection/kernel": fan_in(CODE),
        "quantized_projection/bias": fan_in(CODE),
        "context_projection/kernel": fan_in(DIM),
        "context_projection/bias": fan_in(DIM),
        "context_network/position/weight_v": normal((4 / (KERNEL * DIM)) ** 0.5),
        "context_network/position/bias": 0,
        "context_network/norm/scale": 1,
        "context_network/norm/bias": 0,
    }
    for i, kernel in enumerate(CONFIG["conv_kernels"]):
        taps = kernel * (1 if i == 0 else WIDTH)
        table[f"feature_encoder/conv_{i}/kernel"] = normal((2 / taps) ** 0.5)
        if large:
            table[f"feature_encoder/conv_{i}/bias"] = fan_in(taps)
        if large or i == 0:
            table[f"feature_encoder/norm_{i}/scale"] = 1
            table[f"feature_encoder/norm_{i}/bias"] = 0
    for name in ("query", "key", "value", "out", "ffn_in", "ffn_out"):
        table[f"context_network/layers/{name}/kernel"] = normal(0.02)
        table[f"context_network/layers/{name}/bias"] = 0
    for name in ("attention_norm", "ffn_norm"):
        table[f"context_network/layers/{name}/scale"] = 1
        table[f"context_network/layers/{name}/bias"] = 0
    return table


@pytest.fixture(scope="module", params=["base", "large"])
def case(request):
    large = request.param == "large"
    changed = {"encoder_norm": "layer", "conv_bias": True, "pre_norm": True} if large else {}
    objective = Wav2Vec2Objective(ModelConfig(**CONFIG, **changed), ObjectiveConfig())
    # Quickly compiled, for it runs once.
    init = jax.jit(objective.init, compiler_options={"xla_backend_optimization_level": 0})
    params = init(jax.random.key(0))
    leaves = jax.tree_util.tree_leaves_with_path(params)
    flat = {"/".join(key.key for key in path): np.asarray(leaf) for path, leaf in leaves}
    return flat, expected(large)


def test_every_leaf_follows_its_distribution(case):
    params, table = case
    gains = "context_network/position/weight_g"  # follows from weight_v, below
    assert set(params) == {*table, gains}
    for path, wanted in table.items():
        value = params[path].ravel()
        assert value.dtype == np.float32
        if isinstance(wanted, int):
            np.testing.assert_array_equal(value, wanted, err_msg=path)
            continue
        # One leaf in ten thousand would fail by chance.
        assert stats.kstest(value, wanted.cdf).pvalue > 1e-4, path
        low, high = wanted.support()
        assert low <= value.min() and value.max() <= high, path
        error = wanted.std() / np.sqrt(value.size)
        assert abs(value.mean() - wanted.mean()) < 4 * error, path
        assert value.std() == pytest.approx(wanted.std(), abs=4 * error), path


def test_weight_norm_starts_at_the_norm_of_each_tap(case):
    params, _ = case
    v, g = (params[f"context_network/position/weight_{n}"] for n in "vg")
    norm = np.sqrt(np.sum(v.astype(float) ** 2, axis=(1, 2), keepdims=True))
    np.testing.assert_allclose(g, norm, rtol=1e-5)


def test_no_two_leaves_or_layers_start_alike(case):
    params, table = case
    seen = []
    for path, wanted in table.items():
        if isinstance(wanted, int):
            continue
        layers = params[path] if "/layers/" in path else [params[path]]
        seen += [np.sort((layer / wanted.std()).ravel()[:24]) for layer in layers]
    close = [np.allclose(a, b) for i, a in enumerate(seen) for b in seen[:i] if len(a) == len(b)]
    assert len(seen) >= 27 and not any(close)
