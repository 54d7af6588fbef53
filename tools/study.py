"""What the tools that compare trainings share: runs side by side, test rates, intervals."""

import concurrent.futures
import json
import math
import os
import queue
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
AVERAGE = "average"
T_95 = {2: 12.71, 3: 4.303, 4: 3.182, 5: 2.776}  # Student's t, two-sided, by number of seeds


def side_by_side(measure: Callable[..., Any], tasks: Sequence[tuple], jobs: int) -> list[Any]:
    """``measure(*task, cores)`` of each task, ``jobs`` at a time, each on cores of its own."""
    cores = sorted(os.sched_getaffinity(0))
    jobs = min(jobs, len(cores))
    free = queue.SimpleQueue()
    for job in range(jobs):
        free.put(cores[job::jobs])

    def one(task: tuple) -> Any:
        own = free.get()
        try:
            return measure(*task, own)
        finally:
            free.put(own)

    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        return list(pool.map(one, tasks))


def run(cores: Sequence[int], *command: object) -> None:
    """A Python command of this project on some cores; ends the program where it fails."""
    print(" ".join(map(str, command)), file=sys.stderr, flush=True)
    arguments = [sys.executable, *map(str, command)]
    done = subprocess.run(arguments, preexec_fn=lambda: os.sched_setaffinity(0, cores))
    if done.returncode:
        sys.exit(f"stopped: {' '.join(map(str, command[:2]))} failed; its last line says why")


def test_rates(folder: Path, cores: Sequence[int]) -> dict[str, float]:
    """Corpus-level PER of a fine-tuned run on its test split, by language and as their average."""
    report = folder / "test" / "report.json"
    if not report.exists():
        flags = f"--run={folder}", "--split=test", f"--output={report.parent}"
        run(cores, "-m", "xlsr_jax.evaluate", *flags)
    languages = json.loads(report.read_text())["units"]["phoneme"]["languages"]
    rates = {name: figures["corpus_rate"] for name, figures in languages.items()}
    return rates | {AVERAGE: statistics.mean(rates.values())}


def interval(rates: Sequence[float]) -> tuple[float, float]:
    """Mean and half of the 95 % interval over seeds; nan where one seed gives none."""
    if len(rates) not in T_95:
        return statistics.mean(rates), math.nan
    return statistics.mean(rates), T_95[len(rates)] * statistics.stdev(rates) / len(rates) ** 0.5
