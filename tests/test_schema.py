"""Settings are checked by name, type and range, and the error names the key."""

import dataclasses

import pytest

from xlsr_jax.schema import ConfigError, from_mapping, setting, to_config_dict


@dataclasses.dataclass(frozen=True)
class Inner:
    rate: float = setting(0.5, "a rate", low=0.0, high=1.0)
    names: tuple[str, ...] = setting((), "some names")
    form: str = setting("a", "a form", choices=("a", "b"))


@dataclasses.dataclass(frozen=True)
class Outer:
    count: int = setting(3, "a count", low=1)
    flag: bool = setting(False, "a flag")
    inner: Inner = dataclasses.field(default_factory=Inner)


def test_round_trip_through_config_dict():
    settings = Outer(count=7, inner=Inner(rate=0.25, names=("x", "y"), form="b"))
    assert from_mapping(Outer, to_config_dict(settings)) == settings


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"cuont": 1}, "unknown setting config.cuont; did you mean config.count?"),
        (
            {"inner": {"ratte": 1.0}},
            "unknown setting config.inner.ratte; did you mean config.inner.rate",
        ),
        ({"count": "4"}, "config.count must be int; got '4' (str)"),
        ({"count": 4.0}, "config.count must be int"),
        ({"count": True}, "config.count must be int"),
        ({"count": 0}, "config.count must be at least 1; got 0"),
        ({"inner": {"rate": 1.5}}, "config.inner.rate must be at most 1.0; got 1.5"),
        ({"inner": {"form": "c"}}, "config.inner.form must be one of a, b; got 'c'"),
        ({"inner": 3}, "config.inner is a group of settings"),
    ],
)
def test_errors_name_the_key(values, words):
    with pytest.raises(ConfigError) as error:
        from_mapping(Outer, values)
    assert words in str(error.value)


def test_integers_serve_as_floats_and_commas_as_tuples():
    built = from_mapping(Inner, {"rate": 1, "names": ("es,fr", "it")})
    assert built.rate == 1.0 and isinstance(built.rate, float)
    assert built.names == ("es", "fr", "it")
