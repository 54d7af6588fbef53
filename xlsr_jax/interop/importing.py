"""Checkpoints of other libraries as runs of ours, on disk or in memory."""

import contextlib
import dataclasses
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from xlsr_jax import config as configuration
from xlsr_jax import storage
from xlsr_jax.interop import fairseq, hub
from xlsr_jax.interop.hub import Options
from xlsr_jax.interop.source import Report, Source, parameters
from xlsr_jax.schema import ConfigError
from xlsr_jax.training.checkpoint import CHOICE, FOLDER, CheckpointError, Checkpoints
from xlsr_jax.training.state import TrainState, parameter_count

CONFIG, REPORT = "config.json", "import.json"
WEIGHTS = (".safetensors", ".bin", ".json")  # of a hub's folder, its config.json beside them


@dataclasses.dataclass(frozen=True)
class Imported:
    """A run in memory.

    Attributes:
      params: NumPy arrays; of JAX once they have been written.
      about: what is saved beside them, as training does: config, languages, vocabulary, step; and
        under "source" where they come from.
    """

    source: Source
    params: dict[str, Any]
    about: dict[str, Any]
    report: Report

    def lines(self) -> list[str]:
        """For the person who imports."""
        source, report = self.source, self.report
        lines = [
            f"{source.path}: {source.kind}, {parameter_count(self.params) / 1e6:.1f} M parameters, "
            f"for method {source.method}",
            f"{len(report.taken)} tensors taken, {len(report.left_out)} left out, "
            f"{len(report.initialised)} parameters new",
        ]
        left_out = {ascii(name)[1:-1]: why for name, why in report.left_out.items()}
        lines += [f"left out: {name} ({why})" for name, why in left_out.items()]
        lines += [f"new: {name} ({how})" for name, how in report.initialised.items()]
        if "vocabulary" in self.about:
            told = self.about["vocabulary"]
            blank, origin = source.tokens.blank, source.tokens.origin
            lines.append(
                f"vocabulary: {len(told['symbols'])} {told['unit']} of {origin}, the blank "
                f"{source.tokens.names[blank]!r} was number {blank} there"
            )
        return [*lines, *source.notes]


def is_source(path: str | os.PathLike[str]) -> bool:
    """Whether a path is a checkpoint of another library, and not a run of ours."""
    path = Path(path)
    if storage.is_remote(path) or path.is_file():
        return path.is_file()
    ours = (path / FOLDER).exists() or (path / CHOICE).exists()
    weights = any((path / name).is_file() for name in hub.SAFE + hub.PICKLES)
    return not ours and weights


def describe(path: str | os.PathLike[str], options: Options = Options()) -> Source:  # noqa: B008
    """What a Hugging Face folder or a file of weights is; no weights are read yet.

    Raises:
      CheckpointError, ConfigError: one line that says what is wrong with it.
    """
    path = Path(path)
    if not path.exists():
        raise CheckpointError(f"there is no {path}; give a Hugging Face folder or a fairseq .pt")
    beside = path.is_file() and path.suffix in WEIGHTS and (path.parent / "config.json").is_file()
    with storage.refusals("read", path, "mend that and run the same command again"):
        if path.is_dir() or beside:
            return hub.read(path, options)
        if path.suffix == ".safetensors":
            raise CheckpointError(f"{path} has no config.json beside it, which says what it is")
        return fairseq.read(path, options)


def read(path: str | os.PathLike[str], options: Options = Options()) -> Imported:  # noqa: B008
    """A checkpoint of another library as a run in memory, its parameters fp32.

    Raises:
      CheckpointError, ConfigError: one line that says what is wrong with it.
    """
    source = describe(path, options)
    about = _about(source, options)
    with storage.refusals("read", source.path, "mend that and run the same command again"):
        params, report = parameters(source)
    about["source"] |= dataclasses.asdict(report)
    return Imported(source, params, about, report)


def import_run(
    path: str | os.PathLike[str],
    output: str | os.PathLike[str],
    options: Options = Options(),  # noqa: B008
) -> Imported:
    """Writes a checkpoint of another library as the run ``output``, which appears whole.

    Raises:
      CheckpointError, ConfigError: one line that says what is wrong; then there is no ``output``.
    """
    final = Path(output)
    if storage.is_remote(output):
        raise ConfigError(f"{output} is in an object store; import to a local folder and copy that")
    if final.exists():
        raise ConfigError(f"{final} is there already; give --output=RUN another name")
    run = read(path, options)
    mend = "mend that and run the same command again"
    with storage.refusals("write", final, mend), _new_folder(final) as folder:
        checkpoints = Checkpoints(folder)
        counters = {n: np.zeros((), np.int32) for n in ("skipped", "skipped_in_a_row")}
        step = run.about["step"]
        _to_device(run.params)
        state = TrainState(step=np.int32(step), params=run.params, opt_state=(), **counters)
        try:
            checkpoints.save(step, state, run.about, {})
            checkpoints.wait()
        finally:
            checkpoints.close()
        for name, values in ((CONFIG, run.about["config"]), (REPORT, run.about["source"])):
            text = json.dumps(values, indent=1, ensure_ascii=False)
            (folder / name).write_text(text, encoding="utf-8")
    return run


def _to_device(params: dict[str, Any]) -> None:
    """Makes NumPy's arrays JAX's, in place, one at a time: the former are copied to be written."""
    import jax

    for name, value in params.items():
        if isinstance(value, dict):
            _to_device(value)
        else:
            params[name] = jax.block_until_ready(jax.device_put(value))


def _about(source: Source, options: Options) -> dict[str, Any]:
    """What training would have saved beside the parameters."""
    path = source.path.absolute()
    name = "_".join((path.stem if path.is_file() else path.name).split()) or "imported"
    values = configuration.default(name, source.method).to_dict()
    values["model"] |= dataclasses.asdict(source.model)
    values["objective"] |= source.objective
    values["data"]["normalize"] = source.normalize
    values["data"]["languages"] = options.languages
    vocabulary = None
    if source.tokens is not None:
        vocabulary = source.tokens.vocabulary(options.languages, options.unit)
        values["labels"]["separate"] = vocabulary.separate
        values["labels"]["unit"] = vocabulary.unit
    try:
        config = configuration.to_dict(configuration.resolve(values))
    except ConfigError as error:
        raise ConfigError(f"{source.path}: {error}") from error
    about = {
        "config": json.loads(json.dumps(config)),
        "languages": list(options.languages or (vocabulary.languages if vocabulary else ())),
        "step": source.updates,
        "source": {"name": path.name, "kind": source.kind, **source.kept},
    }
    if vocabulary is not None:
        about["vocabulary"] = vocabulary.to_dict()
        about["source"] |= {"tokens": list(source.tokens.names), "blank": source.tokens.blank}
    return about


@contextlib.contextmanager
def _new_folder(final: Path) -> Iterator[Path]:
    """A folder beside ``final`` that takes its name when the context ends without error."""
    partial = final.absolute().with_name(f"{final.absolute().name}.partial-{os.getpid()}")
    partial.mkdir(parents=True)
    try:
        yield partial
        os.rename(partial, final)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
