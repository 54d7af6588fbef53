"""Weights and config.json of transformers' wav2vec 2.0 and UniSpeech, for pretraining and CTC.

Names are matched whole, one to one, and every key left over on either side is reported. State
dicts hold NumPy arrays; PyTorch is not needed. Layouts: PyTorch's linear kernels are transposed,
its convolutions [out, in, k] become [k, in, out], and a layer's parameters are one slice of a
stacked array.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from xlsr_jax.models import unispeech
from xlsr_jax.models.wav2vec2 import ModelConfig, Wav2Vec2
from xlsr_jax.schema import ConfigError

Array = np.ndarray


MOST_NAMES = 12  # of one kind in a message


class UnmatchedWeights(ValueError):
    """A state dict that is not of this model; the message lists the keys that do not match."""


class Entry(NamedTuple):
    """One parameter of theirs and its place with us.

    Attributes:
      theirs: key of the state dict.
      ours: path in the parameter tree.
      layer: index on the leading axis of our array, or None.
      load, save: layout from theirs to ours and back.
    """

    theirs: str
    ours: tuple[str, ...]
    layer: int | None
    load: Callable[[Array], Array]
    save: Callable[[Array], Array]


# Since PyTorch 2.1 a weight-normalised layer may store its two parts under other names.
WEIGHT_NORM = "encoder.pos_conv_embed.conv."
ALIASES = {
    f"{model}.{WEIGHT_NORM}{before}": f"{model}.{WEIGHT_NORM}parametrizations.weight.{now}"
    for model in ("wav2vec2", "unispeech")
    for before, now in (("weight_g", "original0"), ("weight_v", "original1"))
}

LAYER_NAMES = {
    "attention.q_proj": "query",
    "attention.k_proj": "key",
    "attention.v_proj": "value",
    "attention.out_proj": "out",
    "feed_forward.intermediate_dense": "ffn_in",
    "feed_forward.output_dense": "ffn_out",
}
LAYER_NORMS = {"layer_norm": "attention_norm", "final_layer_norm": "ffn_norm"}


def from_state_dict(
    state: Mapping[str, Array],
    config: ModelConfig,
    classes: int = 0,
    *,
    architecture: str = "",
    optional: Collection[str] = (),
) -> dict[str, Any]:
    """Our parameters, fp32, from their state dict.

    Args:
      state: NumPy arrays, or what has a ``shape`` and becomes one when it is asked to; read one at
        a time.
      classes: outputs of ``Wav2Vec2ForCTC``; 0 for ``Wav2Vec2ForPreTraining``. With the settings
        of UniSpeech, of the classifier that it is pretrained with.
      architecture: as in ``entries``.
      optional: keys that may be missing; then so are our parameters.

    Raises:
      UnmatchedWeights: naming every missing key, every key of theirs that has no place with us,
        and every key of another shape, or with NaN or infinity in it.
    """
    state = dict(state)
    for name, alias in ALIASES.items():
        if alias in state:
            state[name] = state.pop(alias)
    shapes = _shapes(config, classes)
    params: dict[str, Any] = {}
    missing, misshapen, broken = [], [], []
    for entry in entries(config, classes, architecture):
        if entry.theirs not in state:
            if entry.theirs not in optional:
                missing.append(entry.theirs)
            continue
        theirs = state.pop(entry.theirs)
        shape = shapes[entry.ours] if entry.layer is None else shapes[entry.ours][1:]
        if _shape_of(entry.load, theirs.shape) != shape:
            wanted = list(_shape_of(entry.save, shape))
            misshapen.append(f"{entry.theirs} {list(theirs.shape)} for {wanted}")
            continue
        value = entry.load(np.asarray(theirs, np.float32))
        if not np.isfinite(np.sum(value, dtype=np.float64)):
            broken.append(entry.theirs)
            continue
        _put(params, entry, value, config.layers)
    if missing or misshapen or state or broken:
        raise UnmatchedWeights(_report(missing, sorted(state), misshapen, broken))
    return params


def to_state_dict(
    params: Mapping[str, Any],
    config: ModelConfig,
    *,
    classes: int = 0,
    parametrizations: bool = True,
    architecture: str = "",
) -> dict[str, Array]:
    """Their state dict, fp32, from our parameters (without those of a warm start's head).

    Args:
      classes: as in ``from_state_dict``.
      parametrizations: name the weight-normalised parts as PyTorch does now, not as before 2.1.
      architecture: as in ``entries``.

    Raises:
      UnmatchedWeights: naming every parameter of ours that has no place with them.
    """
    ours = {path: np.asarray(value, np.float32) for path, value in _leaves(params)}
    theirs = list(entries(config, classes, architecture))
    known = {entry.ours for entry in theirs}
    extra = sorted("/".join(p) for p in ours.keys() - known if p[0] != "log_mel_head")
    missing = sorted("/".join(path) for path in known - ours.keys())
    if extra or missing:
        raise UnmatchedWeights(_report(missing, extra, [], []))
    state = {}
    for entry in theirs:
        value = ours[entry.ours]
        name = ALIASES.get(entry.theirs, entry.theirs) if parametrizations else entry.theirs
        value = entry.save(value if entry.layer is None else value[entry.layer])
        state[name] = np.ascontiguousarray(value)
    return state


def entries(config: ModelConfig, classes: int = 0, architecture: str = "") -> Iterator[Entry]:
    """Every parameter of the model, once.

    Args:
      classes: as in ``from_state_dict``.
      architecture: their class, where settings and classes do not tell: "UniSpeechForCTC" has the
        settings of wav2vec 2.0, "Wav2Vec2Model" and "UniSpeechModel" no heads.
    """

    def plain(theirs, *ours, layer=None):
        yield Entry(theirs, ours, layer, lambda x: x, lambda x: x)

    def linear(theirs, *ours, layer=None):
        yield Entry(theirs + ".weight", (*ours, "kernel"), layer, np.transpose, np.transpose)
        yield from plain(theirs + ".bias", *ours, "bias", layer=layer)

    def norm(theirs, *ours, layer=None):
        yield from plain(theirs + ".weight", *ours, "scale", layer=layer)
        yield from plain(theirs + ".bias", *ours, "bias", layer=layer)

    reverse = lambda x: x.transpose(2, 1, 0)  # noqa: E731
    is_unispeech = isinstance(config, unispeech.ModelConfig)
    named_unispeech = architecture.startswith("UniSpeech") or (is_unispeech and not architecture)
    model = "unispeech" if named_unispeech else "wav2vec2"
    for i in range(len(config.conv_dims)):
        theirs = f"{model}.feature_extractor.conv_layers.{i}"
        ours = ("feature_encoder", f"conv_{i}")
        yield Entry(f"{theirs}.conv.weight", (*ours, "kernel"), None, reverse, reverse)
        if config.conv_bias:
            yield from plain(f"{theirs}.conv.bias", *ours, "bias")
        if config.encoder_norm == "layer" or i == 0:
            yield from norm(f"{theirs}.layer_norm", "feature_encoder", f"norm_{i}")
    yield from norm(f"{model}.feature_projection.layer_norm", "feature_norm")
    yield from linear(f"{model}.feature_projection.projection", "feature_projection")
    yield from plain(f"{model}.masked_spec_embed", "mask_embedding")

    position = ("context_network", "position")
    for part in ("weight_g", "weight_v"):
        theirs = f"{model}.{WEIGHT_NORM}{part}"
        yield Entry(theirs, (*position, part), None, reverse, reverse)
    yield from plain(f"{model}.{WEIGHT_NORM}bias", *position, "bias")
    yield from norm(f"{model}.encoder.layer_norm", "context_network", "norm")
    for i in range(config.layers):
        theirs, ours = f"{model}.encoder.layers.{i}", ("context_network", "layers")
        for name, our_name in LAYER_NAMES.items():
            yield from linear(f"{theirs}.{name}", *ours, our_name, layer=i)
        for name, our_name in LAYER_NORMS.items():
            yield from norm(f"{theirs}.{name}", *ours, our_name, layer=i)

    if architecture.endswith("Model"):
        return
    if classes and not is_unispeech:
        yield from linear("lm_head", "output")
        return
    codebook = (config.groups, config.codewords, config.code_dim // config.groups)
    yield Entry(
        "quantizer.codevectors",
        ("quantizer", "codebook"),
        None,
        lambda x: x.reshape(codebook) if x.size == np.prod(codebook) else x,
        lambda x: x.reshape(1, -1, codebook[-1]),
    )
    yield from linear("quantizer.weight_proj", "quantizer", "logits")
    yield from linear("project_q", "quantized_projection")
    if is_unispeech and config.targets == "context_width":
        yield from linear("project_hid", "target_projection")
    else:
        yield from linear("project_hid", "context_projection")
    if is_unispeech and classes:
        yield from linear("ctc_proj", "ctc_output")


# config.json key -> our setting, where the value is the same.
SAME = {
    "hidden_size": "dim",
    "num_hidden_layers": "layers",
    "num_attention_heads": "heads",
    "intermediate_size": "ffn",
    "hidden_dropout": "dropout",
    "attention_dropout": "attention_dropout",
    "activation_dropout": "activation_dropout",
    "feat_proj_dropout": "dropout_input",
    "feat_quantizer_dropout": "dropout_features",
    "layerdrop": "layerdrop",
    "feat_extract_norm": "encoder_norm",
    "conv_bias": "conv_bias",
    "num_conv_pos_embeddings": "position_kernel",
    "num_conv_pos_embedding_groups": "position_groups",
    "do_stable_layer_norm": "pre_norm",
    "num_codevectors_per_group": "codewords",
    "num_codevector_groups": "groups",
    "codevector_dim": "code_dim",
    "proj_codevector_dim": "final_dim",
}
SEQUENCES = {"conv_dim": "conv_dims", "conv_kernel": "conv_kernels", "conv_stride": "conv_strides"}
GELU = {"gelu": "exact", "gelu_new": "tanh", "gelu_pytorch_tanh": "tanh"}


def to_config_json(config: ModelConfig) -> dict[str, Any]:
    """The config.json of ``Wav2Vec2ForPreTraining``."""
    activation = "gelu" if config.gelu == "exact" else "gelu_pytorch_tanh"
    return {
        "architectures": ["Wav2Vec2ForPreTraining"],
        "model_type": "wav2vec2",
        **{theirs: getattr(config, ours) for theirs, ours in SAME.items()},
        **{theirs: list(getattr(config, ours)) for theirs, ours in SEQUENCES.items()},
        "num_feat_extract_layers": len(config.conv_dims),
        "hidden_act": activation,
        "feat_extract_activation": activation,
        "layer_norm_eps": 1e-5,
        # Without a probability of masking the model would be made without a mask embedding.
        "mask_time_prob": 0.65,
        "vocab_size": 32,
    }


def from_config_json(values: Mapping[str, Any]) -> ModelConfig:
    """Our settings from a config.json; the feature-gradient scale, which it lacks, is 1.

    Raises:
      ConfigError: for a key that is missing, or an activation or epsilon that we do not have.
    """
    missing = sorted((SAME.keys() | SEQUENCES.keys()) - values.keys())
    if missing:
        raise ConfigError(f"config.json lacks {', '.join(missing)}; save it with config.to_dict()")
    activation = values.get("hidden_act", "gelu")
    if activation not in GELU or values.get("feat_extract_activation", "gelu") != activation:
        raise ConfigError(
            f"config.json: hidden_act {activation!r} with feat_extract_activation "
            f"{values.get('feat_extract_activation', 'gelu')!r}; both must be the same, one of "
            f"{', '.join(GELU)}"
        )
    if values.get("layer_norm_eps", 1e-5) != 1e-5:
        raise ConfigError(f"config.json: layer_norm_eps {values['layer_norm_eps']} must be 1e-5")
    if values.get("add_adapter"):
        raise ConfigError("config.json: add_adapter is set; convert a checkpoint without adapters")
    return ModelConfig(
        **{ours: values[theirs] for theirs, ours in SAME.items()},
        **{ours: tuple(values[theirs]) for theirs, ours in SEQUENCES.items()},
        gelu=GELU[activation],
        feature_grad_scale=1.0,
    )


def _shapes(config: ModelConfig, classes: int) -> dict[tuple[str, ...], tuple[int, ...]]:
    """Shape of every parameter of ours, from the model itself."""
    import jax

    is_unispeech = isinstance(config, unispeech.ModelConfig)
    model = unispeech.UniSpeech(config, classes=classes) if is_unispeech else Wav2Vec2(config)
    samples, _ = config.geometry
    f32, i32 = np.float32, np.int32
    shape = lambda dims, dtype: jax.ShapeDtypeStruct(dims, dtype)  # noqa: E731
    inputs = shape((1, samples), f32), shape((1,), i32), shape((1, 1), bool), shape((1, 1), i32)
    params = jax.eval_shape(model.init, jax.random.key(0), *inputs)["params"]
    shapes = {path: leaf.shape for path, leaf in _leaves(params)}
    output = {("output", "kernel"): (config.dim, classes), ("output", "bias"): (classes,)}
    return shapes | output


def _leaves(tree: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[Any, Any]]:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, (*path, name))
        else:
            yield (*path, name), value


def _put(params: dict[str, Any], entry: Entry, value: Array, num_layers: int) -> None:
    for name in entry.ours[:-1]:
        params = params.setdefault(name, {})
    if entry.layer is None:
        params[entry.ours[-1]] = value
    else:
        stacked = np.empty((num_layers, *value.shape), np.float32)
        params.setdefault(entry.ours[-1], stacked)[entry.layer] = value


def _shape_of(layout: Callable[[Array], Array], shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape of an array in another layout; () where it has not the axes for it."""
    try:
        return layout(np.broadcast_to(np.float32(0), shape)).shape
    except ValueError:
        return ()


def _report(missing: list[str], unknown: list[str], misshapen: list[str], broken: list[str]) -> str:
    parts = []
    for what, names in (
        ("missing", missing),
        ("unknown", unknown),
        ("of another shape", misshapen),
        ("with NaN or infinity", broken),
    ):
        if names:
            rest = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
            shown = (ascii(name)[1:-1] for name in names[:MOST_NAMES])  # files choose their names
            parts.append(f"{what}: {', '.join(shown)}{rest}")
    return f"weights do not match the model; {'; '.join(parts)}"
