"""How much a linear layer reads out of frozen frames: phone classification on aligned speech.

    python -m xlsr_jax.train --config=configs/probe_phones.py --config.init_from=runs/quickstart

The classifier of modified CPC's paper (arXiv 2002.02848, section 3): a linear layer a frame, cross
entropy, Adam at 2e-4 there. A frame's phone is the one that covers most of its 25 ms. Model and
corpus are the quickstart's by default, with all eleven languages; ``--config.objective.layer=N``
reads an inner layer. The held-out "error rate" is the share of frames that get another phone.
"""

from xlsr_jax import presets


def get_config(variant: str = ""):
    config = presets.quickstart_model(presets.finetune("probe_phones", "large"))
    config.data.path = "corpora/spoken_text"
    config.corpus.make, config.corpus.hours = "spoken_text", 3.0
    config.labels.unit = "aligned"
    data = config.data
    data.batch_seconds, data.min_samples, data.max_crop_samples = 40.0, 4_000, 192_000
    data.buckets = 3

    objective = config.objective
    objective.target, objective.frozen, objective.freeze_updates = "frames", "model", 0
    objective.mask_prob = objective.channel_prob = 0.0
    config.optimizer.peak_lr, config.optimizer.warmup_share = 2e-3, 0.1
    training = config.training
    training.updates = 1_000
    training.log_every, training.eval_every, training.save_every = 50, 250, 500
    return presets.variant(config, variant)
