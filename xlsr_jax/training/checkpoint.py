"""Checkpoints: Orbax, asynchronous, self-contained, exact.

A checkpoint at step t holds the state after t updates and ``about``: the resolved configuration,
the languages, and the step. Batch number t is a function of (seed, t), so that the step is all
that the data needs.
"""

import contextlib
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as managers

from xlsr_jax import storage
from xlsr_jax.parallel.rules import path_string
from xlsr_jax.training.state import TrainState

FOLDER = "checkpoints"
CHOICE = "choice.json"  # of a run that tried several learning rates


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be written, read, or belongs to another model."""


class Checkpoints:
    """The checkpoints of one run: the latest ones and the best one are kept.

    Attributes:
      before_save: called before each write; what it leaves is there when the checkpoint is.
    """

    def __init__(
        self, workdir: Path, keep: int = 1, best_by: str = "", read_only: bool = False
    ) -> None:
        """Opens the checkpoints of a run in a local folder or an object store.

        Args:
          workdir: of the run, of ``storage.at``.
          keep: the latest ones kept.
          best_by: the held-out figure that is lowest at the best checkpoint.
          read_only: changes nothing.

        Raises:
          CheckpointError: where the store refuses.
        """
        self.before_save: Callable[[], None] = lambda: None

        def figure(metrics: Mapping[str, float]) -> float:
            return metrics.get(best_by, math.inf)

        options = ocp.CheckpointManagerOptions(
            best_fn=lambda metrics: -figure(metrics),
            preservation_policy=managers.AnyPreservationPolicy(
                [
                    managers.LatestN(keep),
                    managers.BestN(
                        get_metric_fn=figure,
                        reverse=True,
                        n=1,
                        keep_checkpoints_without_metrics=False,
                    ),
                ]
            ),
            step_prefix=None,
            enable_async_checkpointing=True,
            cleanup_tmp_directories=not read_only,
            read_only=read_only,
        )
        folder = workdir / FOLDER
        with _reading(folder):
            self._manager = ocp.CheckpointManager(
                storage.absolute(folder),
                options=options,
                item_handlers={
                    "state": ocp.StandardCheckpointHandler(),
                    "about": ocp.JsonCheckpointHandler(),
                },
            )

    def steps(self) -> list[int]:
        """The complete steps, ascending."""
        return sorted(self._manager.all_steps())

    def latest(self) -> int | None:
        """The newest complete step."""
        return self._manager.latest_step()

    def best(self) -> int | None:
        """The complete step with the lowest held-out figure; the newest where none has it."""
        return self._manager.best_step() if self.latest() is not None else None

    def figures(self, step: int) -> dict[str, float]:
        """Held-out figures saved with a checkpoint; none where it was not evaluated."""
        return dict(self._manager.metrics(step) or {})

    def save(
        self, step: int, state: TrainState, about: Mapping[str, Any], metrics: Mapping[str, float]
    ) -> None:
        """Starts writing; returns once the state has left the devices.

        Raises:
          CheckpointError: where this or the previous write failed (a full disk, say). What was
            complete before stays.
        """
        if step in self.steps():
            return
        self.before_save()
        try:
            self._manager.check_for_errors()
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(state), about=ocp.args.JsonSave(dict(about))
                ),
                metrics={name: value for name, value in metrics.items() if value == value},
                force=True,
            )
        except Exception as error:  # each store has its own kinds
            raise self._failed(error) from error

    def wait(self) -> None:
        """Waits for the write under way, and raises ``CheckpointError`` where it failed."""
        try:
            self._manager.wait_until_finished()
            self._manager.check_for_errors()
        except Exception as error:
            raise self._failed(error) from error

    def restore(self, step: int, abstract: TrainState) -> TrainState:
        """The state at ``step``, placed as ``abstract`` says, on whatever mesh that names.

        Raises:
          CheckpointError: where the checkpoint holds another model, naming what differs.
        """
        try:
            self._check_same_shapes(step, abstract)
            return self._manager.restore(
                step, args=ocp.args.Composite(state=ocp.args.StandardRestore(abstract))
            ).state
        except CheckpointError:
            raise
        except Exception as error:  # whatever Orbax and its storage layer find wrong with the files
            raise self._unreadable(step, error) from error

    def about(self, step: int) -> dict[str, Any]:
        """What was saved beside the state."""
        try:
            return json.loads((self.path(step) / "about" / "metadata").read_text())
        except Exception as error:
            raise self._unreadable(step, error) from error

    def close(self) -> None:
        """Ends the background threads; an error of the last write has been raised by ``wait``."""
        with contextlib.suppress(Exception):
            self._manager.close()

    def path(self, step: int) -> Path:
        """Folder of one checkpoint."""
        return storage.at(self._manager.directory) / str(step)

    def _check_same_shapes(self, step: int, abstract: TrainState) -> None:
        metadata = self._manager.item_metadata(step)["state"]
        saved = {
            path_string(path): tuple(leaf.shape)
            for path, leaf in jax.tree_util.tree_leaves_with_path(metadata["params"])
        }
        wanted = {
            path_string(path): tuple(leaf.shape)
            for path, leaf in jax.tree_util.tree_leaves_with_path(abstract.params)
        }
        for name in sorted(saved.keys() | wanted.keys()):
            if saved.get(name) != wanted.get(name):
                raise CheckpointError(
                    f"{self.path(step)} is of another model: {name} is {saved.get(name, 'absent')} "
                    f"there and {wanted.get(name, 'absent')} in this config; use another "
                    "--workdir, or the config that the run was started with"
                )

    def _unreadable(self, step: int, error: Exception) -> CheckpointError:
        return CheckpointError(
            f"checkpoint {self.path(step)} cannot be read ({_line(error)}); delete that folder "
            "to go on from the one before"
        )

    def _failed(self, error: Exception) -> CheckpointError:
        folder = self._manager.directory
        mend = "Mend that" if storage.is_remote(folder) else "Free space"
        return CheckpointError(
            f"cannot write a checkpoint to {folder} ({_line(error)}); complete ones: "
            f"{self.steps() or 'none'}. {mend} and run the same command again"
        )


def load_parameters(
    workdir: str | os.PathLike[str], step: int | None = None, best_by: str = ""
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Parameters of a run as NumPy arrays, and what was saved about it; moments are not read.

    Args:
      workdir: of the run, a local folder or one of an object store.
      step: the newest if None, or the best by the held-out figure ``best_by`` if that is given.

    Raises:
      CheckpointError: where the run has no complete checkpoint, or not that one, or cannot be read.
      StorageError: an object store that cannot be reached.
    """
    workdir = storage.reach(workdir)
    with _reading(workdir):
        workdir = chosen_run(workdir)
        if not (workdir / FOLDER).is_dir():
            raise CheckpointError(
                f"{workdir} is no run: it has no {FOLDER}; give the --workdir that one was "
                "trained in"
            )
    checkpoints = Checkpoints(workdir, best_by=best_by, read_only=True)
    if step is not None and step not in checkpoints.steps():
        raise CheckpointError(f"{workdir} has no checkpoint of update {step}")
    if step is None:
        step = checkpoints.best() if best_by else checkpoints.latest()
    if step is None:
        raise CheckpointError(f"no checkpoint in {workdir / FOLDER}; is it a run's --workdir?")
    about = checkpoints.about(step)
    path = checkpoints.path(step) / "state"
    checkpoints.close()
    with _reading(path), ocp.PyTreeCheckpointer() as reader:
        metadata = reader.metadata(path).item_metadata.tree["params"]
        item = {"params": jax.tree.map(lambda leaf: np.zeros(0, leaf.dtype), metadata)}
        places = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), item)
        restored = reader.restore(
            path, ocp.args.PyTreeRestore(item=item, restore_args=places, partial_restore=True)
        )
    return restored["params"], about


def chosen_run(workdir: Path) -> Path:
    """The run itself, or of one that tried several learning rates the run that was kept."""
    path = workdir / CHOICE
    return workdir / json.loads(path.read_text())["kept"] if path.exists() else workdir


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Makes one ``CheckpointError`` of what an object store or its clients refuse."""
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:  # each store has its own kinds
        if not storage.is_remote(path):
            raise
        raise CheckpointError(
            f"cannot read {path} ({_line(error)}); mend that and run the same command again"
        ) from error


def _line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:300] if text else type(error).__name__
