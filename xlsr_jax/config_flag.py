"""The flag --config, with any setting as --config.group.name=value."""

import sys

from absl import flags
from ml_collections import config_flags

CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Config file, see configs/.", short_name="c"
)


def parse_flags(arguments: list[str]) -> list[str]:
    """Parses the command line; what is wrong with it is one line, not a trace."""
    try:
        rest = flags.FLAGS(arguments)
        if CONFIG.value is None:
            raise ValueError("--config=FILE is missing; try --config=configs/quickstart.py")
        CONFIG.value.keys()  # a file that failed to load raises its own error here
        return rest
    except (AttributeError, KeyError) as error:
        said = f"no such setting on the command line: {error}"
    except Exception as error:  # a flag's value, or whatever the config file raised
        said = str(error) if isinstance(error, flags.Error) else f"{type(error).__name__}: {error}"
    print(f"ConfigError: {' '.join(said.split())}", file=sys.stderr)
    sys.exit(2)
