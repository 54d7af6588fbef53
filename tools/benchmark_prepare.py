"""Measures preparation: audio-seconds per second of one core's time, and memory against hours.

    python tools/benchmark_prepare.py
    python tools/benchmark_prepare.py --memory 1 100

The first makes clips of speech-like noise as a lab has them (MP3 at 48 kHz as Common Voice, Opus
and FLAC at 16 kHz as Multilingual LibriSpeech); a worker's own function makes pcm16 shards of
them: decoding, resampling, checks, encoding, writing, committing. Rounds alternate between the
kinds; medians stand beside the machine's limits for the same clips: what the decoder and the
resampler alone take, and what they take with writing the samples into a new file and hashing it.

The second prepares a folder of so many hours of FLAC (few recordings, many links to them) in a
process of its own, and prints the largest memory of that process and of its workers.
"""

import argparse
import contextlib
import dataclasses
import functools
import hashlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import soundfile
import soxr
from benchmark_input import speech_like

from xlsr_jax.data import audio
from xlsr_jax.data.records import SAMPLE_RATE
from xlsr_jax.preparation.corpora.base import Utterance
from xlsr_jax.preparation.shards import Task, make_shard


@dataclasses.dataclass(frozen=True)
class Kind:
    """How clips come, and the seconds a core is to prepare in a second."""

    name: str
    rate: int
    suffix: str
    form: str
    subtype: str
    target: int = 0


KINDS = (
    Kind("mp3 48 kHz", 48_000, "mp3", "MP3", "MPEG_LAYER_III", 500),
    Kind("opus 16 kHz", 16_000, "opus", "OGG", "OPUS"),
    Kind("flac 16 kHz", 16_000, "flac", "FLAC", "PCM_16", 3_000),
)


def make_clips(folder: Path, kind: Kind, count: int) -> tuple[list[Path], float]:
    """Files and their seconds; lognormal lengths, mean 5 s."""
    rng = np.random.default_rng(0)
    seconds = np.clip(rng.lognormal(np.log(5) - 0.08, 0.4, count), 2, 11)
    paths = [folder / f"{number}.{kind.suffix}" for number in range(count)]
    for path, second in zip(paths, seconds, strict=True):
        wave = speech_like(rng, int(second * SAMPLE_RATE))
        if kind.rate != SAMPLE_RATE:
            wave = soxr.resample(wave, SAMPLE_RATE, kind.rate)
        soundfile.write(path, wave, kind.rate, format=kind.form, subtype=kind.subtype)
    return paths, float(seconds.sum())


def processor_seconds(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def shard_of(paths: Sequence[Path], root: str) -> Task:
    said = (Utterance(path.stem, "aa", functools.partial(audio.decode, path)) for path in paths)
    return Task(root, "train/aa-00000.array_record", "train", "aa", "pcm16", tuple(said))


def speeds(count: int, rounds: int) -> None:
    """Prints the table of kinds."""
    with tempfile.TemporaryDirectory() as folder:
        clips = {}
        for kind in KINDS:
            (Path(folder) / kind.suffix).mkdir()
            clips[kind] = make_clips(Path(folder) / kind.suffix, kind, count)
        whole = {kind: [] for kind in KINDS}
        bare = {kind: [] for kind in KINDS}
        least = {kind: [] for kind in KINDS}
        for _ in range(rounds):
            for kind, (paths, seconds) in clips.items():
                task = shard_of(paths, f"{folder}/out-{kind.suffix}")
                whole[kind].append(seconds / processor_seconds(lambda t=task: make_shard(t)))
                bare[kind].append(seconds / processor_seconds(lambda p=paths: _bare(p)))
                new = Path(folder) / "bare"
                least[kind].append(seconds / processor_seconds(lambda p=paths, n=new: _bare(p, n)))
                new.unlink()
    print("audio-seconds per second of one core (median; least and most)")
    for kind in KINDS:
        low, high = min(whole[kind]), max(whole[kind])
        aim = f", aim {kind.target:,}" if kind.target else ""
        print(
            f"  {kind.name:12} {statistics.median(whole[kind]):8,.0f} ({low:,.0f} to {high:,.0f}"
            f"{aim}); decoding and resampling alone {statistics.median(bare[kind]):,.0f}, "
            f"with a file and its hash {statistics.median(least[kind]):,.0f}"
        )


def _bare(paths: Sequence[Path], new: Path | None = None) -> None:
    """What no preparation can do without; samples go into the file ``new`` where there is one."""
    digest = hashlib.sha256()
    with open(new, "wb") if new else contextlib.nullcontext() as file:
        for path in paths:
            wave, rate = soundfile.read(path, dtype="float32")
            if rate != SAMPLE_RATE:
                wave = soxr.resample(wave, rate, SAMPLE_RATE, quality="HQ")
            if file:
                samples = (wave * 32767).astype(np.int16).tobytes()
                file.write(samples)
                digest.update(samples)


def memory(hours: float, workers: int) -> None:
    """Prints what a preparation of so much audio takes."""
    with tempfile.TemporaryDirectory() as folder:
        (first := Path(folder) / "in" / "aa").mkdir(parents=True)
        paths, seconds = make_clips(first, KINDS[-1], 360)
        for copy in range(1, round(hours * 3600 / seconds)):
            for path in paths:
                os.link(path, first / f"{copy}-{path.name}")
        command = ["folder", "--source", f"{folder}/in", "--output", f"{folder}/out"]
        command += ["--workers", str(workers)]
        began = time.monotonic()
        said = subprocess.run(
            [sys.executable, "-c", _MEASURED, *command], capture_output=True, text=True, check=True
        )
        parent, worker = (int(x) / 1024 for x in said.stdout.splitlines()[-1].split())
        print(
            f"{hours:g} h, {len(list(first.iterdir())):,} files: {parent:,.0f} MiB, its workers "
            f"{worker:,.0f} MiB each at most; {time.monotonic() - began:,.0f} s"
        )


_MEASURED = """
import resource, sys
from xlsr_jax.prepare import main
status = main(sys.argv[1:])
peak = [resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF,
                                                      resource.RUSAGE_CHILDREN)]
print(*peak)
sys.exit(status)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=100, help="of each kind")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--memory", type=float, nargs="+", metavar="HOURS", default=[])
    parser.add_argument("--workers", type=int, default=2)
    flags = parser.parse_args()
    if not flags.memory:
        speeds(flags.clips, flags.rounds)
    for hours in flags.memory:
        memory(hours, flags.workers)


if __name__ == "__main__":
    main()
