"""Labelled and unlabelled audio in one training stream, a batch of one kind or the other."""

import dataclasses
from typing import Any

import numpy as np

from xlsr_jax.data.index import DataConfig
from xlsr_jax.data.labelled import LabelledPlan
from xlsr_jax.data.plan import TrainPlan
from xlsr_jax.schema import ConfigError, setting


@dataclasses.dataclass(frozen=True)
class UnlabelledConfig:
    """Audio without labels beside that of ``data``, for methods that learn from both."""

    share: float = setting(
        0.0, "updates on audio without labels: 0 none, 1 all, and no labels are made", low=0, high=1
    )
    path: str = setting("", "its corpus; that of data.path where empty")
    languages: tuple[str, ...] = setting((), "language codes; empty for all of that corpus")
    alpha: float = setting(0.5, "exponent of its mixture of languages", low=0, high=1)

    def __post_init__(self):
        if not self.share and (self.path or self.languages):
            raise ConfigError(
                "unlabelled.path and unlabelled.languages ask for audio without labels, and "
                "unlabelled.share is 0; set it to a share of the updates, such as 0.5"
            )

    def data(self, labelled: DataConfig) -> DataConfig:
        """The settings of the audio without labels: lengths and batches as with labels."""
        path = self.path or labelled.path
        return dataclasses.replace(
            labelled, path=path, languages=self.languages, alpha=self.alpha, label_seconds=0.0
        )


@dataclasses.dataclass(frozen=True)
class JointPlan:
    """Two streams; each update takes its batch from one of them.

    Attributes:
      labelled, unlabelled: plans whose languages are numbered alike.
      share: of the updates on the second.
    """

    labelled: LabelledPlan
    unlabelled: TrainPlan
    share: float

    @property
    def config(self) -> DataConfig:
        return self.labelled.config

    @property
    def languages(self) -> tuple[str, ...]:
        return self.labelled.languages


def join(labelled: LabelledPlan, unlabelled: TrainPlan, share: float) -> JointPlan:
    """Both plans under one numbering of the languages of either."""
    languages = tuple(sorted({*labelled.languages, *unlabelled.languages}))
    return JointPlan(renumber(labelled, languages), renumber(unlabelled, languages), share)


def renumber(plan: Any, languages: tuple[str, ...]) -> Any:
    """A plan of training or evaluation with its languages numbered by ``languages``.

    These hold all of its own. What is drawn stays as it was: cells and shares keep their order.
    """
    index = plan.index
    table = np.array([languages.index(name) for name in index.languages], index.language.dtype)
    hours = np.zeros(len(languages))
    hours[table] = index.hours
    index = dataclasses.replace(
        index, languages=languages, hours=hours, language=table[index.language]
    )
    return dataclasses.replace(plan, index=index)
