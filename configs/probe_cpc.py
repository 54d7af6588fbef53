"""Modified CPC's probe: phonemes read out of frozen contexts, an hour of labels (arXiv 2002.02848).

    python -m xlsr_jax.train --config=configs/probe_cpc.py --config.data.path=DIR \\
        --config.init_from=runs/xlsr_english --config.data.languages=es

Source: the released ``cpc/eval/common_voices_eval.py``: one convolution, 8 frames wide and 4
apart, CTC, Adam at 2e-4 throughout, batches of 8 utterances (here 40 s), 30 epochs of an hour
(here 3,000 updates), nothing masked or dropped. Their frames are 10 ms apart and those of wav2vec
2.0 20 ms, which leaves 12.5 outputs a second, too few for fast speech: utterances with more
phonemes than outputs are left out. ``--config.objective.head_kernel=4
--config.objective.head_stride=2`` spans the published times.
Hardware: one GPU. Result: their own model, pretrained on 100 h of LibriSpeech, 45.8 PER on average
over ten languages, on 360 h 44.5 (XLSR, Table 1).
"""

from xlsr_jax import presets


def get_config(variant: str = ""):
    config = presets.finetune_xlsr("probe_cpc", "base")
    config.data.batch_seconds = 40.0
    objective, model = config.objective, config.model
    objective.frozen, objective.freeze_updates = "model", 0
    objective.head_kernel, objective.head_stride = 8, 4
    objective.mask_prob = objective.channel_prob = 0.0
    model.activation_dropout = model.layerdrop = 0.0
    settings = config.optimizer
    settings.peak_lr_choices, settings.peak_lr, settings.beta2 = (), 2e-4, 0.999
    settings.schedule, settings.warmup_share, settings.hold_share = "tri_stage_linear", 0.0, 1.0
    config.training.updates = 3_000
    config.training.eval_every = config.training.save_every = 100
    config.data.languages = ("es",)
    return presets.variant(config, variant)
