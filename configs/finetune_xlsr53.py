"""XLSR-53 writes the phonemes of one language, from an hour of labels (XLSR, sections 3.2 and 3.3).

    python -m xlsr_jax.train --config=configs/finetune_xlsr53.py --config.data.path=DIR \\
        --config.init_from=runs/xlsr53_large --config.data.languages=es

The recipe of ``finetune_xlsr10_large``. The config released later (``examples/wav2vec/xlsr/config/
finetune.yaml``) has a peak rate of 3e-4 and 13 k updates for Common Voice. Hardware: 4 V100 in the
paper. Result (Table 1): 7.6 PER on average over ten languages: es 2.9, fr 5.0, it 5.7, ky 6.1,
nl 5.8, ru 8.1, sv 12.2, tr 7.1, tt 5.1, zh 18.3.
"""

from xlsr_jax import presets


def get_config(variant: str = ""):
    config = presets.finetune_xlsr("finetune_xlsr53", "large")
    config.data.languages = ("es",)
    return presets.variant(config, variant)
