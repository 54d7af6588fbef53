"""The warm start: the feature encoder learns to regress log-mel frames through a linear map.

From random weights and with little compute the contrastive task can stay at its chance level for
as long as one waits: the targets are a random quantization of random features. A few hundred
updates of this regression give the encoder something to quantize. The linear map is thrown away.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from xlsr_jax.models import layers
from xlsr_jax.models.flops import BACKWARD, encoder_flops
from xlsr_jax.models.log_mel import log_mel
from xlsr_jax.models.wav2vec2 import ModelConfig, Wav2Vec2
from xlsr_jax.objectives.wav2vec2 import SAMPLE_RATE, ObjectiveConfig, Sums, Wav2Vec2Objective


class LogMelObjective:
    """Mean square error of an utterance's normalised log-mel frames, as a phase of training.

    The parameters are those of the objective that follows with ``log_mel_head`` beside them; its
    phase takes the same tree and leaves the head alone.
    """

    best_by = "loss"

    def __init__(
        self,
        model: ModelConfig,
        bands: int = 40,
        constrain: layers.Constrain = layers.unconstrained,
        main_init: Callable[[jax.Array], dict[str, Any]] | None = None,
    ):
        """``main_init`` makes the parameters of what follows, those of wav2vec 2.0 if None."""
        self.model = Wav2Vec2(model, constrain, pretraining=False)
        self.bands = bands
        self.main_init = main_init or Wav2Vec2Objective(model, ObjectiveConfig()).init

    def init(self, key: jax.Array) -> dict[str, Any]:
        """Parameters of the whole model and the head, fp32, as a plain nested dict."""
        params = self.main_init(key)
        head_key = jax.random.fold_in(key, 1)
        head = layers.init_linear(head_key, self.model.config.conv_dims[-1], self.bands)
        return params | {"log_mel_head": head}

    def loss(
        self,
        params: Mapping[str, Any],
        batch: Mapping[str, jax.Array],
        key: jax.Array,
        step: jax.Array,
        *,
        train: bool = True,
        microbatches: int = 1,
    ) -> Sums:
        """(numerator, denominator) per valid frame; nothing here is random."""
        config = self.model.config
        frames_B = config.frames(batch["samples"])
        target = log_mel(batch["waveform"], frames_B, self.bands, *config.geometry)
        length = target.shape[1]
        weight_BT = (jnp.arange(length) < frames_B[:, None]) * batch["weight"][:, None]

        def predict(model: Wav2Vec2):
            features = model.encode(batch["waveform"], batch["samples"], grad_scale=1.0)
            return model.normalise(features).astype(jnp.float32)

        features = self.model.apply({"params": params}, method=predict)
        error = layers.linear(features, params["log_mel_head"]) - target
        error = jnp.sum(jnp.mean(jnp.square(error), axis=-1) * weight_BT)
        power = jnp.sum(jnp.mean(jnp.square(target), axis=-1) * weight_BT)
        seconds = jnp.sum(batch["weight"] * batch["samples"]) / SAMPLE_RATE
        sums = {
            "loss": (error, jnp.sum(weight_BT)),
            "unexplained": (error, power),
            "seconds": (seconds, jnp.ones(())),
        }
        return {k: v if k == "loss" else jax.lax.stop_gradient(v) for k, v in sums.items()}

    def summarize(self, sums: Sums) -> dict[str, jax.Array]:
        """Logged scalars: "loss" the mean square error, "r2" the share of variance explained."""
        ratio = {name: jnp.asarray(n) / d for name, (n, d) in sums.items()}
        return {
            "loss": ratio["loss"],
            "r2": 1 - ratio["unexplained"],
            "audio_seconds": sums["seconds"][0],
        }

    def alarms(self, figures: Mapping[str, float], step: int) -> dict[str, str]:
        """None: this phase is short and has no level to be stuck at."""
        return {}

    def flops(self, rows: int, samples: int) -> float:
        """Model FLOPs of one update on ``rows`` of ``samples``."""
        config = self.model.config
        head = 2.0 * config.frames(samples) * config.conv_dims[-1] * self.bands
        return rows * (1 + BACKWARD) * (encoder_flops(config, samples) + head)
