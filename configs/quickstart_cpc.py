"""Modified CPC on the demonstration corpus: eleven languages, two CPU cores, some minutes.

    python -m xlsr_jax.train --config=configs/quickstart_cpc.py

What differs from the published recipe: half the width (0.3 M parameters, 0.5 M with the
predictors), normalised waveforms, 20 s of audio an update, a peak rate of 2e-3 that warms up and
decays, and two things more:

- The original CPC's linear predictors. With Transformers an update takes twice as long, and 1,200
  of them (at 1e-3) reach a held-out loss of 4.350 nats, where 400 with linear ones reach 4.343.
- Negatives from the window itself. Each utterance of this corpus has a recording channel of its
  own, which tells frames of the speaker's other utterances apart without hearing a phone. With
  windows of one speaker in fours, 3,000 updates leave 58.0 % of frames to a wrong phone
  (``probe_phones:cpc``), 2,000 of these 55.7 %, 6,000 49.0 %; log-mel frames 55.4 %.
"""

from xlsr_jax import presets, presets_cpc


def get_config(variant: str = ""):
    config = presets_cpc.quickstart_model(presets_cpc.pretrain("quickstart_cpc", 100))
    config.data.path = "corpora/spoken_text"
    config.corpus.make, config.corpus.hours = "spoken_text", 3.0
    config.data.alpha, config.data.batch_seconds, config.data.eval_seconds = 0.5, 20.5, 20.0
    config.data.normalize = True
    config.data.same_speaker, config.objective.group_rows = 0, 1
    settings = config.optimizer
    settings.peak_lr, settings.schedule, settings.warmup_share = 2e-3, "linear", 0.1
    training = config.training
    training.updates = 3_000
    training.log_every, training.eval_every, training.save_every = 20, 200, 400
    return presets.variant(config, variant)
