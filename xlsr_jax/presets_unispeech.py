"""UniSpeech's recipes (arXiv 2101.07597), beside those of ``presets``.

Sources: the paper's sections 4.1.1 and 4.2, and the released scripts of
``microsoft/UniSpeech/src/examples/unispeech/scripts``.
"""

from collections.abc import Callable

from ml_collections import ConfigDict

from xlsr_jax import config as configuration
from xlsr_jax import presets

SOURCES = ("en", "es", "fr", "it")  # section 4.1.2, many-to-one
TARGETS = ("ky", "nl", "ru", "sv", "tt")
NETWORKS = {"base": presets.base, "large": presets.large}
SHARE = 0.5  # of the updates on audio without labels: not in the paper, whose code has two stages


def pretrain(name: str, flavour: str, labelled: tuple[str, ...] = ("en",)) -> ConfigDict:
    """Section 4.1.1, for a "base" or "large" model.

    Phoneme labels of ``labelled`` languages of Common Voice; r 0.5, alpha 0.5, p 0.05, 250 k
    updates on 64 GPUs. Negatives, targets and the classifier's input are the released code's; so
    is the missing feature penalty.
    """
    pretrained = presets.xlsr(NETWORKS[flavour](name))
    config = configuration.default(name, "unispeech")
    config.model.update(pretrained.model)
    config.data.update(pretrained.data)
    config.optimizer.update(pretrained.optimizer)
    config.training.update(pretrained.training)
    config.data.path = "corpora/common_voice_11"
    config.data.languages = labelled
    model, objective = config.model, config.objective
    model.dropout = model.attention_dropout = model.final_dropout = 0.1
    model.dropout_input = model.dropout_features = 0.1
    model.layerdrop = 0.0
    theirs = pretrained.objective
    objective.gumbel_start, objective.gumbel_floor = theirs.gumbel_start, theirs.gumbel_floor
    objective.diversity_groups = theirs.diversity_groups
    objective.mask_prob = 0.5
    objective.distractors_from = "everywhere"
    return config


def with_target(*languages: str) -> Callable[[ConfigDict], None]:
    """The papers' +: audio of the target languages, without labels, beside the labelled."""

    def change(config: ConfigDict) -> None:
        config.unlabelled.languages, config.unlabelled.share = languages, SHARE

    return change


def xlsr_rerun(name: str, flavour: str, languages: tuple[str, ...]) -> ConfigDict:
    """The paper's own XLSR baselines: the same audio, updates and dropouts, without labels."""
    config = presets.xlsr(NETWORKS[flavour](name))
    config.data.path, config.data.languages = "corpora/common_voice_11", languages
    config.objective.mask_prob = 0.5
    config.objective.feature_penalty_weight = 0.0
    model = config.model
    model.dropout = model.attention_dropout = 0.1
    model.dropout_input = model.dropout_features = 0.1
    model.layerdrop = 0.0
    return config


def ctc_transfer(name: str, languages: tuple[str, ...]) -> ConfigDict:
    """The supervised baseline: CTC alone from random weights, on what UniSpeech has labels of."""
    ours = pretrain(name, "base", languages)
    config = presets.finetune(name, "base")
    config.data.update(ours.data)
    config.optimizer.update(ours.optimizer)
    config.training.update(ours.training)
    for setting in config.model:
        config.model[setting] = ours.model[setting]
    config.objective.frozen, config.objective.freeze_updates = "nothing", 0
    config.objective.mask_prob, config.objective.channel_prob = 0.5, 0.0
    config.objective.final_dropout = 0.1
    return config


def finetune(name: str, flavour: str) -> ConfigDict:
    """Section 4.1.1: 2e-5, 2 k updates up, 8 k held, 10 k down, dropout 0.1 everywhere.

    Masks, freeze (2 k) and batches (4 GPUs x 1 M samples) are the released script's.
    """
    config = presets.finetune_xlsr(name, flavour)
    config.data.batch_seconds = 4 * 1_000_000 / 16_000
    config.optimizer.peak_lr_choices, config.optimizer.peak_lr = (), 2e-5
    objective, model = config.objective, config.model
    objective.mask_prob, objective.channel_prob = 0.75, 0.25
    objective.freeze_updates, objective.final_dropout = 2_000, 0.1
    model.dropout = model.attention_dropout = model.dropout_input = 0.1
    return config
