"""The JSON files that ``transformers`` wants beside the weights of a wav2vec 2.0 or UniSpeech.

config.json, preprocessor_config.json, vocab.json, tokenizer_config.json, special_tokens_map.json.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from xlsr_jax.config import Config
from xlsr_jax.data.records import SAMPLE_RATE
from xlsr_jax.interop import huggingface
from xlsr_jax.interop.tokens import Tokens
from xlsr_jax.models import unispeech
from xlsr_jax.schema import ConfigError
from xlsr_jax.text.vocabulary import DELIMITER, Vocabulary

PADS = ("<pad>", "[PAD]", "<ctc>")  # what the blank is called: the first that is no symbol
BEGIN = "<s>"
SPECIAL = {  # the first that is among the tokens
    "bos_token": (BEGIN,), "eos_token": ("</s>",), "unk_token": ("<unk>", "[UNK]"),
}  # fmt: skip
OUR_LOSS = {"ctc_loss_reduction": "sum", "ctc_zero_infinity": True}
IMPORTED = ("UniSpeechForCTC", "Wav2Vec2Model", "UniSpeechModel")  # what no method tells

JSON = dict[str, Any]


def architecture(config: Config, imported: str = "") -> str:
    """Name of the ``transformers`` class that computes what the run's network does.

    Args:
      imported: what an imported checkpoint was, which goes out as it came.

    Raises:
      ConfigError: for a network that they do not have.
    """
    if imported in IMPORTED:
        return imported
    model, objective = config.model, config.objective
    mend = "; export it with --format=safetensors"
    if config.method == "wav2vec2":
        return "Wav2Vec2ForPreTraining"
    if config.method == "unispeech":
        if model.targets != "context_width":
            raise ConfigError(f"transformers' UniSpeech has no model.targets={model.targets}{mend}")
        return "UniSpeechForPreTraining"
    if config.method != "finetune":
        raise ConfigError(f"transformers has no network of method {config.method}{mend}")
    plain = {"target": "ctc", "layer": -1, "head_kernel": 1, "head_stride": 1}
    for name, value in plain.items():
        if getattr(objective, name) != value:
            raise ConfigError(
                f"transformers has no classifier with objective.{name}="
                f"{getattr(objective, name)}{mend}"
            )
    return "Wav2Vec2ForCTC"


def config_json(
    config: Config,
    name: str,
    classes: int,
    tokens: Tokens | None = None,
    masked: bool = True,
    source: Mapping[str, Any] | None = None,
) -> JSON:
    """config.json of the class ``name``, as ``architecture`` gives it.

    Args:
      classes: outputs of its classifier; 0 for none.
      tokens: of the classifier; None where there is none.
      masked: whether there is a mask embedding; theirs is made with one where masks are probable.
      source: what an import noted about where it came from; None for a run made here.
    """
    objective = config.objective
    values = huggingface.to_config_json(config.model)
    values["architectures"] = [name]
    values["model_type"] = "unispeech" if name.startswith("UniSpeech") else "wav2vec2"
    values |= {
        "mask_time_prob": objective.mask_prob,
        "mask_time_length": objective.mask_length,
        "mask_time_min_masks": objective.mask_min_spans,
        "mask_feature_prob": getattr(objective, "channel_prob", 0.0),
        "mask_feature_length": getattr(objective, "channel_length", 10),
        "mask_feature_min_masks": 0,
        "apply_spec_augment": True,
        "pad_token_id": 0,
        "bos_token_id": None,
        "eos_token_id": None,
    }
    if not masked:
        values |= {"apply_spec_augment": False, "mask_time_prob": 0.0, "mask_feature_prob": 0.0}
    elif not values["mask_time_prob"] and not values["mask_feature_prob"]:
        values |= {"apply_spec_augment": False, "mask_time_prob": 0.05}
    if tokens is not None:
        numbers = vocab_json(tokens)
        values |= {"vocab_size": len(numbers), "pad_token_id": tokens.blank}
        for token in ("bos_token", "eos_token"):
            values[f"{token}_id"] = numbers.get(_special(tokens, token))
    # Our loss is a sum over labels, and nothing for rows too short for theirs. An import's is left
    # as it was: what it noted, or their defaults.
    loss = OUR_LOSS if source is None else {k: source[k] for k in OUR_LOSS if k in source}
    if name.endswith("ForCTC"):
        values |= loss
        values["final_dropout"] = objective.final_dropout
        values["vocab_size"] = classes
        return values
    if name.endswith("Model"):
        return values
    values |= {
        "num_negatives": objective.distractors,
        "contrastive_logits_temperature": objective.temperature,
        "diversity_loss_weight": objective.diversity_weight,
    }
    if isinstance(config.model, unispeech.ModelConfig):
        values |= {
            "final_dropout": config.model.final_dropout,
            "num_ctc_classes": classes,
            "replace_prob": objective.replace_prob,
        } | loss
    return values


def preprocessor_config_json(config: Config) -> JSON:
    """preprocessor_config.json: rate, normalisation, and whether padding is told to the model.

    The flavour with a group norm was trained without: its statistics are over padding too.
    """
    return {
        "feature_extractor_type": "Wav2Vec2FeatureExtractor",
        "feature_size": 1,
        "sampling_rate": SAMPLE_RATE,
        "padding_value": 0.0,
        "padding_side": "right",
        "do_normalize": config.data.normalize,
        "return_attention_mask": config.model.encoder_norm == "layer",
    }


def tokens_of(vocabulary: Vocabulary, source: Mapping[str, Any]) -> Tokens:
    """The classifier's tokens as they are handed out, in the order of its outputs.

    Those of an imported checkpoint go out as they came: their case, and the blank's place. fairseq
    calls the blank ``<s>`` and has a ``<pad>`` beside it, which change their names; what parted
    words is "|". Of a run made here the blank comes first, under a name that is no symbol.

    Args:
      source: what an import noted about where it came from; {} for a run made here.
    """
    names = tuple(source.get("tokens", ()))
    if not names:
        blank = next(name for name in PADS if name not in vocabulary.symbols)
        names = (blank, *vocabulary.symbols[1:])
        return Tokens(names, 0, vocabulary.unit, DELIMITER)
    found = Tokens(names, source["blank"], vocabulary.unit)
    renamed = {}
    if names[found.blank] == BEGIN and PADS[0] in names:
        renamed = {BEGIN: PADS[0], PADS[0]: BEGIN}
    if DELIMITER in vocabulary.symbols:
        # transformers 5 forgets another delimiter when it opens a folder.
        renamed[names[found.order[vocabulary.symbols.index(DELIMITER)]]] = DELIMITER
    return dataclasses.replace(found, names=tuple(renamed.get(name, name) for name in names))


def _special(tokens: Tokens, name: str) -> str | None:
    return next((token for token in SPECIAL[name] if token in tokens.names), None)


def vocab_json(tokens: Tokens) -> dict[str, int]:
    """vocab.json: numbers by token."""
    return {name: number for number, name in enumerate(tokens.names)}


def tokenizer_files(tokens: Tokens) -> dict[str, JSON]:
    """vocab.json, tokenizer_config.json and special_tokens_map.json.

    Characters are joined, and their delimiter becomes a space; phonemes are joined with spaces.
    The pad token is the blank.
    """
    special: JSON = {"pad_token": tokens.names[tokens.blank]}
    special |= {name: _special(tokens, name) for name in SPECIAL}
    settings: JSON = dict(special) | {"clean_up_tokenization_spaces": False}
    if tokens.unit == "characters":
        settings |= {
            "tokenizer_class": "Wav2Vec2CTCTokenizer",
            "word_delimiter_token": DELIMITER,
            "replace_word_delimiter_char": " ",
            "do_lower_case": False,
        }
    else:
        settings |= {
            "tokenizer_class": "Wav2Vec2PhonemeCTCTokenizer",
            "phone_delimiter_token": " ",
            "word_delimiter_token": None,
            "do_phonemize": False,
        }
    settings["processor_class"] = "Wav2Vec2Processor"
    return {
        "vocab.json": vocab_json(tokens),
        "tokenizer_config.json": settings,
        "special_tokens_map.json": {name: token for name, token in special.items() if token},
    }
