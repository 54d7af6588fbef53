"""Modified CPC from English to a language of Common Voice, an hour of labels (arXiv 2002.02848).

    python -m xlsr_jax.train --config=configs/transfer_cpc.py --config.data.path=DIR \\
        --config.init_from=runs/cpc_librispeech_100h --config.data.languages=es
    python -m xlsr_jax.evaluate --run=runs/transfer_cpc --decoder=beam --beam=20

Section 3: phonemes read out of frozen contexts, ``presets_cpc.probe``; the paper's PER is the mean
over utterances, which the report has beside the corpus's rate. With the variant ``tuned`` the
network learns too. Published splits: es fr it ky nl ru sv tr tt zh. Hardware: one GPU. Result,
frozen: 45.8 PER on average over ten languages from 100 h of LibriSpeech, 44.5 from 360 h (XLSR,
Table 1).
"""

from xlsr_jax import config as configuration
from xlsr_jax import presets, presets_cpc


def get_config(variant: str = ""):
    config = configuration.default("transfer_cpc", "finetune_cpc")
    presets_cpc.probe(presets.common_voice_hour(presets.labelled(config)))
    config.data.normalize = False
    config.data.languages = ("es",)
    return presets.variant(config, variant, {"tuned": _tuned})


def _tuned(config):
    config.objective.frozen = "nothing"
