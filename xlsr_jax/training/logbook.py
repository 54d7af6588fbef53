"""What a run tells: JSON lines, TensorBoard events, a progress bar, a picture of the curves."""

import contextlib
import json
import math
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xlsr_jax import storage
from xlsr_jax.training.mirror import Mirror

LOG = "log.jsonl"
CURVES = "curves.png"


class Logbook:
    """Writes the figures of one run; on all hosts but the first it is silent.

    Lines of ``log.jsonl`` are {"step", "kind", ...figures}, kind being "train", "eval", "event" or
    "alarm". Restarting at a step drops the lines after it, so that a resumed run's log reads like
    an uninterrupted one's.

    In an object store nothing can be appended to: there the log is a local folder, copied to the
    store by a ``Mirror``, and by ``copy``.

    Attributes:
      folder: the local folder that the log is written in; of the first host alone.
    """

    def __init__(self, workdir: Path, start: int, total: int, active: bool = True) -> None:
        self._active = active
        if not active:
            return
        from tqdm import tqdm

        self._mirror = Mirror(workdir, self.say) if storage.is_remote(workdir) else None
        if self._mirror:
            self._mirror.fetch(LOG)
        self.folder = self._mirror.folder if self._mirror else workdir
        self._path = self.folder / LOG
        self._drop_after(start)
        self._file = open(self._path, "a", buffering=1)  # noqa: SIM115, open for the whole run
        self._events = _Events(self.folder / "tensorboard")
        self._alarmed: set[str] = set()
        self._total = total
        self._terminal = sys.stderr.isatty()  # a file gets a plain line for each log line instead
        self._bar = tqdm(
            total=total,
            initial=start,
            unit="update",
            dynamic_ncols=True,
            file=sys.stderr,
            mininterval=0.5,
            smoothing=0.05,
            disable=not self._terminal,
        )
        if self._mirror:
            self._mirror.start()

    def metrics(self, step: int, kind: str, figures: Mapping[str, float]) -> None:
        """One line of figures; values that are not finite are left out."""
        if not self._active:
            return
        figures = {name: float(value) for name, value in figures.items()}
        finite = {name: value for name, value in figures.items() if math.isfinite(value)}
        self._line({"step": step, "kind": kind} | {n: _rounded(v) for n, v in finite.items()})
        try:
            self._events.add(step, {f"{kind}/{name}": value for name, value in finite.items()})
        except OSError as error:
            raise _cannot_write(self._events.path, error) from error

    def event(self, step: int, what: str, **details: Any) -> None:
        """Something that happened: a phase begins, an alarm, a stop."""
        if not self._active:
            return
        self._line({"step": step, "kind": "event", "event": what} | details)
        self.say(f"update {step}: {what}")

    def alarm(self, step: int, name: str, text: str) -> None:
        """Something to look at; the terminal hears of each kind once, the log every time."""
        if not self._active:
            return
        self._line({"step": step, "kind": "alarm", "alarm": name, "text": text})
        if name not in self._alarmed:
            self._alarmed.add(name)
            self.say(f"update {step}: ALARM {name}: {text}")

    def say(self, text: str) -> None:
        """A line for the person at the terminal, above the progress bar."""
        if self._active:
            self._bar.write(text, file=sys.stderr)
            sys.stderr.flush()

    def advance(self, step: int, shown: Mapping[str, str] | None = None) -> None:
        if not self._active:
            return
        if shown:
            self._bar.set_postfix(shown, refresh=False)
            if not self._terminal:
                figures = ", ".join(f"{name} {value}" for name, value in shown.items())
                self.say(f"update {step} of {self._total}: {figures}")
        self._bar.update(step - self._bar.n)

    def copy(self) -> None:
        """Copies the log to the object store of the run, if it has one; never fails."""
        if self._active and self._mirror:
            self._mirror.copy()

    def close(self) -> None:
        if self._active:
            self._bar.close()
            with contextlib.suppress(OSError):  # what could not be written has been raised before
                self._events.close()
                self._file.close()
            if self._mirror:
                self._mirror.close()

    def _line(self, entry: Mapping[str, Any]) -> None:
        try:
            self._file.write(json.dumps(entry, ensure_ascii=False) + "\n")
        except OSError as error:
            raise _cannot_write(self._path, error) from error

    def _drop_after(self, step: int) -> None:
        if not self._path.exists():
            return
        kept = [entry for entry in read_log(self._path) if entry["step"] <= step]
        partial = self._path.with_suffix(".partial")
        partial.write_text("".join(json.dumps(e, ensure_ascii=False) + "\n" for e in kept))
        partial.replace(self._path)


