"""Hosts that do not come, differ, fail or die: the others say which, and end."""

import dataclasses
import re
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from tests import runs
from xlsr_jax import runtime
from xlsr_jax.training import roll_call
from xlsr_jax.training.hosts import HostError, Hosts

TIMEOUT = 8.0  # seconds
PROGRAM = """
import json, os, sys, time
import numpy as np
from xlsr_jax import runtime
from xlsr_jax.training import roll_call
from xlsr_jax.training.hosts import HostError, Hosts

address, count, process, timeout, join, facts = sys.argv[1:]
hosts = Hosts(float(timeout))
limits = {"host_timeout": float(timeout), "join_timeout": float(join)}
where = address, int(count), int(process), False
try:
    if "unmet" not in facts:
        roll_call.call(roll_call.find(*where, float(join)), float(join))
except HostError as error:
    sys.exit(f"HostError: {error}")
runtime.start(*where, **limits)
try:
    hosts.meet(json.loads(facts))
except RuntimeError as error:
    print("RuntimeError", error)
    hosts.leave(str(error))
    os._exit(1)
print("met", flush=True)
from jax.experimental import multihost_utils
try:
    while not os.path.exists(f"fail{process}"):
        multihost_utils.process_allgather(np.ones(3))
        time.sleep(0.2)
    print("failed by itself")
    hosts.leave("DemoError: as asked")
except Exception as error:
    hosts.stay()
    print("nobody was named", error)
os._exit(1)
"""


