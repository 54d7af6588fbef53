"""The configuration of a run: defaults, the command line's ConfigDict, validation.

A config file returns ``default()`` with some values changed. Settings are declared as dataclasses
in the room that uses them; here they are put together. The ``ConfigDict`` stops at ``resolve``:
everything below it receives frozen dataclasses.
"""

import dataclasses
import importlib
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from ml_collections import ConfigDict

from xlsr_jax import schema
from xlsr_jax.data.joint import UnlabelledConfig
from xlsr_jax.data.labels import LabelsConfig
from xlsr_jax.data.pipeline import DataConfig
from xlsr_jax.parallel.mesh import MeshConfig
from xlsr_jax.schema import ConfigError, setting
from xlsr_jax.training.loop import LoopConfig
from xlsr_jax.training.optimizer import OptimizerConfig


@dataclasses.dataclass(frozen=True)
class CorpusConfig:
    """What to prepare where ``data.path`` holds no corpus yet; "" prepares nothing."""

    make: str = setting("", "corpus to make on first use", choices=("", "spoken_text"))
    hours: float = setting(2.0, "hours of training audio, all languages together", low=0.01)
    seed: int = setting(0, "texts, voices and channels follow from it", low=0)


@dataclasses.dataclass(frozen=True)
class WarmStartConfig:
    """Updates in which the encoder regresses log-mel frames before the main objective begins."""

    updates: int = setting(0, "updates; 0 leaves the warm start out, as the papers do", low=0)
    bands: int = setting(40, "mel bands", low=1)
    peak_lr: float = setting(1e-3, "learning rate at the end of its warm-up", low=0.0)
    warmup_share: float = setting(0.1, "share of these updates that warm up", low=0.0, high=1.0)


@dataclasses.dataclass(frozen=True)
class Config:
    """A whole run. ``model`` and ``objective`` are the settings classes of ``method``.

    Attributes:
      init_from: folder of a run whose parameters this one begins with, or a checkpoint of another
        library (a Hugging Face folder, a fairseq .pt); "" begins at random.
    """

    name: str
    method: str
    seed: int
    init_from: str
    data: DataConfig
    corpus: CorpusConfig
    labels: LabelsConfig
    unlabelled: UnlabelledConfig
    model: Any
    objective: Any
    warm_start: WarmStartConfig
    optimizer: OptimizerConfig
    mesh: MeshConfig
    training: LoopConfig


METHODS = (  # modules of objectives
    "wav2vec2", "unispeech", "cpc", "finetune", "finetune_cpc", "finetune_log_mel",
)  # fmt: skip
GROUPS = {
    "data": DataConfig,
    "corpus": CorpusConfig,
    "labels": LabelsConfig,
    "unlabelled": UnlabelledConfig,
    "warm_start": WarmStartConfig,
    "optimizer": OptimizerConfig,
    "mesh": MeshConfig,
    "training": LoopConfig,
}


def default(name: str, method: str = "wav2vec2") -> ConfigDict:
    """All settings of a method at their defaults, to be changed by a config file."""
    config = ConfigDict(type_safe=True)
    config.name = name
    config.method = method
    config.seed = 0
    config.init_from = ""
    for group, cls in _groups(method).items():
        config[group] = schema.to_config_dict(cls())
    return config.lock()


def method_module(method: str) -> ModuleType:
    """The objective's module: it offers ModelConfig, ObjectiveConfig and make_objective.

    ``LABELLED`` says whether its batches have labels.
    """
    if method in METHODS:
        return importlib.import_module(f"xlsr_jax.objectives.{method}")
    raise ConfigError(
        f"config.method: there is no method {method!r}; there are {', '.join(METHODS)}"
    )


def resolve(values: ConfigDict | Mapping[str, Any]) -> Config:
    """Checks every key, type and range, and what must fit together.

    Raises:
      ConfigError: one line that names the setting and the mend.
    """
    scalars = {"name": str, "method": str, "seed": int, "init_from": str}
    for name, kind in scalars.items():
        if not isinstance(values.get(name), kind):
            raise ConfigError(f"config.{name} must be {kind.__name__}; got {values.get(name)!r}")
    if not 0 <= values["seed"] < 2**31:
        raise ConfigError(f"config.seed must be in [0, 2^31); got {values['seed']}")
    groups = _groups(values["method"])
    for name in values:
        if name not in groups and name not in scalars:
            raise ConfigError(f"unknown setting config.{name}; groups are {', '.join(groups)}")
    parts = {
        group: schema.from_mapping(cls, values.get(group, {}), f"config.{group}")
        for group, cls in groups.items()
    }
    return Config(**{name: values[name] for name in scalars}, **parts)


def to_dict(config: Config) -> dict[str, Any]:
    """Plain nested dict for checkpoints and ``config.json``; ``resolve`` reads it back."""
    return dataclasses.asdict(config)


def from_saved(values: Mapping[str, Any]) -> dict[str, Any]:
    """What ``to_dict`` gave, also by a version with fewer settings: the missing take defaults."""
    whole = default(values["name"], values["method"]).to_dict()
    for name, value in values.items():
        whole[name] = whole[name] | value if isinstance(value, Mapping) else value
    return whole


def changes(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "config") -> list[str]:
    """Settings in which two stored configs differ, as "config.data.alpha: 0.5 -> 1.0"."""
    found = []
    for name in sorted(old.keys() | new.keys()):
        before, after = old.get(name), new.get(name)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            found += changes(before, after, f"{prefix}.{name}")
        elif _plain(before) != _plain(after):
            found.append(f"{prefix}.{name}: {before} -> {after}")
    return found


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _groups(method: str) -> dict[str, type]:
    module = method_module(method)
    return GROUPS | {"model": module.ModelConfig, "objective": module.ObjectiveConfig}
