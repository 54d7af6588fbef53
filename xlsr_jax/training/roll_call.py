"""The roll call of a run of several processes: who is missing is named before JAX waits in vain.

``jax.distributed`` ends all processes where one does not come in time, and names none. So they meet
first, at the address that its coordinator takes a moment later: each process tells its number and
host to process 0 and keeps the connection open, for as long as it is there. When all are there or
the first has no time left, process 0 tells everyone.
"""

import contextlib
import dataclasses
import json
import os
import re
import selectors
import socket
import time
from collections.abc import Iterable, Sequence

from xlsr_jax.training.hosts import HostError

LISTED = 8  # missing processes in a message
SLACK = 5.0  # seconds that the others wait for what process 0 has to say


@dataclasses.dataclass(frozen=True)
class Cluster:
    """Where the processes meet: process 0's "host:port", their number, and which this is.

    Attributes:
      hosts: of each process, where the cluster tells; empty elsewhere.
    """

    address: str
    count: int
    process: int
    hosts: Sequence[str] = ()

    def absent(self, present: Iterable[int]) -> str:
        """What to say of those who are not present."""
        missing = sorted(set(range(self.count)) - set(present))
        names = [f"{x} (host {self.hosts[x]})" if self.hosts else str(x) for x in missing[:LISTED]]
        rest = f" and {len(missing) - LISTED} more" if len(missing) > LISTED else ""
        return (
            f"{self.count - len(missing)} of {self.count} processes came in time (--join_timeout); "
            f"missing: process {', '.join(names)}{rest}; see what was printed there, that it runs "
            f"the same command, and that it reaches {self.address}"
        )


def find(
    coordinator: str, processes: int, process_id: int, clustered: bool, timeout: float
) -> Cluster | None:
    """The cluster that ``runtime.start`` will join; None for one process, or where JAX must tell.

    The first three are as there; ``clustered`` where JAX is to find the others itself. It has no
    public way to what it knows of a cluster.
    """
    from jax._src.clusters import ClusterEnv

    given = [bool(coordinator), processes > 0, process_id >= 0]
    if all(given):
        return Cluster(coordinator, processes, process_id)
    if any(given) or not clustered:
        return None
    with contextlib.suppress(Exception):  # JAX will say what is wrong
        kinds = [env for env in ClusterEnv._cluster_types if not env.opt_in_only_method]
        env = next(env for env in kinds if env.is_env_present())
        address = os.environ.get("JAX_COORDINATOR_ADDRESS") or env.get_coordinator_address(
            timeout_secs=int(timeout),
            override_coordinator_port=os.environ.get("JAX_COORDINATOR_PORT"),
        )
        count, hosts = env.get_process_count(), []
        with contextlib.suppress(Exception):
            workers = getattr(env, "_get_worker_list_in_slice", None)
            hosts = workers() if workers else node_names(os.environ["SLURM_STEP_NODELIST"])
        return Cluster(address, count, env.get_process_id(), hosts if len(hosts) == count else ())
    return None


def node_names(listed: str) -> list[str]:
    """SLURM's "node[08-10,12],big" as ["node08", "node09", "node10", "node12", "big"]."""
    names = []
    for stem, numbers in re.findall(r"([^\[\],]+)(?:\[([\d,-]+)\])?", listed):
        for part in numbers.split(","):
            first, _, last = part.partition("-")
            ends = range(int(first), int(last or first) + 1) if part else [""]
            names += [f"{stem}{end:0{len(first)}d}" if part else stem for end in ends]
    return names


def call(cluster: Cluster | None, timeout: float) -> None:
    """Returns when all processes are there, at once for one alone.

    Raises:
      HostError: some are not within ``timeout`` seconds, or do not belong together; by name.
    """
    if cluster is None or cluster.count == 1:
        return
    host, port = cluster.address.rsplit(":", 1)
    deadline = time.monotonic() + timeout
    if cluster.process == 0:
        said = _lead(cluster, int(port), deadline)
    else:
        said = _follow(cluster, (host.strip("[]"), int(port)), deadline)
    if said:
        raise HostError(said)


def _lead(cluster: Cluster, port: int, deadline: float) -> str:
    """Process 0; returns what is wrong, which the others have been told by then."""
    try:
        if socket.has_dualstack_ipv6():
            kind = {"family": socket.AF_INET6, "dualstack_ipv6": True}
        else:
            kind = {"family": socket.AF_INET}
        server = socket.create_server(("", port), backlog=1024, **kind)
    except OSError as error:
        return f"process 0 cannot listen at port {port}: {error.strerror}; take another port"
    guests: dict[socket.socket, dict] = {}  # and what they said
    with selectors.DefaultSelector() as selector:
        selector.register(server, selectors.EVENT_READ)
        while (said := _judge(cluster, [x for x in guests.values() if x], deadline)) is None:
            for key, _ in selector.select(0.2):
                guest = key.fileobj
                if guest is server:
                    guest = server.accept()[0]
                    guest.setblocking(False)
                    guests[guest] = {}
                    selector.register(guest, selectors.EVENT_READ)
                    continue
                try:  # it comes in one piece
                    told = json.loads(guest.recv(4096))
                    guests[guest] = told | {"deadline": time.monotonic() + told["left"]}
                except (OSError, ValueError, TypeError, KeyError):  # gone, or none of ours
                    selector.unregister(guest)
                    guest.close()
                    del guests[guest]
    server.close()  # before the others look for JAX there
    for guest in guests:
        with guest, contextlib.suppress(OSError):
            guest.sendall(json.dumps(said).encode() + b"\n")
    return said


def _judge(cluster: Cluster, guests: Sequence[dict], deadline: float) -> str | None:
    """What is wrong, "" where all are there, None where there is still time."""
    present = {0}
    for guest in guests:
        process, count = guest["process"], guest["count"]
        if count != cluster.count or process in present or process >= count:
            return (
                f"process {process} of {count} on host {guest['host']} is one too many, or counts "
                f"differently: process 0 waits for each of {cluster.count} once; start all with "
                "the same command, and each with its own --process_id"
            )
        present.add(process)
        deadline = min(deadline, guest["deadline"])
    if len(present) == cluster.count:
        return ""
    return cluster.absent(present) if time.monotonic() >= deadline else None


def _follow(cluster: Cluster, place: tuple[str, int], deadline: float) -> str:
    """Another process; returns what process 0 says."""
    about = {"process": cluster.process, "count": cluster.count, "host": socket.gethostname()}
    while (left := deadline - time.monotonic()) > 0:
        with contextlib.suppress(OSError):  # not there yet, or gone again
            with socket.create_connection(place, timeout=min(left, SLACK)) as connection:
                connection.sendall(json.dumps(about | {"left": left}).encode())
                connection.settimeout(left + SLACK)
                answer = connection.makefile("rb").readline()
            if answer.endswith(b"\n"):
                return json.loads(answer)
        time.sleep(0.1)
    return (
        f"process {cluster.process} of {cluster.count} waited in vain for the others: nobody "
        f"answers at {cluster.address}, where process 0 should be; start all with the same "
        "coordinator, and see that its port is open"
    )
