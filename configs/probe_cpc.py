"""Modified CPC's probe of wav2vec 2.0: phonemes from frozen contexts, an hour (arXiv 2002.02848).

    python -m xlsr_jax.train --config=configs/probe_cpc.py --config.data.path=DIR \\
        --config.init_from=runs/xlsr_english --config.data.languages=es

``transfer_cpc`` is the same of modified CPC itself, and says where it comes from. Their frames are
10 ms apart and those of wav2vec 2.0 20 ms, which leaves 12.5 outputs a second, too few for fast
speech: utterances with more phonemes than outputs are left out. ``--config.objective.head_kernel=4
--config.objective.head_stride=2`` spans the published times. Hardware: one GPU.
"""

from xlsr_jax import presets, presets_cpc


def get_config(variant: str = ""):
    config = presets_cpc.probe(presets.finetune_xlsr("probe_cpc", "base"))
    config.model.activation_dropout = config.model.layerdrop = 0.0
    config.data.languages = ("es",)
    return presets.variant(config, variant)
