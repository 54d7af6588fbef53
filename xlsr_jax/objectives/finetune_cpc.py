"""Fine-tuning and probes of modified CPC's network (arXiv 2002.02848, section 3)."""

from xlsr_jax.models.cpc import ModelConfig
from xlsr_jax.objectives.finetune import BEST_BY, LABELLED, ObjectiveConfig, make_objective

__all__ = ["BEST_BY", "LABELLED", "ModelConfig", "ObjectiveConfig", "make_objective"]
