"""Probes of log-mel frames: what pretrained features have to be better than."""

from xlsr_jax.models.log_mel import ModelConfig
from xlsr_jax.objectives.finetune import BEST_BY, LABELLED, ObjectiveConfig, make_objective

__all__ = ["BEST_BY", "LABELLED", "ModelConfig", "ObjectiveConfig", "make_objective"]
