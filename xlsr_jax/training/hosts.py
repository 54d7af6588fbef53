"""The hosts of a run: they agree before the first update, and one that is lost is named.

A process that waits in a collective for a dead one may wait for ever, or is ended by JAX with a
trace that names nobody. So every process leaves a sign of life in the key-value store of JAX's
coordinator ten times within ``timeout`` seconds, and a thread of each watches the others'. Who has
given none for ``timeout`` seconds is lost: the others say its name and end with status 1, process
0 last, within half as much again.

JAX has no public way to the store of ``jax.distributed``; its own libraries take this one.
"""

import contextlib
import ctypes
import faulthandler
import json
import os
import secrets
import signal
import socket
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax._src import distributed

from xlsr_jax import storage

BEATS = 10  # signs of life within the timeout
DONE = "done"
MARK = ".hosts"  # a file of the run's folder that all hosts have to see
FOLDER_SECONDS = 15.0
GO_ON = "the same command goes on from the newest checkpoint"


class HostError(RuntimeError):
    """Hosts that do not belong together."""


class Hosts:
    """All processes of a run; of one process alone, everything here does nothing."""

    def __init__(self, timeout: float = 60.0) -> None:
        """To be made before ``jax.distributed`` begins, so that its failure is one line too.

        Args:
          timeout: seconds without a sign of life after which a process counts as lost.
        """
        self._timeout, self._interval = timeout, timeout / BEATS
        self._names: dict[int, str] = {}
        self._silent = 0  # beats since the coordinator last answered
        self._ended = threading.Event()
        self._telling = threading.Lock()
        self._watching = False
        self._on_abort = _call_on_abort(self._aborted)

    def meet(self, facts: Mapping[str, Any]) -> None:
        """Waits for all processes, compares what they are about to do, and adds up over them.

        Args:
          facts: what has to be the same everywhere (the config, versions), nested by name.

        Raises:
          HostError: they differ, or a sum over all processes is wrong; naming the hosts. Or this
            process did not join the others of its slice.
        """
        if self.count == 1:
            if (others := jax.process_count()) > 1:
                raise HostError(
                    f"this is one of {others} processes of a slice, and has not joined the others; "
                    "give --distributed, on every host"
                )
            return
        self._store.key_value_set(_key("name", self.process), socket.gethostname())
        mine = json.dumps(_flat({"jax": jax.__version__} | dict(facts)))
        self._store.key_value_set(_key("facts", self.process), mine)
        for work in (self._exchange, self._watch):
            threading.Thread(target=work, daemon=True).start()
        self._watching = True  # from here on a process that dies is named by these threads
        deadline, described, missing = time.monotonic() + self._timeout, {}, []
        for process in range(self.count):
            left = max(1, round(1000 * (deadline - time.monotonic())))
            try:
                told = self._store.blocking_key_value_get(_key("facts", process), left)
                described[process] = json.loads(told)
            except RuntimeError:
                missing.append(process)
        if missing:
            raise HostError(
                f"after {self._timeout:g} s nothing is heard of process "
                f"{', '.join(map(str, missing))} of {self.count}; see what it printed"
            )
        self._read_names()
        self._compare(described)
        self._add_up()

    def share(self, folder: Path) -> None:
        """Checks that all processes see one and the same folder, before hours are spent.

        Raises:
          HostError: this one does not see what process 0 wrote there.
        """
        if self.count == 1:
            return
        if self.process == 0:
            word = secrets.token_hex(8)
            storage.make_folder(folder)
            storage.write_atomically(folder / MARK, word.encode())
            self._store.key_value_set(_key("folder"), word)
        word = self._store.blocking_key_value_get(_key("folder"), round(1000 * self._timeout))
        deadline = time.monotonic() + min(FOLDER_SECONDS, self._timeout)
        while True:
            with contextlib.suppress(OSError):
                if (folder / MARK).read_text() == word:
                    return
            if time.monotonic() > deadline:  # a shared disk may show what is new a little later
                raise HostError(
                    f"{self.name(self.process)} does not see what process 0 wrote in {folder}: "
                    "hosts need one folder for all; give --workdir on a disk that they share, or "
                    "gs://bucket/folder"
                )
            time.sleep(0.5)

    @property
    def process(self) -> int:
        return distributed.global_state.process_id

    @property
    def count(self) -> int:
        return distributed.global_state.num_processes

    @property
    def _store(self) -> Any:
        return distributed.global_state.client

    def name(self, process: int) -> str:
        """ "host node3 (process 1 of 4)"."""
        return f"host {self._names.get(process, '')} (process {process} of {self.count})"

    def _read_names(self) -> None:
        if len(self._names) < self.count:
            told = self._store.key_value_dir_get(_key("name"))
            self._names = {_process(key): name for key, name in told}

    def _compare(self, described: Mapping[int, Mapping[str, Any]]) -> None:
        for what in sorted({name for facts in described.values() for name in facts}):
            holders: dict[str, list[str]] = {}
            for process, facts in sorted(described.items()):
                holders.setdefault(str(facts.get(what)), []).append(self.name(process))
            if len(holders) > 1:
                said = "; ".join(f"{value} on {', '.join(on)}" for value, on in holders.items())
                raise HostError(
                    f"the hosts differ in {what}: {said}; start all with the same command and the "
                    "same installation"
                )

    def _add_up(self) -> None:
        """Adds up over all: whoever reaches the coordinator may still not reach the others."""
        from jax.experimental import multihost_utils

        stuck = threading.Timer(self._timeout, self._end, [
            f"{self.name(self.process)}: a first sum over all processes did not come within "
            f"{self._timeout:g} s: they reach the coordinator, but not each other; check firewalls "
            "and the network interface (NCCL_SOCKET_IFNAME, GLOO_SOCKET_IFNAME)"
        ])  # fmt: skip
        stuck.daemon = True
        stuck.start()
        mine = np.int32([self.process, jax.local_device_count()])
        everyone = np.asarray(multihost_utils.process_allgather(mine)).reshape(-1, 2)
        stuck.cancel()
        total = everyone[:, 0].sum()
        if total != self.count * (self.count - 1) // 2:
            raise HostError(f"a sum over {self.count} processes came out wrong ({total})")
        counts = {int(process): {"number of devices": int(n)} for process, n in everyone}
        self._compare(counts)

    def stay(self) -> None:
        """Of an error that may come of a lost process: waits until that would have been named."""
        if self._watching:
            time.sleep(1.5 * self._timeout)

    def leave(self, said: str = "") -> None:
        """Takes leave of the others: at the end, or with the error for which this process ends."""
        if self.count == 1 or self._store is None or self._ended.is_set():
            return
        self._ended.set()
        self._tell(_key("left", self.process), said or DONE)
        if said and self.process == 0:
            time.sleep(2 * self._interval)  # the store ends with process 0: let the others read it

    def _tell(self, key: str, value: str) -> None:
        """Into the store, if it answers soon."""

        def tell() -> None:
            with contextlib.suppress(Exception):
                self._store.key_value_set(key, value, allow_overwrite=True)

        teller = threading.Thread(target=tell, daemon=True)
        teller.start()
        teller.join(2 * self._interval)

    def _exchange(self) -> None:
        """A sign of life, and a look at those of the others.

        Beats are counted, not seconds: a process that was stopped for a while accuses nobody.
        """
        beats: dict[str, str] = {}
        unchanged = dict.fromkeys(range(self.count), 0)
        beat = 0
        while not self._ended.wait(self._interval):
            beat += 1
            try:
                self._store.key_value_set(
                    _key("beat", self.process), str(beat), allow_overwrite=True
                )
                now = dict(self._store.key_value_dir_get(_key("beat")))
                left = dict(self._store.key_value_dir_get(_key("left")))
                lost = dict(self._store.key_value_dir_get(_key("lost")))
                self._read_names()
            except Exception:  # the coordinator does not answer: ``_watch`` counts that
                continue
            self._silent = 0
            gone = {_process(key) for key in left}
            for process in unchanged:
                key = _key("beat", process)
                same = now.get(key) == beats.get(key)
                unchanged[process] = unchanged[process] + 1 if same else 0
            beats = now
            quiet = [p for p, n in unchanged.items() if n >= BEATS - 2 and p not in gone]
            for key, said in left.items():
                if said != DONE:
                    self._end(f"{self.name(_process(key))} stopped: {said}; {GO_ON}")
            if lost or quiet:
                self._lost(sorted(map(_process, lost)) or quiet)

    def _watch(self) -> None:
        """Ends this process where the coordinator no longer answers."""
        while not self._ended.wait(self._interval):
            self._silent += 1
            if self._silent >= BEATS - 2:
                self._lost([0])

    def _lost(self, processes: list[int]) -> None:
        if 0 not in processes:  # which has the store
            for process in processes:
                self._tell(_key("lost", process), "lost")
        names = ", ".join(map(self.name, processes))
        self._end(f"lost {names}: no sign of life for {self._timeout:g} s; {GO_ON}")

    def _end(self, said: str) -> None:
        with self._telling:
            if self._ended.is_set():
                return
            self._ended.set()
            print(said, file=sys.stderr, flush=True)
            if self.process == 0:
                time.sleep(3 * self._interval)  # as in ``leave``
            os._exit(1)

    def _aborted(self) -> None:
        """JAX ends a process by SIGABRT where its coordinator is gone or hosts do not come."""
        address = distributed.global_state.coordinator_address
        if address is None or self.count == 1:
            return
        if self._ended.is_set():
            os._exit(1)
        host, port = address.rsplit(":", 1)
        there = False
        with contextlib.suppress(OSError):
            socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
            there = True
        if not self._names:
            nobody = "not all came" if there else f"nobody answers at {address}"
            said = (
                f"process {self.process} of {self.count} waited in vain for the others: {nobody}; "
                "start all with the same coordinator, and see that its port is open"
            )
        elif there:
            return
        else:
            said = f"lost {self.name(0)}: its connection is closed; {GO_ON}"
        print(said, file=sys.stderr, flush=True)
        os._exit(1)