class _Events:
    """TensorBoard events, written at once: a writer in a thread would hide a full disk."""

    def __init__(self, folder: Path) -> None:
        from tensorboardX.event_file_writer import EventsWriter

        folder.mkdir(parents=True, exist_ok=True)
        self._writer = EventsWriter(str(folder / "events"))
        self.path = folder

    def add(self, step: int, figures: Mapping[str, float]) -> None:
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.proto.summary_pb2 import Summary

        values = [Summary.Value(tag=name, simple_value=value) for name, value in figures.items()]
        event = Event(wall_time=time.time(), step=step, summary=Summary(value=values))
        self._writer.write_event(event)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


def _cannot_write(path: Path, error: OSError) -> OSError:
    return OSError(
        f"cannot write {path} ({error.strerror or error}); free space and run the same "
        "command again: it goes on from the last checkpoint"
    )


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")


def read_log(path: Path) -> list[dict[str, Any]]:
    """The entries of a log; a last line cut short by a kill is left out."""
    entries = []
    for line in path.read_text().splitlines():
        try:
            entries.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return entries


PANELS = (  # (title, unit, train figure, held-out figure, reference figure)
    ("Contrastive loss", "nats per masked frame", "contrastive_loss", "chance_loss"),
    ("Contrastive accuracy", "share of masked frames", "accuracy", "chance_accuracy"),
    ("Code perplexity", "both groups, 2 is collapse", "code_perplexity", None),
    ("Error rate", "greedy decoding, of the labels", "error_rate", None),
    ("CTC loss", "nats per label", "loss_per_label", None),
    ("Warm start", "share of log-mel variance explained", "r2", None),
    ("Gradient norm", "before clipping", "grad_norm", None),
    ("Throughput", "audio-seconds per second", "audio_seconds_per_second", None),
)


def draw_curves(workdir: Path, title: str) -> Path:
    """Draws ``log.jsonl`` as ``curves.png``; panels whose figures never came are left out."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    entries = read_log(workdir / LOG)
    panels = [panel for panel in PANELS if any(panel[2] in entry for entry in entries)]
    columns = min(3, max(1, len(panels)))
    rows = max(1, math.ceil(len(panels) / columns))
    figure, axes = plt.subplots(rows, columns, figsize=(4.6 * columns, 3.2 * rows), squeeze=False)
    for axis, (name, unit, key, reference) in zip(axes.flat, panels, strict=False):
        for kind, style in (
            ("train", {"color": "0.6", "lw": 1}),
            ("eval", {"color": "C0", "lw": 2}),
        ):
            points = [(e["step"], e[key]) for e in entries if e["kind"] == kind and key in e]
            if points:
                marker = "o" if kind == "eval" else None
                label = "held out" if kind == "eval" else "training"
                axis.plot(*zip(*points, strict=True), marker=marker, ms=3, label=label, **style)
        level = [(e["step"], e[reference]) for e in entries if reference in e]
        if level:
            level = sorted(dict(level).items())
            axis.plot(*zip(*level, strict=True), color="C3", ls="--", lw=1, label="chance")
        if key == "r2":
            axis.set_ylim(-0.1, 1.0)
        axis.set_title(name, loc="left", fontsize=11)
        axis.set_ylabel(unit, fontsize=8)
        axis.set_xlabel("update", fontsize=8)
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(fontsize=7, frameon=False)
    for axis in axes.flat[len(panels) :]:
        axis.axis("off")
    figure.suptitle(title, fontsize=12)
    figure.tight_layout()
    path = workdir / CURVES
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path
