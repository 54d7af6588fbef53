"""Folders of the Hugging Face hub: which class, what its files say, and its tensors.

Read are ``Wav2Vec2ForPreTraining``, ``Wav2Vec2ForCTC``, ``Wav2Vec2Model`` and UniSpeech's three.
Weights are ``model.safetensors``, whole or in shards; a ``pytorch_model.bin``, which is a pickle,
is read where it is named itself.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from xlsr_jax import schema
from xlsr_jax.data.records import SAMPLE_RATE
from xlsr_jax.interop import huggingface, tokens, torch_files
from xlsr_jax.interop.source import MASK, Source
from xlsr_jax.interop.tensors import Tensor, read_json, read_safetensors, read_shards
from xlsr_jax.models import unispeech
from xlsr_jax.models.wav2vec2 import ModelConfig
from xlsr_jax.schema import ConfigError
from xlsr_jax.training.checkpoint import CheckpointError

SAFE = ("model.safetensors", "model.safetensors.index.json")
PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json")
MODELS = {"wav2vec2": "Wav2Vec2", "unispeech": "UniSpeech"}
KINDS = ("ForPreTraining", "ForCTC", "Model")
TRUNK = ("feature_extractor", "feature_projection", "encoder", MASK)
PRETRAINING = ("quantizer", "project_q", "project_hid")

# What a config.json may lack because it was written by an early version: the class's defaults.
# Sizes that its tensors tell are compared with them; numbers of heads and layers must be there.
DEFAULTS = {
    "hidden_dropout": 0.1, "attention_dropout": 0.1, "activation_dropout": 0.1,
    "feat_proj_dropout": 0.0, "feat_quantizer_dropout": 0.0, "layerdrop": 0.1,
    "feat_extract_norm": "group", "conv_bias": False, "do_stable_layer_norm": False,
    "num_conv_pos_embeddings": 128, "num_conv_pos_embedding_groups": 16,
    "num_codevectors_per_group": 320, "num_codevector_groups": 2,
    "codevector_dim": 256, "proj_codevector_dim": 256,
}  # fmt: skip
KEPT = ("ctc_loss_reduction", "ctc_zero_infinity")
REFUSED = {"add_adapter": False, "use_weighted_layer_sum": False, "adapter_attn_dim": None}


@dataclasses.dataclass(frozen=True)
class Options:
    """What the one who imports may say.

    Attributes:
      vocabulary: file of the classifier's tokens, where it is not where it is looked for.
      leave_out: tensors that are passed over, or what their names begin with.
      languages: of the vocabulary.
      unit: "characters" or "phonemes"; "" where the files tell.
    """

    vocabulary: Path | None = None
    leave_out: tuple[str, ...] = ()
    languages: tuple[str, ...] = ()
    unit: str = ""


def read(path: Path, options: Options) -> Source:
    """The checkpoint in a folder, or in the file of weights given.

    Raises:
      CheckpointError, ConfigError: files that are missing, damaged, or not of these classes.
    """
    folder = path if path.is_dir() else path.parent
    values = read_json(folder / "config.json")
    found = _tensors(path)
    left_out = leave_out(found, options.leave_out)
    kind, architecture = _architecture(folder, values, found)
    model, prefix = _model(folder, values, architecture), values["model_type"]
    own = {_whole(name, prefix): name for name in found}
    found = {whole: found[name] for whole, name in own.items()}
    old = f"{prefix}.mask_time_emb_vector"  # of the first versions
    if old in found:
        place = f"{prefix}.{MASK}"
        if place in found:
            left_out[old], _ = f"the model reads {place}", found.pop(old)
        else:
            found[place], own[place] = found.pop(old), old
    method, classes, names, pad = "wav2vec2", 0, None, None
    if architecture.endswith("ForCTC"):
        method, classes = "finetune", _size(values, "vocab_size", 32)
        pad = _size(values, "pad_token_id", 0)
        for name in [name for name in found if name.split(".")[0] in PRETRAINING]:
            left_out[name], _ = "of pretraining; a classifier does not read it", found.pop(name)
    elif isinstance(model, unispeech.ModelConfig):
        method = "unispeech"
        classes = 0 if kind == "Model" else _size(values, "num_ctc_classes", 80)
    notes = []
    if classes:
        names = tokens.read_hub(folder, options.vocabulary, classes, pad)
        if names is None:
            blank = _size(values, "pad_token_id", 0)
            if blank >= classes:
                raise ConfigError(f"{folder}: pad_token_id {blank} is none of {classes} outputs")
            names = tokens.numbered(classes, blank)
            notes.append(
                "no vocab.json: symbols are called by their numbers; --vocabulary names it"
            )
    elif options.vocabulary is not None:
        raise ConfigError(f"{path} has no classifier, and so no use for --vocabulary")
    normalize, said = _normalize(folder, model)
    return Source(
        path=path,
        kind=architecture,
        architecture=architecture,
        method=method,
        model=model,
        classes=classes,
        tensors=found,
        normalize=normalize,
        names=own,
        left_out=left_out,
        tokens=names,
        objective=_objective(values, method, model),
        kept={name: values[name] for name in KEPT if name in values},
        notes=(*notes, said),
    )


def leave_out(found: dict[str, Tensor], names: Iterable[str]) -> dict[str, str]:
    """Takes tensors out of ``found`` by name, or by the beginning of their names up to a dot.

    Raises:
      ConfigError: where there are none of that name.
    """
    gone = {}
    for wanted in names:
        here = [name for name in found if name == wanted or name.startswith(wanted + ".")]
        if not here:
            raise ConfigError(f"--leave_out={wanted}: there is no such tensor")
        for name in here:
            del found[name]
            gone[name] = "asked for by --leave_out"
    return gone


def _tensors(path: Path) -> dict[str, Tensor]:
    if not path.is_dir():
        read = torch_files.load_tensors if ".bin" in path.name else read_safetensors
        return read_shards(path, read) if path.suffix == ".json" else read(path)
    for name in SAFE:
        if (path / name).is_file():
            return _tensors(path / name)
    for name in PICKLES:
        if (path / name).is_file():
            raise CheckpointError(
                f"{path} has its weights as {name} alone, a pickle; to have that read, by a reader "
                f"that runs nothing, name the file: {path / name}"
            )
    raise CheckpointError(f"{path} has no {SAFE[0]}; is it a folder of the Hugging Face hub?")


def _architecture(
    folder: Path, values: Mapping[str, Any], found: Mapping[str, Tensor]
) -> tuple[str, str]:
    """ "ForCTC" and "Wav2Vec2ForCTC": as config.json says, else as the tensors do."""
    model_type = values.get("model_type")
    if not isinstance(model_type, str) or model_type not in MODELS:
        known = " and ".join(MODELS)
        raise ConfigError(
            f"{folder}: model_type is {model_type!r} in config.json; read are {known}"
        )
    said = values.get("architectures") or []
    if isinstance(said, list) and said:
        for kind in KINDS:
            if said[0] == MODELS[model_type] + kind:
                return kind, said[0]
        known = ", ".join(MODELS[model_type] + kind for kind in KINDS)
        raise ConfigError(f"{folder}: architectures is {said} in config.json; read are {known}")
    heads = {name.split(".")[0] for name in found}
    kind = "ForPreTraining" if "quantizer" in heads else "ForCTC" if "lm_head" in heads else "Model"
    return kind, MODELS[model_type] + kind


def _model(folder: Path, values: Mapping[str, Any], architecture: str) -> ModelConfig:
    values = DEFAULTS | values
    for name, wanted in REFUSED.items():
        if values.get(name, wanted) != wanted:
            raise ConfigError(f"{folder}: config.json sets {name}, which this model has not")
    convolutions, widths = values.get("num_feat_extract_layers"), values.get("conv_dim")
    if convolutions is not None and isinstance(widths, list) and convolutions != len(widths):
        raise ConfigError(
            f"{folder} contradicts itself: num_feat_extract_layers is {convolutions} and conv_dim "
            f"{widths}"
        )
    try:
        settings = dataclasses.asdict(huggingface.from_config_json(values))
        settings["feature_grad_scale"] = 0.1 if settings["encoder_norm"] == "group" else 1.0
        cls = ModelConfig
        if architecture in ("UniSpeechForPreTraining", "UniSpeechModel"):
            cls, settings["targets"] = unispeech.ModelConfig, "context_width"
            settings["final_dropout"] = values.get("final_dropout", 0.1)
        return schema.from_mapping(cls, settings, "model")
    except (ConfigError, TypeError, ZeroDivisionError, OverflowError) as error:
        said = str(error).removeprefix("config.json: ")
        raise ConfigError(f"{folder / 'config.json'}: {said}") from error


def _objective(values: Mapping[str, Any], method: str, model: ModelConfig) -> dict[str, Any]:
    """What config.json says of training; masks of pretraining it does not say."""
    if method == "finetune":
        theirs = {
            "mask_time_prob": "mask_prob", "mask_time_length": "mask_length",
            "mask_time_min_masks": "mask_min_spans", "mask_feature_prob": "channel_prob",
            "mask_feature_length": "channel_length", "final_dropout": "final_dropout",
        }  # fmt: skip
        return {ours: values[name] for name, ours in theirs.items() if name in values}
    theirs = {
        "num_negatives": "distractors",
        "contrastive_logits_temperature": "temperature",
        "diversity_loss_weight": "diversity_weight",
    }
    objective = {ours: values[name] for name, ours in theirs.items() if name in values}
    if model.encoder_norm == "layer":  # as the published Large models were trained
        objective |= {"gumbel_floor": 0.1, "feature_penalty_weight": 0.0}
    return objective


def _normalize(folder: Path, model: ModelConfig) -> tuple[bool, str]:
    """Whether waveforms are normalised, and what says so."""
    for name in ("preprocessor_config.json", "processor_config.json"):
        if (folder / name).is_file():
            values = read_json(folder / name)
            inner = values.get("feature_extractor")
            values = inner if isinstance(inner, dict) else values
            rate = values.get("sampling_rate", SAMPLE_RATE)
            if rate != SAMPLE_RATE:
                raise ConfigError(f"{folder / name}: sampling_rate {rate} is not {SAMPLE_RATE}")
            if isinstance(normalize := values.get("do_normalize", True), bool):
                return normalize, f"normalisation of waveforms {normalize}, as {name} says"
            raise ConfigError(f"{folder / name}: do_normalize is neither true nor false")
    normalize = model.encoder_norm == "layer"
    return normalize, (
        f"no preprocessor_config.json: normalisation of waveforms {normalize}, as published models "
        f"with a {model.encoder_norm} norm have it"
    )


def _whole(name: str, prefix: str) -> str:
    """A bare model's names stand under its model's in the others."""
    return f"{prefix}.{name}" if name.split(".")[0] in TRUNK else name


def _size(values: Mapping[str, Any], name: str, default: int) -> int:
    value = values.get(name, default)
    if value is None:
        return default
    if type(value) is not int or value < 0:
        raise ConfigError(f"config.json: {name} must be a number of outputs; got {value!r}")
    return value
