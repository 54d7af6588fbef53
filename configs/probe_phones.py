"""How much a linear layer reads out of frozen frames: phone classification on aligned speech.

    python -m xlsr_jax.train --config=configs/probe_phones.py --config.init_from=runs/quickstart
    python -m xlsr_jax.train --config=configs/probe_phones.py:cpc \\
        --config.init_from=runs/quickstart_cpc
    python -m xlsr_jax.train --config=configs/probe_phones.py:log_mel

The classifier of modified CPC's paper (arXiv 2002.02848, section 3): a linear layer a frame, cross
entropy, Adam at 2e-4 there. A frame's phone is the one that covers most of its 25 ms (10 ms of
modified CPC's). Model and corpus are the quickstarts' by default, with all eleven languages;
``--config.objective.layer=N`` reads an inner layer. ``log_mel`` reads 128 mel bands, as many as the
contexts of quickstart_cpc have; without ``init_from`` the others read an untrained network. The
held-out "error rate" is the share of frames that get another phone.
"""

from xlsr_jax import config as configuration
from xlsr_jax import presets, presets_cpc


def get_config(variant: str = ""):
    config = presets.quickstart_model(presets.finetune("probe_phones", "large"))
    for network in {"cpc", "log_mel"} & set(variant.split(",")):
        config = presets.labelled(configuration.default("probe_phones", f"finetune_{network}"))
    config.data.normalize = True
    config.data.path = "corpora/spoken_text"
    config.corpus.make, config.corpus.hours = "spoken_text", 3.0
    config.labels.unit = "aligned"
    data = config.data
    data.batch_seconds, data.min_samples, data.max_crop_samples = 40.0, 4_000, 192_000
    data.buckets = 3

    objective = config.objective
    objective.target, objective.frozen, objective.freeze_updates = "frames", "model", 0
    objective.mask_prob = objective.channel_prob = 0.0
    config.optimizer.peak_lr, config.optimizer.warmup_share = 1e-2, 0.1
    training = config.training
    training.updates = 1_000
    training.log_every, training.eval_every, training.save_every = 50, 250, 500
    own = {"cpc": presets_cpc.quickstart_model, "log_mel": _log_mel}
    return presets.variant(config, variant, own)


def _log_mel(config):
    config.model.dim = 128
