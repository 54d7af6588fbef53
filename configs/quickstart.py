"""A small XLSR on the demonstration corpus: eleven languages, two CPU cores, about five minutes.

    python -m xlsr_jax.train --config=configs/quickstart.py

The flavour is the Large's (layer norm, pre-norm, normalised waveform) at 1.9 M parameters. What
differs from the published recipes, and why:

- a log-mel warm start of 400 updates: without it the contrastive loss stays at chance for as long
  as ten minutes of two cores can wait;
- masked spans of 5 frames (100 ms) instead of 10, as many frames masked in all: what a small model
  can fill in within minutes;
- 40 codewords a group instead of 320: an update has about 400 masked frames, too few to tell 640
  codewords apart, and finer codes are harder to predict;
- 16 s of audio an update instead of 1.5 h, a peak rate of 2e-3, no dropout, the tanh form of GELU.
"""

from xlsr_jax import presets


def get_config(variant: str = ""):
    config = presets.large("quickstart")
    presets.quickstart_training(presets.quickstart_model(config))
    return presets.variant(config, variant)
