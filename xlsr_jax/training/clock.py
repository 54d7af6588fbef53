"""Where the time went: throughput, waiting for data, and use of the device's peak."""

import contextlib
import functools
import time
from collections.abc import Iterator
from typing import Any

import jax

from xlsr_jax.parallel.topology import CHIPS

# Dense bf16 peak of one device, FLOP/s, by the start of ``device_kind``. Makers' data sheets:
# TPU v2-v6e from Google Cloud's system architecture pages, A100/H100/H200 from NVIDIA's.
PEAK_FLOPS = {
    "TPU v2": 22.5e12,  # per core: 45 a chip
    "TPU v3": 61.5e12,  # per core: 123 a chip
    "TPU v5": 459e12,  # v5p by another name
    **{chip.kind: chip.flops for chip in CHIPS.values()},
    "Tesla V100": 125e12,  # fp16: it has no bf16
    "NVIDIA A100": 312e12,
    "NVIDIA H100": 989e12,
    "NVIDIA H200": 989e12,
}


def peak_flops(device_kind: str) -> float | None:
    """Peak of one device, or None where it is not known (a CPU's is never assumed)."""
    names = sorted(PEAK_FLOPS, key=len, reverse=True)
    return next((PEAK_FLOPS[name] for name in names if device_kind.startswith(name)), None)


@functools.cache
def _compiled() -> list[float]:
    """Seconds of each program built from now on; there is one list, as nobody can stop listening.

    One that comes from the compilation cache counts too.
    """
    seconds: list[float] = []

    def heard(event: str, duration: float, **_: Any) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            seconds.append(duration)

    jax.monitoring.register_event_duration_secs_listener(heard)
    return seconds


class Clock:
    """Adds up the updates between two log lines."""

    def __init__(self, devices: int, device_kind: str) -> None:
        peak = peak_flops(device_kind)
        self._peak = peak * devices if peak else None
        self._compiled = len(_compiled())
        self.restart()

    def restart(self) -> None:
        """Starts a new window."""
        self._start = time.perf_counter()
        self._waiting = 0.0
        self._audio = 0.0
        self._updates = 0
        self._flops = 0.0
        self._timed_audio = 0.0
        self._timed_updates = 0

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leaves the time of evaluating, saving or compiling out of the window."""
        start = time.perf_counter()
        yield
        self._start += time.perf_counter() - start

    def waited(self, batches: Iterator[Any]) -> Any:
        """The next batch; the time it took counts as waiting for data.

        An accelerator may still be at work on the update before: the share is a bound from above.
        """
        start = time.perf_counter()
        batch = next(batches)
        self._waiting += time.perf_counter() - start
        return batch

    def update(self, audio_seconds: float, flops: float = 0.0, timed: bool = True) -> None:
        """Counts one update of the global batch; not ``timed`` where the clock was paused."""
        self._updates += 1
        self._audio += audio_seconds
        if timed:
            self._timed_updates += 1
            self._timed_audio += audio_seconds
            self._flops += flops

    def figures(self) -> dict[str, float]:
        """Figures of the window; call after its last update has finished on the device."""
        elapsed = time.perf_counter() - self._start
        # Since the figures before, not since ``restart``: what is compiled between them counts.
        compiled, self._compiled = len(_compiled()) - self._compiled, len(_compiled())
        figures = {
            "audio_seconds_per_second": self._timed_audio / elapsed,
            "audio_hours_per_update": self._audio / 3600 / max(1, self._updates),
            "updates_per_second": self._timed_updates / elapsed,
            "data_wait_share": self._waiting / elapsed,
            "compiles": float(compiled),
        }
        if self._peak and self._flops:
            figures["mfu"] = self._flops / elapsed / self._peak
        return figures
