"""fairseq's ``.pt``: wav2vec 2.0, XLSR-53, CTC models of them, and UniSpeech.

A file holds ``model``, a state dict, and the configuration of its training, ``cfg`` or, before,
``args``. Nothing of it is run: classes become stand-ins, and the convolutions, which fairseq
evaluates as Python, are read by a small parser.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from xlsr_jax import schema
from xlsr_jax.interop import tokens, torch_files
from xlsr_jax.interop.fairseq_layout import WRAPPED, parse_convolutions, renamed
from xlsr_jax.interop.hub import PRETRAINING, Options, leave_out
from xlsr_jax.interop.pickles import Inert
from xlsr_jax.interop.source import Source
from xlsr_jax.interop.tensors import Tensor, listed
from xlsr_jax.interop.tokens import Tokens
from xlsr_jax.models import unispeech
from xlsr_jax.models.wav2vec2 import ModelConfig
from xlsr_jax.schema import ConfigError
from xlsr_jax.training.checkpoint import CheckpointError

# Settings with the values that fairseq takes where none are given.
SETTINGS = {
    "encoder_layers": ("layers", 12),
    "encoder_embed_dim": ("dim", 768),
    "encoder_ffn_embed_dim": ("ffn", 3072),
    "layer_norm_first": ("pre_norm", False),
    "conv_bias": ("conv_bias", False),
    "conv_pos": ("position_kernel", 128),
    "conv_pos_groups": ("position_groups", 16),
    "latent_groups": ("groups", 2),
    "latent_vars": ("codewords", 320),
    "dropout": ("dropout", 0.1),
    "attention_dropout": ("attention_dropout", 0.1),
    "activation_dropout": ("activation_dropout", 0.0),
    "dropout_input": ("dropout_input", 0.0),
    "dropout_features": ("dropout_features", 0.0),
    "encoder_layerdrop": ("layerdrop", 0.0),
    "feature_grad_mult": ("feature_grad_scale", 1.0),
}
CONVOLUTIONS = "[(512, 10, 5)] + [(512, 3, 2)] * 4 + [(512,2,2)] + [(512,2,2)]"
GELU = {"gelu": "exact", "gelu_fast": "tanh", "gelu_accurate": "tanh"}
NORMS = {"default": "group", "layer_norm": "layer"}
OTHERWISE = {  # what this model has not, unless it is set so
    "quantize_input": False, "target_glu": False, "layer_type": "transformer", "pos_conv_depth": 1,
    "quantizer_depth": 1,
}  # fmt: skip
MOST_TEXT, MOST_ITEMS = 1_000, 100  # characters and items of a setting
_MISSING = object()


def read(path: Path, options: Options) -> Source:
    """The checkpoint in a file.

    Raises:
      CheckpointError, ConfigError: a file that is damaged, or not of these models.
    """
    document = torch_files.load(path)
    state = document.get("model") if isinstance(document, dict) else None
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in state.items()
    ):
        raise CheckpointError(f"{path} is no checkpoint of fairseq: it has no state dict 'model'")
    torch_files.refuse_shared(path, state)
    settings = _Settings(document, path)
    state = dict(state)
    left_out = leave_out(state, options.leave_out)
    wrapped = any(name.startswith(WRAPPED) for name in state)
    arch = str(settings.get("_name", settings.get("arch", "wav2vec2")))
    is_unispeech = "unispeech" in arch or settings.get("transpose", None) is not None
    method = ("unispeech" if is_unispeech else "finetune") if wrapped else "wav2vec2"
    prefix = "unispeech" if method == "unispeech" else "wav2vec2"
    architecture = {
        "wav2vec2": "Wav2Vec2ForPreTraining", "finetune": "Wav2Vec2ForCTC",
        "unispeech": "UniSpeechForPreTraining",
    }[method]  # fmt: skip
    head = "ctc_proj." if method == "unispeech" else "lm_head."
    found, names = {}, {}
    for name, tensor in state.items():
        theirs = renamed(name, prefix, head)
        if method == "finetune" and theirs.split(".")[0] in PRETRAINING:
            left_out[name] = "of pretraining; a classifier does not read it"
        elif theirs in found:
            raise CheckpointError(f"{path}: {name} and {names[theirs]} are one parameter")
        else:
            found[theirs], names[theirs] = tensor, name
    classes, vocabulary = 0, None
    if wrapped:
        shape = found[head + "weight"].shape if head + "weight" in found else (0,)
        classes = shape[0] if shape else 0
        vocabulary = _tokens(path, document, options)
    elif options.vocabulary is not None:
        raise ConfigError(f"{path} has no classifier, and so no use for --vocabulary")
    model = _model(path, settings, method, found)
    filled = {}
    projection = f"{prefix}.feature_projection.projection"
    if projection + ".weight" not in found and model.conv_dims[-1] == model.dim:
        # It would be left out of their model too.
        found[projection + ".weight"] = np.eye(model.dim, dtype=np.float32)
        found[projection + ".bias"] = np.zeros(model.dim, np.float32)
        filled = {projection + ".weight": "identity", projection + ".bias": "0"}
    normalize, note = _normalize(settings, model)
    notes = [note]
    if vocabulary is None and classes:
        vocabulary = tokens.numbered(classes, 0)
        notes.append("no dict.*.txt: symbols are called by their numbers; --vocabulary names it")
    return Source(
        path=path,
        kind=f"fairseq {arch}",
        architecture=architecture,
        method=method,
        model=model,
        classes=classes,
        tensors=found,
        normalize=normalize,
        names=names,
        left_out=left_out,
        filled=filled,
        tokens=vocabulary,
        objective=_objective(settings, method),
        updates=_updates(document),
        notes=tuple(notes),
    )


class _Settings:
    """The configuration, where it is: that of the model inside a classifier before the rest."""

    def __init__(self, document: Mapping[str, Any], path: Path) -> None:
        config, arguments = _plain(document.get("cfg")), _plain(document.get("args"))
        if config:
            model, self.task = _plain(config.get("model")) or {}, _plain(config.get("task")) or {}
        elif arguments:
            model = self.task = arguments
        else:
            raise ConfigError(
                f"{path} has neither cfg nor args: without its configuration nobody knows its "
                "numbers of heads"
            )
        inner = _plain(model.get("w2v_args")) or {}
        self.criterion = _plain((config or {}).get("criterion")) or arguments or {}
        self.nodes = [_plain(inner.get("model")) or inner, model]

    def get(self, name: str, default: Any = _MISSING) -> Any:
        for node in self.nodes:
            value = _simple(name, node.get(name))
            if value is not None:
                return value
        if default is _MISSING:
            raise ConfigError(f"the configuration does not say {name}, which tensors do not tell")
        return default


def _simple(name: str, value: Any) -> Any:
    """A setting: a number, a text, or a flat list of them."""
    value = _value(value)
    parts = _items(value)
    for part in [value] if parts is None else parts:
        plain = part is None or isinstance(part, int | float | str)
        huge = isinstance(part, int) and part.bit_length() > 64
        if not plain or huge or isinstance(part, str) and len(part) > MOST_TEXT:
            raise ConfigError(f"the configuration's {name} is no number, text, or list of them")
    return value if parts is None else parts


def _items(value: Any) -> list[Any] | None:
    """What a list holds, also one of omegaconf; None where it is none."""
    if isinstance(value, Inert):
        value = value.state.get("_content")
    if not isinstance(value, list | tuple):
        return None
    return [_value(item) for item in value[:MOST_ITEMS]]


def _value(value: Any) -> Any:
    """What a node of omegaconf, or a member of an enumeration, stands for."""
    if isinstance(value, Inert):
        if "_val" in value.state:
            return value.state["_val"]
        if len(value.arguments) == 1 and isinstance(value.arguments[0], str):
            return value.arguments[0]
    return value


def _plain(value: Any) -> dict[Any, Any] | None:
    """Attributes or items of a configuration; None where it is none."""
    value = _value(value)  # fairseq keeps a Namespace as a node of omegaconf
    if isinstance(value, Inert):
        value = value.state.get("_content", value.state)
    return value if isinstance(value, dict) and value else None


def _model(
    path: Path, settings: _Settings, method: str, found: Mapping[str, Tensor]
) -> ModelConfig:
    for name, wanted in OTHERWISE.items():
        if settings.get(name, wanted) != wanted:
            raise ConfigError(f"{path} has {name}={settings.get(name)!r}, which this model has not")
    values = {ours: settings.get(name, value) for name, (ours, value) in SETTINGS.items()}
    values["heads"] = settings.get("encoder_attention_heads")
    layers = parse_convolutions(settings.get("conv_feature_layers", CONVOLUTIONS))
    values["conv_dims"], values["conv_kernels"], values["conv_strides"] = zip(*layers, strict=True)
    for name, default, ours, known in (
        ("extractor_mode", "default", "encoder_norm", NORMS),
        ("activation_fn", "gelu", "gelu", GELU),
    ):
        value = settings.get(name, default)
        if not isinstance(value, str) or value not in known:
            raise ConfigError(f"{path} has {name}={value!r}; known are {', '.join(known)}")
        values[ours] = known[value]
    values["final_dim"] = settings.get("final_dim", 0) or values["dim"]
    values["code_dim"] = settings.get("latent_dim", 0) or values["final_dim"]
    cls = ModelConfig
    if method == "unispeech":
        cls = unispeech.ModelConfig
        transposed = bool(settings.get("transpose", False))
        values["targets"] = "context_width" if transposed else "final_dim"
        values["final_dropout"] = settings.get("final_dropout", 0.1)
    try:
        return schema.from_mapping(cls, values, "model")
    except (ConfigError, TypeError, ZeroDivisionError) as error:
        raise ConfigError(f"{path}: {error}") from error


def _objective(settings: _Settings, method: str) -> dict[str, Any]:
    get = settings.get
    if method == "finetune":
        outer = settings.nodes[1]  # masks of fine-tuning, not of the pretraining before it
        theirs = {"mask_prob": "mask_prob", "mask_length": "mask_length",
                  "mask_channel_prob": "channel_prob", "mask_channel_length": "channel_length",
                  "final_dropout": "final_dropout"}  # fmt: skip
        found = {ours: _simple(name, outer.get(name)) for name, ours in theirs.items()}
        return {name: value for name, value in found.items() if value is not None}
    objective = {
        "mask_prob": get("mask_prob", 0.65),
        "mask_length": get("mask_length", 10),
        "distractors": get("num_negatives", 100),
        "temperature": get("logit_temp", 0.1),
    }
    falling = _numbers(get("latent_temp", (2, 0.5, 0.999995)))
    if len(falling) == 3:
        names = ("gumbel_start", "gumbel_floor", "gumbel_decay")
        objective |= dict(zip(names, falling, strict=True))
    weights = _numbers(_simple("loss_weights", settings.criterion.get("loss_weights")))
    if weights:
        objective["diversity_weight"] = weights[0]
        objective["feature_penalty_weight"] = weights[1] if len(weights) > 1 else 0.0
    return objective


def _numbers(value: Any) -> list[float]:
    """Numbers of a list, or of its text."""
    if isinstance(value, str):
        return [float(part) for part in re.findall(r"\d+(?:\.\d+)?(?:[eE]-?\d+)?", value[:200])]
    values = value if isinstance(value, list | tuple) else []
    return [float(item) for item in values if isinstance(item, int | float)]


def _normalize(settings: _Settings, model: ModelConfig) -> tuple[bool, str]:
    for node in (settings.task, *settings.nodes):
        value = _value(node.get("normalize"))
        if isinstance(value, bool):
            return value, f"normalisation of waveforms {value}, as its configuration says"
    value = model.encoder_norm == "layer"
    return value, (
        f"its configuration is silent: normalisation of waveforms {value}, as published models "
        f"with a {model.encoder_norm} norm have it"
    )


def _tokens(path: Path, document: Mapping[str, Any], options: Options) -> Tokens | None:
    if options.vocabulary is not None:
        return tokens.read_fairseq(options.vocabulary)
    beside = sorted(path.parent.glob("dict.*.txt"))
    if len(beside) > 1:
        names = listed([file.name for file in beside])
        raise ConfigError(f"{path.parent} has {names}; say by --vocabulary=FILE which it is")
    if beside:
        return tokens.read_fairseq(beside[0])
    task = _plain(document.get("task_state")) or {}
    symbols = (_plain(task.get("target_dictionary")) or {}).get("symbols")
    if isinstance(symbols, list) and all(isinstance(symbol, str) for symbol in symbols):
        return tokens.of_fairseq(tuple(symbols), f"inside {path}")
    return None


def _updates(document: Mapping[str, Any]) -> int:
    history = document.get("optimizer_history")
    last = history[-1] if isinstance(history, list) and history else {}
    updates = last.get("num_updates") if isinstance(last, dict) else 0
    return updates if type(updates) is int and 0 <= updates < 2**31 else 0
