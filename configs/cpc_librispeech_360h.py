"""Modified CPC on 360 h of LibriSpeech (Riviere et al., arXiv 2002.02848).

    python -m xlsr_jax.train --config=configs/cpc_librispeech_360h.py --config.data.path=DIR

Five convolutions (10 ms a frame), an LSTM, twelve one-layer Transformers that predict the next 12
frames among 128 others of the same speaker; windows of 1.28 s, 8 x 8 an update, Adam at 2e-4, 200
passes. The variant ``linear`` has the original CPC's linear predictors. Hardware: 8 GPUs in the
paper. Result: 42.8 PER on average over es fr it ky nl ru sv tt, read out frozen with an hour of
labels (UniSpeech, Table 1).
"""

from xlsr_jax import presets, presets_cpc


def get_config(variant: str = ""):
    config = presets_cpc.pretrain("cpc_librispeech_360h", 360)
    return presets.variant(config, variant, {"linear": _linear})


def _linear(config):
    config.model.predictors = "linear"
