"""Modified CPC's recipes (arXiv 2002.02848), beside those of ``presets``."""

from ml_collections import ConfigDict

from xlsr_jax import config as configuration


def pretrain(name: str, hours: int) -> ConfigDict:
    """Modified CPC as released (arXiv 2002.02848): 200 passes over ``hours`` of LibriSpeech.

    ``cpc/train.py``, ``cpc_default_config.py``: windows of 1.28 s, on each of 8 GPUs 8 of one
    speaker, Adam at 2e-4 throughout. Stray offsets are drawn for each window here.
    """
    config = configuration.default(name, "cpc")
    data, settings = config.data, config.optimizer
    data.path = f"corpora/librispeech_{hours}h"
    data.alpha, data.normalize, data.buckets = 1.0, False, 1
    data.max_crop_samples = data.min_samples = 20_480
    data.same_speaker = config.objective.group_rows
    data.batch_seconds = 64 * 1.28
    settings.peak_lr, settings.beta2, settings.epsilon = 2e-4, 0.999, 1e-8
    settings.weight_decay = 0.0
    settings.schedule, settings.warmup_share, settings.hold_share = "tri_stage_linear", 0.0, 1.0
    config.training.updates = round(200 * hours * 3_600 / data.batch_seconds)
    return config


def probe(config: ConfigDict) -> ConfigDict:
    """Modified CPC's probe, of any network, as released: ``cpc/eval/common_voices_eval.py``.

    The model frozen, one convolution 8 frames wide and 4 apart, CTC, Adam at 2e-4 throughout,
    batches of 8 utterances (here 40 s), 30 epochs of an hour (here 3,000 updates), no masks.
    """
    config.data.batch_seconds = 40.0
    objective, settings = config.objective, config.optimizer
    objective.frozen, objective.freeze_updates = "model", 0
    objective.head_kernel, objective.head_stride = 8, 4
    objective.mask_prob = objective.channel_prob = 0.0
    settings.peak_lr_choices, settings.peak_lr = (), 2e-4
    settings.beta2, settings.epsilon = 0.999, 1e-8
    settings.schedule, settings.warmup_share, settings.hold_share = "tri_stage_linear", 0.0, 1.0
    config.training.updates = 3_000
    config.training.eval_every = config.training.save_every = 100
    return config


def quickstart_model(config: ConfigDict) -> ConfigDict:
    """Modified CPC at the quickstart's size: half the width, linear predictors."""
    model = config.model
    model.conv_dims, model.dim = (32, 64, 96, 128, 128), 128
    model.predictors = "linear"
    return config