def start(
    folder, count: int, present=None, facts=None, join: float = 100
) -> list[subprocess.Popen]:
    """Processes that meet and then add up until one of them ends."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        address = f"localhost:{probe.getsockname()[1]}"
    return [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, address]
            + [str(value) for value in (count, number, TIMEOUT, join)]
            + [(facts or {}).get(number, "{}")],
            env=runs.environment() | {"PYTHONPATH": str(runs.ROOT)},
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for number in (range(count) if present is None else present)
    ]


def wait_until_met(processes: list[subprocess.Popen]) -> None:
    for process in processes:
        for line in process.stdout:
            if line == "met\n":
                break


def end(processes: list[subprocess.Popen], timeout: float) -> list[str]:
    """What each says until it ends, which has to be with status 1."""
    try:
        said = [process.communicate(timeout=timeout)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [1] * len(processes), said
    assert all("Traceback" not in text and "Fatal Python error" not in text for text in said), said
    return said


HOST = re.escape(socket.gethostname())


@pytest.mark.parametrize("victim", [2, 0], ids=["another", "the coordinator"])
def test_a_dead_host_is_named_within_the_timeout(tmp_path, victim):
    processes = start(tmp_path, 3)
    wait_until_met(processes)
    dead = processes.pop(victim)
    dead.kill()
    since = time.monotonic()
    said = end(processes, timeout=60)
    assert time.monotonic() - since < 2 * TIMEOUT
    line = rf"^lost host {HOST} \(process {victim} of 3\): .*; the same command goes on from"
    for text in said:
        assert re.search(line, text, re.MULTILINE), said
        assert text.count("lost host") == 1, said


def test_a_host_that_fails_says_why_to_all(tmp_path):
    processes = start(tmp_path, 2)
    wait_until_met(processes)
    (tmp_path / "fail1").touch()
    said = end(processes, timeout=60)
    assert "(process 1 of 2) stopped: DemoError: as asked" in said[0]
    assert "failed by itself" in said[1]


def test_hosts_that_differ_are_named(tmp_path):
    facts = {1: '{"config": {"seed": 2}}', 0: '{"config": {"seed": 1}}'}
    said = end(start(tmp_path, 2, facts=facts), timeout=60)
    line = rf"differ in config.seed: 1 on host {HOST} \(process 0 of 2\); 2 on host {HOST} \(pro"
    assert any(re.search(line, text) for text in said), said


def test_a_host_that_waits_in_vain_says_so(tmp_path):
    (said,) = end(start(tmp_path, 2, present=[1], join=3), timeout=100)
    line = (
        r"HostError: process 1 of 2 waited in vain .* nobody answers at localhost:\d+, where proc"
    )
    assert re.match(line, said) and said.count("\n") == 1


def test_one_that_is_lost_after_the_roll_call_says_so(tmp_path):
    (said,) = end(start(tmp_path, 2, present=[1], facts={1: '{"unmet": 1}'}, join=3), timeout=100)
    assert "process 1 of 2 waited in vain for the others: nobody answers at localhost" in said


def test_those_who_came_name_those_who_did_not(tmp_path):
    since = time.monotonic()
    said = end(start(tmp_path, 3, present=[0, 1], join=5), timeout=60)
    assert time.monotonic() - since < 5 + 15, "within the time to join, and that of two starts"
    for text in said:
        assert re.match(r"HostError: 2 of 3 processes came in time .* missing: process 2;", text)
        assert text.count("\n") == 1, said


def test_the_roll_call_names_hosts_and_forgets_who_has_left():
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        address = f"localhost:{probe.getsockname()[1]}"
    cluster = roll_call.Cluster(address, 3, 0, ["a", "b", "c"])
    said = []

    def lead() -> None:
        try:
            roll_call.call(cluster, 4)
        except HostError as error:
            said.append(str(error))

    leader = threading.Thread(target=lead)
    leader.start()
    time.sleep(0.5)
    place = ("localhost", int(address.split(":")[1]))
    with socket.create_connection(place) as left, socket.create_connection(place) as stranger:
        left.sendall(b'{"process": 1, "count": 3, "host": "b", "left": 60}')
        stranger.sendall(b"PRI * HTTP/2.0")
        time.sleep(0.5)
    # The one that has least time left decides for all.
    since = time.monotonic()
    with pytest.raises(HostError, match=r"missing: process 1 \(host b\); see"):
        roll_call.call(dataclasses.replace(cluster, process=2), 1)
    leader.join()
    assert 0.9 < time.monotonic() - since < 2.5 and "process 1 (host b);" in said[0]


@pytest.mark.parametrize(("number", "count"), [(0, 2), (1, 3), (2, 2)])
def test_processes_that_were_started_differently_say_so(number, count):
    assert "is one too many" in roll_call._judge(
        roll_call.Cluster("x:1", 2, 0),
        [{"process": number, "count": count, "host": "b", "deadline": 0}],
        time.monotonic() + 9,
    )


def test_hosts_of_a_slurm_job(monkeypatch):
    assert roll_call.node_names("node[08-10,12],big") == [
        "node08", "node09", "node10", "node12", "big",
    ]  # fmt: skip
    job = {"JOB_ID": 4097, "STEP_NODELIST": "n[1-2]", "NTASKS": 2, "PROCID": 1, "LOCALID": 0}
    for name, value in (job | {"STEP_NUM_TASKS": 2}).items():
        monkeypatch.setenv(f"SLURM_{name}", str(value))
    found = roll_call.find("", 0, -1, runtime.on_a_cluster(), 1)
    assert found == roll_call.Cluster("n1:61441", 2, 1, ["n1", "n2"])
    assert "missing: process 1 (host n2);" in found.absent([0])


def test_an_abort_of_one_process_alone_stays_one():
    program = "import os; from xlsr_jax.training.hosts import Hosts; kept = Hosts(); os.abort()"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, cwd=runs.ROOT)
    assert done.returncode == -signal.SIGABRT
    assert b"most recent call first" in done.stderr, "the trace that says where"


class Store(dict):
    """What ``Hosts`` asks of the coordinator's store."""

    key_value_set = dict.__setitem__

    def blocking_key_value_get(self, key, _):
        return self[key]


def test_a_folder_of_one_s_own_is_named(tmp_path, monkeypatch):
    """Found before the first update, and not at the first checkpoint."""
    hosts = Hosts()
    for name, value in (("count", 2), ("_store", Store()), ("process", 0)):
        monkeypatch.setattr(Hosts, name, value)
    monkeypatch.setattr("xlsr_jax.training.hosts.FOLDER_SECONDS", 0.0)
    hosts.share(tmp_path / "shared")
    monkeypatch.setattr(Hosts, "process", 1)
    hosts.share(tmp_path / "shared")
    with pytest.raises(HostError, match=r"process 1 of 2.* does not see .*local.*gs://bucket"):
        hosts.share(tmp_path / "local")


def test_a_slice_s_process_alone_is_told_to_join(monkeypatch):
    monkeypatch.setattr("jax.process_count", lambda: 8)
    with pytest.raises(HostError, match="one of 8 processes of a slice.* --distributed"):
        Hosts().meet({})
