"""Fine-tunes the quickstart's model to write phonemes: ten minutes of labels, two CPU cores.

    python -m xlsr_jax.train --config=configs/quickstart_finetune.py \\
        --config.init_from=runs/quickstart

Italian by default; ``--config.data.languages=es,fr`` for others. The corpus is the quickstart's.
What differs from the published recipe: rates for a small model, a shorter freeze, channel spans as
wide a share of the model as the published 64 of 768. Variants: ``cpc`` is for a run of
quickstart_cpc; ``transfer`` learns from all labels of four languages (CTC-Transfer, UniSpeech
section 4.2), to be fine-tuned in its turn.
"""

from xlsr_jax import config as configuration
from xlsr_jax import presets, presets_cpc, presets_unispeech


def get_config(variant: str = ""):
    config = presets.quickstart_model(presets.finetune("quickstart_finetune", "large"))
    if "cpc" in variant.split(","):
        config = presets.labelled(configuration.default("quickstart_finetune", "finetune_cpc"))
        config.data.normalize = True
    config.data.path = "corpora/spoken_text"
    config.corpus.make, config.corpus.hours = "spoken_text", 3.0
    data = config.data
    data.languages = ("it",)
    data.label_seconds = 600.0
    data.batch_seconds = 40.0
    data.max_crop_samples, data.min_samples, data.buckets = 192_000, 4_000, 2
    data.eval_seconds = 120.0

    objective = config.objective
    objective.freeze_updates = 60
    objective.mask_prob, objective.mask_length = 0.1, 5
    objective.channel_prob, objective.channel_length = 0.1, 16
    objective.alarm_patience = 400
    config.optimizer.peak_lr = 1e-3
    training = config.training
    training.updates = 800
    training.log_every, training.eval_every, training.save_every = 20, 100, 200
    own = {"cpc": presets_cpc.quickstart_model, "transfer": _transfer}
    return presets.variant(config, variant, own)


def _transfer(config):
    config.data.languages, config.data.label_seconds = presets_unispeech.SOURCES, 0.0
    config.data.batch_seconds = 20.0
    config.training.updates = 1_300
