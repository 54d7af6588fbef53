"""The same numbers as transformers' PyTorch model, from golden files and from the live model."""

import dataclasses
import functools
import importlib.util
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xlsr_jax.interop import huggingface
from xlsr_jax.models.quantizer import perplexity
from xlsr_jax.models.wav2vec2 import ModelConfig
from xlsr_jax.objectives import contrastive, masking
from xlsr_jax.objectives.wav2vec2 import ObjectiveConfig, Wav2Vec2Objective
from xlsr_jax.schema import ConfigError

ROOT = pathlib.Path(__file__).parents[2]
TOLERANCE = 1e-4  # of each array's largest value


def _tool():
    spec = importlib.util.spec_from_file_location("make_golden", ROOT / "tools/make_golden.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


tool = _tool()
CASES = [(source, flavour) for source in ("golden", "live") for flavour in tool.FLAVOURS]


@functools.cache
def _case(source: str, flavour: str) -> dict[str, np.ndarray]:
    if source == "golden":
        with np.load(tool.FOLDER / f"wav2vec2_{flavour}.npz") as arrays:
            return dict(arrays)
    pytest.importorskip("torch", reason="PyTorch is not installed; pip install -e '.[reference]'")
    pytest.importorskip("transformers", reason="pip install -e '.[reference]'")
    return tool.reference(flavour, seed=100)


def _group(case, prefix):
    return {k.removeprefix(prefix): v for k, v in case.items() if k.startswith(prefix)}


def _batch(inputs):
    """A batch in which everything random is given."""
    masked = masking.gather_masked(jnp.asarray(inputs["mask"]), int(inputs["mask"].sum(1).max()))
    positions = np.asarray(masked.positions)
    # Their distractors are frames; ours count masked frames.
    order = np.cumsum(inputs["mask"], axis=1) - 1
    rows = np.arange(len(positions))[:, None]
    distractors = order[rows[..., None], inputs["negatives"][rows, positions]]
    return {
        "waveform": inputs["waveform"].astype(np.float32) / 32768,
        "samples": inputs["samples"],
        "row": np.arange(len(positions), dtype=np.int32),
        "language": np.zeros(len(positions), np.int32),
        "weight": np.ones(len(positions), np.float32),
        "masked": positions,
        "masked_valid": np.asarray(masked.valid),
        "distractors": np.maximum(distractors, 0).astype(np.int32),
        "gumbel": inputs["gumbel"][rows, positions],
    }


def _close(actual, expected, scale=None):
    scale = np.max(np.abs(expected)) if scale is None else scale
    np.testing.assert_allclose(actual, expected, rtol=TOLERANCE, atol=TOLERANCE * scale)


@functools.cache
def _program(flavour: str, mode: str):
    """(params, batch, mask) -> forward pass, sums, gradients; compiled once for all sources."""
    config, train = tool.tiny_config(flavour), mode == "train"
    temperature = tool.GUMBEL_TEMPERATURE
    settings = ObjectiveConfig(
        distractors=tool.DISTRACTORS,
        feature_penalty_weight=0.0,
        # Their diversity is made of hard codes in evaluation, and has no gradient there.
        diversity_weight=0.1 if train else 0.0,
        gumbel_start=temperature,
        gumbel_floor=temperature,
    )
    objective = Wav2Vec2Objective(config, settings)

    def loss(params, batch):
        sums = objective.loss(params, batch, jax.random.key(0), 0, train=train)
        return sums["loss"][0], sums

    def program(params, batch, mask):
        forward = objective.model.apply(
            {"params": params},
            batch["waveform"],
            batch["samples"],
            mask,
            batch["masked"],
            batch["gumbel"] if train else None,
            temperature,
        )
        (_, sums), grads = jax.value_and_grad(loss, has_aux=True)(params, batch)
        return forward, sums, grads

    return jax.jit(program)


@functools.cache
def _ours(source: str, flavour: str, mode: str):
    case = _case(source, flavour)
    params = huggingface.from_state_dict(_group(case, "weight/"), tool.tiny_config(flavour))
    batch = _batch(_group(case, "input/"))
    return batch, *_program(flavour, mode)(params, batch, case["input/mask"])


@pytest.mark.parametrize(("source", "flavour"), CASES)
@pytest.mark.parametrize("mode", ["eval", "train"])
def test_forward_is_theirs(source, flavour, mode):
    """Hidden states (padded frames included), quantized vectors and logits."""
    theirs = _group(_case(source, flavour), f"{mode}/")
    batch, forward, _, _ = _ours(source, flavour, mode)
    if mode == "eval":
        for i, hidden in enumerate([*forward.hidden, forward.last]):
            _close(hidden, theirs[f"hidden/{i}"])
    valid, positions = batch["masked_valid"], batch["masked"]
    take = lambda x: x[np.arange(len(x))[:, None], positions][valid]  # noqa: E731
    _close(forward.targets[valid], take(theirs["targets"]))
    _close(forward.contexts[valid], take(theirs["contexts"]))

    ours = contrastive.logits(forward.contexts, forward.targets, 0.1)
    positive = np.einsum("bmm->bm", ours)[..., None]
    negative = np.take_along_axis(np.asarray(ours), batch["distractors"], axis=2)
    logits = np.concatenate([positive, negative], axis=-1)[valid]
    theirs_logits = take(theirs["logits"])
    kept = np.isfinite(theirs_logits)
    _close(logits[kept], theirs_logits[kept])
    codes = np.asarray(forward.quantized.codes)
    drawn = codes[np.arange(len(codes))[:, None, None], batch["distractors"]]
    equal = (drawn == codes[:, :, None]).all(-1)[valid]
    np.testing.assert_array_equal(equal, ~kept[:, 1:])
    assert equal.any() and not equal.all()  # the case has both kinds


@pytest.mark.parametrize(("source", "flavour"), CASES)
@pytest.mark.parametrize("mode", ["eval", "train"])
def test_losses_and_gradients_are_theirs(source, flavour, mode):
    """Both losses, and the gradient of every parameter; "train" has given Gumbel noise."""
    config, theirs = tool.tiny_config(flavour), _group(_case(source, flavour), f"{mode}/")
    _, _, sums, grads = _ours(source, flavour, mode)
    _close(sums["contrastive_loss"][0], theirs["contrastive_loss"])
    # Their perplexity counts codes in evaluation; ours, as fairseq's, adds up probabilities.
    counts, frames = sums["codes" if mode == "eval" else "probabilities"]
    total = config.groups * config.codewords
    found = perplexity(counts / frames)
    _close(found, theirs["perplexity"])
    _close((total - found) / total * frames, theirs["diversity_loss"])
    if mode == "train":
        _close(sums["diversity"][0], theirs["diversity_loss"])
        _close(sums["loss"][0], theirs["loss"])

    expected = _group(theirs, "gradient/")
    ours = huggingface.to_state_dict(grads, config)
    assert ours.keys() == expected.keys()
    largest = max(np.max(np.abs(g)) for g in expected.values())
    for name, gradient in expected.items():
        # A key's bias shifts all of a query's scores alike: its gradient is zero but for rounding.
        scale = largest if ".k_proj.bias" in name else np.max(np.abs(gradient))
        _close(ours[name], gradient, scale)


@pytest.mark.parametrize("flavour", tool.FLAVOURS)
def test_round_trip(flavour):
    """Their state dict through ours and back is bitwise the same, under both namings."""
    weights, config = _group(_case("golden", flavour), "weight/"), tool.tiny_config(flavour)
    params = huggingface.from_state_dict(weights, config)
    back = huggingface.to_state_dict(params, config)
    assert back.keys() == weights.keys()
    for name, value in weights.items():
        np.testing.assert_array_equal(back[name], value)
    old = huggingface.to_state_dict(params, config, parametrizations=False)
    assert "wav2vec2.encoder.pos_conv_embed.conv.weight_g" in old
    jax.tree.map(np.testing.assert_array_equal, huggingface.from_state_dict(old, config), params)


def test_every_unmatched_key_is_named():
    config = tool.tiny_config("base")
    weights = _group(_case("golden", "base"), "weight/")
    del weights["project_q.bias"], weights["wav2vec2.encoder.layers.1.layer_norm.weight"]
    weights["lm_head.weight"] = np.zeros(3)
    weights["wav2vec2.encoder.layer_norm.bias"] = np.zeros(3)
    with pytest.raises(huggingface.UnmatchedWeights) as error:
        huggingface.from_state_dict(weights, config)
    for part in (
        "missing: wav2vec2.encoder.layers.1.layer_norm.weight, project_q.bias;",
        "unknown: lm_head.weight",
        "of another shape: wav2vec2.encoder.layer_norm.bias",
    ):
        assert part in str(error.value)


def test_config_round_trip():
    config = ModelConfig(encoder_norm="layer", pre_norm=True, dim=96, gelu="tanh", layerdrop=0.2)
    back = huggingface.from_config_json(huggingface.to_config_json(config))
    assert dataclasses.replace(back, feature_grad_scale=config.feature_grad_scale) == config


def test_config_errors_name_the_key():
    values = huggingface.to_config_json(ModelConfig())
    with pytest.raises(ConfigError, match="lacks conv_dim, hidden_size"):
        huggingface.from_config_json(
            {k: v for k, v in values.items() if k not in ("conv_dim", "hidden_size")}
        )
    with pytest.raises(ConfigError, match="hidden_act 'relu'"):
        huggingface.from_config_json(values | {"hidden_act": "relu"})
