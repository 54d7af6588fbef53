"""UniSpeech on the demonstration corpus: labels of four languages, audio of eleven.

    python -m xlsr_jax.train --config=configs/quickstart_unispeech.py

Half of the updates are on English, Spanish, French and Italian with their phonemes (many-to-one,
UniSpeech section 4.1.2), half on all eleven languages without labels. Network, masks, warm start
and rates are the quickstart's, r and alpha the paper's; negatives from everywhere and CTC summed
over an utterance as released. The variant ``r0`` replaces nothing.
"""

from xlsr_jax import presets, presets_unispeech


def get_config(variant: str = ""):
    config = presets_unispeech.pretrain("quickstart_unispeech", "large", presets_unispeech.SOURCES)
    presets.quickstart_training(presets.quickstart_model(config))
    config.model.final_dropout = 0.0
    data = config.data
    data.min_samples, data.max_crop_samples = 24_080, 128_000
    config.unlabelled.share = presets_unispeech.SHARE
    return presets.variant(config, variant, {"r0": _r0})


def _r0(config):
    config.objective.replace_prob = 0.0
