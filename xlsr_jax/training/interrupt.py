"""SIGTERM and Ctrl-C ask the loop to save and stop; all hosts stop at the same update."""

import os
import signal
from types import FrameType

import jax


class Interrupt:
    """Remembers that a stop was asked for; a second Ctrl-C stops at once."""

    def __init__(self) -> None:
        self._signal: signal.Signals | None = None
        self._previous = {}

    def __enter__(self) -> "Interrupt":
        # On several hosts the coordination service owns SIGTERM and tells all; Ctrl-C becomes one.
        own = [signal.SIGINT] if jax.process_count() > 1 else [signal.SIGINT, signal.SIGTERM]
        self._previous = {number: signal.signal(number, self._remember) for number in own}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _remember(self, number: int, _: FrameType | None) -> None:
        if self._signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        if jax.process_count() > 1:
            os.kill(os.getpid(), signal.SIGTERM)
        self._signal = signal.Signals(number)

    def requested(self, step: int) -> str:
        """Why to stop before update ``step``, the same answer on every host; "" to go on."""
        if jax.process_count() > 1:
            from jax.experimental import multihost_utils

            if multihost_utils.reached_preemption_sync_point(step):
                return "SIGTERM on one of the hosts"
            return ""
        return self._signal.name if self._signal else ""
