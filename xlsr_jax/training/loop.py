"""The training loop, read top-down: evaluate, save, next batch, update, log."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from xlsr_jax.parallel.mesh import batch_sharding
from xlsr_jax.schema import setting
from xlsr_jax.training.checkpoint import Checkpoints
from xlsr_jax.training.clock import Clock
from xlsr_jax.training.interrupt import Interrupt
from xlsr_jax.training.logbook import Logbook
from xlsr_jax.training.state import Params, TrainState
from xlsr_jax.training.step import Sums, eval_step, train_step

HostBatch = Mapping[str, np.ndarray]
SAMPLE_RATE = 16_000  # Hz


class TrainingStopped(RuntimeError):
    """The run cannot sensibly go on; the message says what was seen and what to try."""


@dataclasses.dataclass(frozen=True)
class LoopConfig:
    """How long, how often, and when to give up."""

    updates: int = setting(400_000, "updates of the main phase", low=1)
    accumulation: int = setting(1, "microbatches an update is cut into", low=1)
    log_every: int = setting(100, "updates between log lines", low=1)
    eval_every: int = setting(5_000, "updates between evaluations; 0 for the last only", low=0)
    save_every: int = setting(5_000, "updates between checkpoints; 0 for the last only", low=0)
    keep: int = setting(2, "latest checkpoints kept, beside the best one", low=1)
    max_nonfinite: int = setting(20, "updates skipped in a row before the run stops", low=1)
    stop_on_alarm: bool = setting(False, "stop at a collapse or not-learning alarm")


class Objective(Protocol):
    """What the loop knows of a method: sums of a batch, and their summary.

    Attributes:
      best_by: the held-out figure that is lowest at the checkpoint worth keeping.
    """

    best_by: str

    def init(self, key: jax.Array) -> Params: ...

    def loss(
        self,
        params: Params,
        batch: Mapping[str, jax.Array],
        key: jax.Array,
        step: jax.Array,
        *,
        train: bool,
        microbatches: int = 1,
    ) -> Sums: ...

    def summarize(self, sums: Sums) -> dict[str, jax.Array]: ...

    def alarms(self, figures: Mapping[str, float], step: int) -> Mapping[str, str]: ...

    def flops(self, rows: int, samples: int) -> float: ...


@dataclasses.dataclass(frozen=True)
class Phase:
    """A stretch of the run with one objective and one optimizer, over the same parameters."""

    name: str
    objective: Objective
    optimizer: optax.GradientTransformation
    learning_rate: Callable[[int], float]
    start: int
    updates: int


@dataclasses.dataclass(frozen=True)
class Run:
    """All that ``train`` needs, made by ``experiment``.

    Attributes:
      phases: in order, without gaps; the first starts at 0.
      open_batches: step -> this host's share of batch step, step + 1, ...
      eval_batches: () -> this host's share of the held-out batches, the same number on all hosts.
      key, eval_key: of everything drawn in updates, and in evaluations.
      about: saved with each checkpoint.
      load_update: (phase, batch) -> an update compiled earlier and where it was found, or None and
        why there is none; it is compiled then, as all are without this.
    """

    config: LoopConfig
    phases: Sequence[Phase]
    open_batches: Callable[[int], Iterator[HostBatch]]
    eval_batches: Callable[[], Iterator[HostBatch]]
    mesh: Mesh
    key: jax.Array
    eval_key: jax.Array
    checkpoints: Checkpoints
    logbook: Logbook
    about: Mapping[str, Any]
    load_update: Callable[[Phase, Mapping[str, jax.Array]], tuple[Any, str]] | None = None


def train(run: Run, state: TrainState) -> bool:
    """Trains from ``state`` to the end of the last phase, or to a stop signal.

    Returns whether it came to the end without one.

    Raises:
      TrainingStopped: too many updates in a row were not finite, or an alarm stops the run.
      CheckpointError: a checkpoint could not be written.
    """
    config, total = run.config, run.phases[-1].start + run.phases[-1].updates
    start = int(state.step)
    if start >= total:
        run.logbook.say(f"already at update {start} of {total}: nothing to do")
        return True
    programs = _Programs(run)
    clock = Clock(jax.device_count(), jax.devices()[0].device_kind)
    batches = run.open_batches(start)
    window = _Window()
    with Interrupt() as interrupt:
        for step in range(start, total + 1):
            phase = _phase_at(run.phases, step)
            stop = interrupt.requested(step)
            if step > start:
                with clock.paused():
                    held_out: dict[str, float] = {}
                    if _due(step, config.eval_every, total) or step == phase.start:
                        before = _phase_at(run.phases, step - 1)
                        held_out = _evaluate(run, programs, before, state, step)
                    if _due(step, config.save_every, total) or stop:
                        run.checkpoints.save(step, state, run.about | {"step": step}, held_out)
            if stop:
                run.logbook.event(step, f"stopping: {stop}; the same command goes on from here")
                break
            if step == total:
                break
            if step == phase.start:
                run.logbook.event(step, f"phase {phase.name} begins, {phase.updates} updates")
                state = programs.fresh_moments(phase, state)

            batch = clock.waited(batches)
            arrays = to_global(batch, run.mesh)
            rows, samples = arrays["waveform"].shape
            first = programs.is_new(phase, arrays)
            with clock.paused() if first else contextlib.nullcontext():
                what = f"{phase.name} for {rows} x {samples / SAMPLE_RATE:.2f} s"
                loaded = first and programs.load(phase, arrays, what)
                state, sums = programs.update(phase, state, arrays, run.key)
                if first:  # compiling is not training time
                    jax.block_until_ready(sums)
                    if not loaded:
                        run.logbook.say(f"compiled {what}")
            audio = rows * float(batch["samples"].mean()) / SAMPLE_RATE
            clock.update(audio, phase.objective.flops(rows, samples), timed=not first)
            window.add(step, sums, batch)
            run.logbook.advance(step + 1)
            if _due(step + 1, config.log_every, phase.start + phase.updates):
                _log(run, programs, phase, step + 1, state, window, clock)
                window = _Window()
                clock.restart()
        run.checkpoints.wait()
    return not stop


def _due(step: int, every: int, last: int) -> bool:
    return step == last or (every > 0 and step % every == 0)


def _phase_at(phases: Sequence[Phase], step: int) -> Phase:
    return [phase for phase in phases if phase.start <= step][-1]


def to_global(batch: HostBatch, mesh: Mesh) -> dict[str, jax.Array]:
    """Joins every host's rows into arrays over the mesh; rows keep their global order."""
    place = batch_sharding(mesh)
    return {
        name: jax.make_array_from_process_local_data(place, value) for name, value in batch.items()
    }


