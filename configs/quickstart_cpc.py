"""Modified CPC on the demonstration corpus: eleven languages, two CPU cores, some minutes.

    python -m xlsr_jax.train --config=configs/quickstart_cpc.py

What differs from the published recipe: half the width and an eighth of the predictors' inner width
(0.3 M parameters, 1.9 M with the predictors, as many as the quickstart), normalised waveforms, 20 s
of audio an update, negatives from four windows of a speaker, a peak rate of 1e-3 that warms up and
decays.
"""

from xlsr_jax import presets


def get_config(variant: str = ""):
    config = presets.quickstart_cpc_model(presets.cpc("quickstart_cpc", 100))
    config.data.path = "corpora/spoken_text"
    config.corpus.make, config.corpus.hours = "spoken_text", 3.0
    config.data.alpha, config.data.batch_seconds, config.data.eval_seconds = 0.5, 20.5, 20.0
    config.data.normalize = True
    config.data.same_speaker = config.objective.group_rows = 4
    settings = config.optimizer
    settings.peak_lr, settings.schedule, settings.warmup_share = 1e-3, "linear", 0.1
    training = config.training
    training.updates = 1_200
    training.log_every, training.eval_every, training.save_every = 20, 200, 400
    return presets.variant(config, variant)