def _key(kind: str, process: int | None = None) -> str:
    return f"xlsr_jax/{kind}" if process is None else f"xlsr_jax/{kind}/{process}"


def _process(key: str) -> int:
    return int(key.rsplit("/", 1)[1])


def _flat(facts: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"config": {"seed": 1}} as {"config.seed": 1}."""
    flat = {}
    for name, value in facts.items():
        nested = isinstance(value, Mapping)
        flat |= _flat(value, f"{prefix}{name}.") if nested else {prefix + name: value}
    return flat


def _call_on_abort(action: Any) -> Any:
    """Calls ``action`` on SIGABRT, and aborts with a trace where it returns.

    Python's own handlers run after C code returns, which here never does; hence C's ``signal``.
    JAX aborts from a thread that holds no lock of Python's. Returns what must be kept alive.
    """
    try:
        set_handler = ctypes.CDLL(None).signal
    except (AttributeError, OSError):
        return None
    set_handler.argtypes, set_handler.restype = [ctypes.c_int, ctypes.c_void_p], ctypes.c_void_p

    def handler(number: int) -> None:
        set_handler(number, None)  # what C does by default
        action()
        faulthandler.dump_traceback()

    kept = ctypes.CFUNCTYPE(None, ctypes.c_int)(handler)
    set_handler(signal.SIGABRT, ctypes.cast(kept, ctypes.c_void_p))
    return kept