def make_update(phase: Phase, accumulation: int) -> Any:
    """The jitted update of a phase: (state, global batch, key) -> (next state, sums)."""
    loss = partial(phase.objective.loss, train=True, microbatches=accumulation)
    step = partial(train_step, loss, phase.optimizer, accumulation, phase.start)
    return jax.jit(step, donate_argnums=0)


Kind = tuple[str, int, frozenset[str]]


def _kind(phase: Phase, batch: Mapping[str, jax.Array]) -> Kind:
    """What batches of one compiled update share."""
    return phase.name, batch["waveform"].shape[1], frozenset(batch)


class _Programs:
    """The compiled programs of each phase."""

    def __init__(self, run: Run) -> None:
        self._seen: set[Kind] = set()
        self._load, self._say = run.load_update, run.logbook.say
        self._loaded: dict[Kind, Any] = {}
        self._updates = {
            phase.name: make_update(phase, run.config.accumulation) for phase in run.phases
        }
        self._evaluations = {
            phase.name: jax.jit(partial(eval_step, partial(phase.objective.loss, train=False)))
            for phase in run.phases
        }
        self._summaries = {phase.name: jax.jit(phase.objective.summarize) for phase in run.phases}

    def is_new(self, phase: Phase, batch: Mapping[str, jax.Array]) -> bool:
        """Whether this is the first batch of its length and kind, which has to be compiled."""
        kind = _kind(phase, batch)
        new = kind not in self._seen
        self._seen.add(kind)
        return new

    def load(self, phase: Phase, batch: Mapping[str, jax.Array], what: str) -> bool:
        """Loads the update of a kind of batch where it was compiled earlier; whether it did."""
        if self._load is None:
            return False
        update, told = self._load(phase, batch)
        self._say(f"{'not ' if update is None else ''}loaded {what}: {told}")
        if update is not None:
            self._loaded[_kind(phase, batch)] = update
        return update is not None

    def update(self, phase: Phase, state: TrainState, batch: Any, key: jax.Array) -> Any:
        loaded = self._loaded.get(_kind(phase, batch))
        if loaded is not None:
            try:
                return loaded(state, batch, key)
            except (TypeError, ValueError) as error:  # it wants other arrays; nothing has run yet
                del self._loaded[_kind(phase, batch)]
                said = " ".join(str(error).split())[:300]
                self._say(f"what was loaded for {phase.name} is compiled after all: {said}")
        return self._updates[phase.name](state, batch, key)

    def evaluate(self, phase: Phase, state: TrainState, batch: Any, key: jax.Array) -> Sums:
        return self._evaluations[phase.name](state, batch, key)

    def summarize(self, phase: Phase, sums: Sums) -> dict[str, float]:
        """The objective's figures, and the update's own norms where it was one."""
        norms = {name: sums[name] for name in ("grad_norm", "param_norm") if name in sums}
        rest = {name: value for name, value in sums.items() if name not in norms}
        figures = jax.device_get(self._summaries[phase.name](rest))
        for name, (numerator, denominator) in jax.device_get(norms).items():
            figures[name] = numerator / max(denominator, 1.0)
        return {name: float(value) for name, value in figures.items()}

    def fresh_moments(self, phase: Phase, state: TrainState) -> TrainState:
        places = jax.tree.map(lambda leaf: leaf.sharding, state.opt_state)
        make = jax.jit(phase.optimizer.init, out_shardings=places)
        return state.replace(opt_state=make(state.params))


