"""Settings as frozen dataclasses: defaults, units and ranges stand where the setting is used.

Every room of the package declares its own dataclass of settings with ``setting``; ``config.py``
assembles them into one tree. This module turns that tree into a ``ConfigDict`` for the command
line and back, naming the key of whatever does not fit.
"""

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict


class ConfigError(ValueError):
    """A setting that is unknown, of the wrong type, out of range, or at odds with another."""


def setting(
    default: Any,
    doc: str,
    *,
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] | None = None,
) -> Any:
    """Declares a dataclass field with its meaning, unit, and closed range or list of choices."""
    metadata = {"doc": doc, "low": low, "high": high, "choices": choices}
    return dataclasses.field(default=default, metadata=metadata)


def to_config_dict(settings: Any) -> ConfigDict:
    """The dataclass tree as a locked, type-checked ``ConfigDict`` for ``--config.key=value``."""
    values = ConfigDict(type_safe=True)
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        values[field.name] = to_config_dict(value) if dataclasses.is_dataclass(value) else value
    return values.lock()


def from_mapping(cls: type, values: Mapping[str, Any], prefix: str = "config") -> Any:
    """Builds ``cls`` from nested mappings, checking every key, type and range.

    Raises:
      ConfigError: naming the full key (``config.optimizer.peak_lr``) and the mend.
    """
    fields = {field.name: field for field in dataclasses.fields(cls)}
    hints = typing.get_type_hints(cls)
    for name in values:
        if name not in fields:
            near = difflib.get_close_matches(name, fields, n=1)
            hint = f"; did you mean {prefix}.{near[0]}?" if near else ""
            raise ConfigError(f"unknown setting {prefix}.{name}{hint}")
    arguments = {}
    for name, value in values.items():
        key, hint = f"{prefix}.{name}", hints[name]
        if dataclasses.is_dataclass(hint):
            if not isinstance(value, Mapping | ConfigDict):
                raise ConfigError(f"{key} is a group of settings, not {value!r}")
            arguments[name] = from_mapping(hint, value, key)
        else:
            arguments[name] = _checked(value, hint, fields[name].metadata, key)
    return cls(**arguments)


def _checked(value: Any, hint: Any, metadata: Mapping[str, Any], key: str) -> Any:
    value = _coerced(value, hint, key)
    low, high, choices = (metadata.get(name) for name in ("low", "high", "choices"))
    if choices and value not in choices:
        raise ConfigError(f"{key} must be one of {', '.join(choices)}; got {value!r}")
    for number in value if isinstance(value, tuple) else (value,):
        if isinstance(number, float) and math.isnan(number):
            raise ConfigError(f"{key} must be a number; got {value!r}")
        if low is not None and number is not None and number < low:
            raise ConfigError(f"{key} must be at least {low}; got {value!r}")
        if high is not None and number is not None and number > high:
            raise ConfigError(f"{key} must be at most {high}; got {value!r}")
    return value


def _coerced(value: Any, hint: Any, key: str) -> Any:
    origin = typing.get_origin(hint)
    if origin in (types.UnionType, typing.Union):
        options = typing.get_args(hint)
        if value is None and type(None) in options:
            return None
        return _coerced(value, next(o for o in options if o is not type(None)), key)
    if origin is tuple:
        if isinstance(value, str) or not isinstance(value, list | tuple):
            raise ConfigError(f"{key} must be a tuple; got {value!r}")
        element = typing.get_args(hint)[0]
        if element is str:  # --config.data.languages=es,fr arrives as ("es,fr",)
            value = [part for item in value for part in str(item).split(",") if part]
        return tuple(_coerced(item, element, key) for item in value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise ConfigError(f"{key} must be {hint.__name__}; got {value!r} ({type(value).__name__})")
    return value
