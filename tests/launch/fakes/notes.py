"""What the fakes share: the transcript, and a scenario whose lists are used up call by call.

A test calls the fakes some thirty times: they import little, and heavy modules where used.
"""

import json
import os

SANDBOX = os.environ["FAKE_SANDBOX"]


def note(line: str) -> None:
    """Appends a line to the transcript, between the lines that the script itself writes there."""
    with open(f"{SANDBOX}/transcript", "a") as file:
        file.write(line + "\n")


def shown(words: list[str]) -> str:
    """A command line as a person reads it: a word quoted only where a shell would change it."""
    quoted = "'{}'"
    return " ".join(
        quoted.format(word.replace("'", "'\\''")) if set(word) & set(" '\"$&;|<>\\") else word
        for word in words
    )


def read(name: str, default: object = None) -> object:
    """What file ``name`` of the sandbox holds."""
    try:
        with open(f"{SANDBOX}/{name}.json") as file:
            return json.load(file)
    except FileNotFoundError:
        return default


def write(name: str, value: object) -> None:
    with open(f"{SANDBOX}/{name}.json", "w") as file:
        json.dump(value, file)


def next_of(name: str, values: list, key: str = "") -> object:
    """The next of ``values`` each time it is asked for ``name``; the last one for ever."""
    counters = read("counters", {})
    place = counters.get(name + key, 0)
    write("counters", counters | {name + key: place + 1})
    return values[min(place, len(values) - 1)] if values else None


def kill(session: str) -> None:
    """Ends all processes of a fake tmux session, whose number the file holds."""
    try:
        with open(session) as file:
            os.killpg(int(file.read()), 9)
    except (FileNotFoundError, ProcessLookupError):
        pass