@jax.jit
def _add(total: Sums, sums: Sums) -> Sums:
    return jax.tree.map(jnp.add, total, sums)


class _Window:
    """Sums since the last log line, left on the device until they are read."""

    def __init__(self) -> None:
        self.sums: Sums | None = None
        self._updates: list[tuple[int, jax.Array, list[int]]] = []

    def add(self, step: int, sums: Sums, batch: HostBatch) -> None:
        self.sums = sums if self.sums is None else _add(self.sums, sums)
        records = batch["record"].tolist() if "record" in batch else []
        self._updates.append((step, sums["grad_norm"][1], records))

    def skipped(self) -> dict[int, list[int]]:
        """Steps whose update was left out, with the record numbers that this host read for them."""
        return {step: records for step, finite, records in self._updates if not float(finite)}


def _evaluate(
    run: Run, programs: _Programs, phase: Phase, state: TrainState, step: int
) -> dict[str, float]:
    """Held-out figures of the phase that ends or goes on at ``step``."""
    total: Sums | None = None
    # Rows of held-out batches carry their record number, so that each utterance has its own masks
    # and distractors, the same at every evaluation and on any number of devices.
    for batch in run.eval_batches():
        sums = programs.evaluate(phase, state, to_global(batch, run.mesh), run.eval_key)
        total = sums if total is None else _add(total, sums)
    if total is None:
        return {}
    figures = programs.summarize(phase, total)
    run.logbook.metrics(step, "eval", figures)
    run.logbook.say(f"update {step}: held out: {_headline(figures)}")
    return figures


def _log(
    run: Run,
    programs: _Programs,
    phase: Phase,
    step: int,
    state: TrainState,
    window: _Window,
    clock: Clock,
) -> None:
    figures = programs.summarize(phase, window.sums) | clock.figures()
    figures["learning_rate"] = float(phase.learning_rate(step - 1 - phase.start))
    figures["skipped_updates"] = float(state.skipped)
    run.logbook.metrics(step, "train", figures)
    run.logbook.advance(step, _shown(figures))
    skipped = window.skipped()
    if skipped:
        what = (
            f"{len(skipped)} updates were not finite and left out: {', '.join(map(str, skipped))}"
        )
        run.logbook.event(step, what, records={str(at): numbers for at, numbers in skipped.items()})
    in_a_row = max(_longest_run(list(skipped)), int(state.skipped_in_a_row))
    if in_a_row >= run.config.max_nonfinite:
        raise TrainingStopped(
            f"{in_a_row} updates in a row were not finite (the last: {list(skipped)[-3:]}); lower "
            "config.optimizer.peak_lr or set config.optimizer.clip_norm, then "
            "run the same command: it goes on from the last checkpoint"
        )
    for name, text in phase.objective.alarms(figures, step - phase.start).items():
        run.logbook.alarm(step, name, text)
        if run.config.stop_on_alarm:
            raise TrainingStopped(f"{name}: {text} (config.training.stop_on_alarm is set)")


def _longest_run(steps: Sequence[int]) -> int:
    """Length of the longest stretch of consecutive numbers in an ascending list."""
    longest = current = 0
    for before, step in zip([None, *steps], steps, strict=False):
        current = current + 1 if before is not None and step == before + 1 else 1
        longest = max(longest, current)
    return longest


def _shown(figures: Mapping[str, float]) -> dict[str, str]:
    """What the progress bar tells."""
    shown = {}
    if "contrastive_loss" in figures:
        shown["loss"] = f"{figures['contrastive_loss']:.3f} (chance {figures['chance_loss']:.3f})"
        shown["accuracy"] = f"{figures['accuracy']:.3f} (chance {figures['chance_accuracy']:.3f})"
    if "code_perplexity" in figures:
        shown["perplexity"] = f"{figures['code_perplexity']:.1f}"
    if "loss_per_label" in figures:
        shown["loss per label"] = f"{figures['loss_per_label']:.3f}"
    if "error_rate" in figures:
        shown["error rate"] = f"{figures['error_rate']:.1%}"
    if "r2" in figures:
        shown["r2"] = f"{figures['r2']:.3f}"
    shown["audio s/s"] = f"{figures['audio_seconds_per_second']:.0f}"
    return shown


def _headline(figures: Mapping[str, float]) -> str:
    shown = (
        "contrastive_loss",
        "chance_loss",
        "accuracy",
        "chance_accuracy",
        "code_perplexity",
        "r2",
        "loss_per_label",
        "error_rate",
    )
    return ", ".join(f"{name} {figures[name]:.4g}" for name in shown if name in figures)
