"""A cloud in a folder: slices that live as the scenario says, workers that are folders.

Scenario:
  lives: for each creation the states that describe then tells, one a look, the last for ever.
  errors: for each verb ("create", "describe", "delete", "ssh", "scp", "rsync") what its calls
    answer: null, an error (after "LATE " one that comes though the call worked), or "INTERRUPT"
    (it works, while Ctrl-C is pressed).
  hosts: workers of one slice.
"""

import os
import sys

from notes import SANDBOX, kill, next_of, note, read, shown, write

NODE_STATES = {"READY", "PREEMPTED", "REPAIRING", "TERMINATED"}
SCENARIO = read("scenario")


def main(arguments: list[str]) -> int:
    note("$ " + shown(["gcloud", *arguments]))
    words = [word for word in arguments if not word.startswith("--")]
    options = dict(word[2:].partition("=")[::2] for word in arguments if word.startswith("--"))
    group, verb, *rest = words if words[0] == "storage" else words[2:]
    error = next_of(verb, [*SCENARIO.get("errors", {}).get(verb, []), None])
    if error == "INTERRUPT":
        import signal

        signal.signal(signal.SIGINT, signal.SIG_IGN)
        os.killpg(os.getpgrp(), signal.SIGINT)
    elif error and not error.startswith("LATE "):
        return fail(error)
    verbs = {"create": create, "describe": describe, "delete": delete}
    verbs |= {"ssh": ssh, "scp": scp, "rsync": rsync}
    status = verbs[verb](read("cloud", {"name": None, "life": -1}), group, rest, options)
    return fail(error) if error and error != "INTERRUPT" else status


def fail(message: str) -> int:
    print(f"ERROR: (gcloud) {message}", file=sys.stderr)
    return 1


def create(cloud: dict, group: str, rest: list[str], options: dict[str, str]) -> int:
    nodes = int(options.get("node-count", 1))
    names = [f"{rest[0]}-{n}" for n in range(nodes)] if nodes > 1 else [rest[0]]
    write("cloud", {"name": rest[0], "group": group, "nodes": names, "life": cloud["life"] + 1})
    for node in range(nodes):
        for worker in range(SCENARIO["hosts"]):
            os.makedirs(f"{SANDBOX}/workers/{node}-{worker}")
    return 0


def describe(cloud: dict, group: str, rest: list[str], options: dict[str, str]) -> int:
    queued = cloud["name"] is not None and cloud["group"] == "queued-resources"
    node = queued and group == "tpu-vm" and rest[0] in cloud["nodes"]
    # A node of a request is as the request was last seen; before that it is not there.
    if node and cloud.get("state") in NODE_STATES:
        print(cloud["state"])
        return 0
    if cloud["name"] is None or group != cloud["group"]:
        return fail(f"NOT_FOUND: Resource '{rest[0]}' was not found")
    lives = SCENARIO.get("lives", [["READY"]])
    state = next_of("states", lives[min(cloud["life"], len(lives) - 1)], str(cloud["life"]))
    write("cloud", cloud | {"state": state})
    print("ACTIVE" if queued and state in NODE_STATES else state)
    return 0


def delete(cloud: dict, group: str, rest: list[str], options: dict[str, str]) -> int:
    import shutil

    for worker in workers({"worker": "all", "node": "all"}):
        kill(f"{worker}/.tmux")
        shutil.rmtree(worker)
    write("cloud", {"name": None, "life": cloud["life"]})
    return 0


def workers(options: dict[str, str]) -> list[str]:
    wanted = (options.get("node", "0"), options["worker"])
    return [
        f"{SANDBOX}/workers/{name}"
        for name in sorted(os.listdir(f"{SANDBOX}/workers"))
        if all(part in (is_, "all") for is_, part in zip(name.split("-"), wanted, strict=True))
    ]


def ssh(cloud: dict, group: str, rest: list[str], options: dict[str, str]) -> int:
    failed = 0
    for worker in workers(options):
        # sshd hands the string to the login shell, in the home folder.
        child = os.fork()
        if child == 0:
            os.chdir(worker)
            os.environ["HOME"] = worker
            os.execvp("bash", ["bash", "-c", options["command"]])
        failed |= os.waitpid(child, 0)[1]
    return 255 if failed else 0


def scp(cloud: dict, group: str, rest: list[str], options: dict[str, str]) -> int:
    import shutil

    source, destination = rest
    for worker in workers(options):
        if source.startswith(cloud["name"] + ":"):
            shutil.copy(f"{worker}/{source.partition(':')[2]}", destination)
        else:
            shutil.copy(source, f"{worker}/{destination.partition(':')[2]}")
    return 0


def rsync(cloud: dict, group: str, rest: list[str], options: dict[str, str]) -> int:
    with open(f"{rest[1]}/log.jsonl", "w") as file:
        file.write("{}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
