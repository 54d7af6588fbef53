"""What a worker has, tmux, python and uv, and what SLURM has, srun and scontrol.

Scenario:
  outcomes: what becomes of each start of the training: "running" (until SIGTERM, which it obeys),
    "stopped", or an exit status; a list gives each worker its own.
  checks: whether the check of the workers fails, time by time.
"""

import json
import os
import sys
import time

from notes import SANDBOX, kill, next_of, note, read, shown

HOME = os.environ["HOME"]
WORKER = os.path.basename(HOME)
SCENARIO = read("scenario")


def tmux(arguments: list[str]) -> int:
    session = f"{HOME}/.tmux"
    if arguments[0] == "new-session":
        workers = sorted(os.listdir(f"{SANDBOX}/workers"))
        outcome = next_of("start", SCENARIO.get("outcomes", [0]), WORKER)
        outcome = outcome[workers.index(WORKER)] if isinstance(outcome, list) else outcome
        child = os.fork()
        if child == 0:
            os.setsid()
            os.environ["FAKE_OUTCOME"] = str(outcome)
            os.execvp("bash", ["bash", "-c", arguments[-1]])
        with open(session, "w") as file:
            file.write(str(child))
        if outcome != "running":
            os.waitpid(child, 0)
        while outcome == "running" and not os.path.exists(f"{HOME}/.serving"):
            time.sleep(0.01)
    elif arguments[0] == "has-session":
        return 0 if os.path.exists(session) and alive(session) else 1
    elif arguments[0] == "kill-session":
        kill(session)
    return 0


def alive(session: str) -> bool:
    try:
        with open(session) as file, open(f"/proc/{file.read()}/stat") as stat:
            return ") Z " not in stat.read()
    except FileNotFoundError:
        return False


def python(arguments: list[str]) -> int:
    if arguments[:2] == ["-m", "xlsr_jax.train"]:
        return train(arguments)
    note(f"  {WORKER}: " + shown(["python", *arguments]))
    if arguments[0].endswith("check_workers.py"):
        bad = next_of("check", SCENARIO.get("checks", [0]), WORKER)
        print("2 devices answer, the table says 8" if bad else "the sum agrees")
        return bad
    return 0


def train(arguments: list[str]) -> int:
    with open(f"{SANDBOX}/argv.jsonl", "a") as file:
        file.write(json.dumps({"worker": WORKER, "argv": arguments}) + "\n")
    outcome = os.environ.get("FAKE_OUTCOME", "0")
    if outcome == "running":
        import signal

        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        while not os.path.exists(f"{HOME}/xlsr_jax/pid") and HOME.startswith(SANDBOX + "/workers"):
            time.sleep(0.01)
        with open(f"{HOME}/.serving", "w"):
            signal.sigwait([signal.SIGTERM])
    if outcome in ("running", "stopped"):
        print("update 5: stopping: SIGTERM; the same command goes on from here")
        return 0
    if int(outcome):
        print("XlaRuntimeError: RESOURCE_EXHAUSTED: out of memory")
    return int(outcome)


def uv(arguments: list[str]) -> int:
    note(f"  {WORKER}: " + shown(["uv", *arguments]))
    if arguments[0] == "venv":
        os.makedirs(f"{arguments[-1]}/bin")
        os.symlink(f"{SANDBOX}/bin/python", f"{arguments[-1]}/bin/python")
    return 0


def srun(arguments: list[str]) -> int:
    note("$ " + shown(["srun", *arguments]))
    for name in ("JAX_LOCAL_DEVICE_IDS", "SRUN_CPUS_PER_TASK"):
        note(f"  {name}={os.environ.get(name)}")
    command = [word for word in arguments if not word.startswith(("--ntasks", "--kill"))]
    os.execv(command[0], command)


def scontrol(arguments: list[str]) -> int:
    note("$ " + shown(["scontrol", *arguments]))
    return 0


if __name__ == "__main__":
    name, *rest = sys.argv[1:]
    sys.exit(globals()[name.removesuffix("3")](rest))
