"""Measures the input pipeline: audio-seconds read per second and core, from shards to batches.

    python tools/benchmark_input.py

Makes a corpus of synthetic speech-like noise (lognormal lengths, mean 5 s) as pcm16 and as FLAC in
a temporary folder, then runs the whole training stream over it: index, shard read, decoding,
whole-file normalization, cropping, stacking. Rounds alternate between the kinds, and medians are
printed beside what the machine does on the same bytes: plain file reads, int16 -> float32
conversion, and FLAC decoding alone. Files are in the page cache, so disks are not measured.

"per core" divides by the processor time of all threads of the process, the rest of the time it
would have waited; "wall" divides by the time that passed with one reading thread.
"""

import argparse
import dataclasses
import io
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy.signal import lfilter

from xlsr_jax.data import records
from xlsr_jax.data.pipeline import DataConfig, plan_training, train_batches
from xlsr_jax.data.records import SAMPLE_RATE, Manifest, Record

LANGUAGES = ("aa", "bb", "cc", "dd")


def speech_like(rng: np.random.Generator, samples: int) -> np.ndarray:
    """[samples] float32: low-pass noise in syllables, over a noise floor 50 dB below."""
    noise = lfilter([0.05], [1, -1.6, 0.75], rng.normal(size=samples))
    syllables = np.sin(np.pi * 4 * np.arange(samples) / SAMPLE_RATE + rng.uniform(0, np.pi)) ** 2
    floor = rng.normal(scale=1e-3, size=samples)
    return np.clip(noise * syllables + floor, -1, 1).astype(np.float32)


def make_corpora(root: Path, utterances: int) -> dict[str, DataConfig]:
    """The same utterances as pcm16 and as FLAC."""
    rng = np.random.default_rng(0)
    seconds = np.clip(rng.lognormal(np.log(5) - 0.08, 0.4, utterances), 2, 11)
    waves = [speech_like(rng, int(second * SAMPLE_RATE)) for second in seconds]
    configs = {}
    for encoding in ("pcm16", "flac"):
        shards = []
        for number, language in enumerate(LANGUAGES):
            mine = waves[number :: len(LANGUAGES)]
            items = (
                Record(f"{language}-{i}", language, records.encode_audio(wave, encoding), encoding,
                       len(wave))
                for i, wave in enumerate(mine)
            )  # fmt: skip
            path = f"train/{language}-00000.array_record"
            shard = records.write_shard(root / encoding, path, "train", language, items)
            shards.append(shard)
        Manifest(encoding, tuple(shards), {}, {}).save(root / encoding)
        configs[encoding] = DataConfig(
            path=str(root / encoding), batch_seconds=160.0, normalize=True, threads=1, prefetch=2
        )
    return configs


def stream_rate(config: DataConfig, steps: int) -> tuple[float, float]:
    """Audio-seconds per wall second and per processor second, of crops handed over."""
    plan = plan_training(config, 2)
    stream = train_batches(plan, seed=0)
    for _ in range(4):  # opens the shards; the batches read ahead even out at the end
        next(stream)
    wall, processor, seconds = time.perf_counter(), time.process_time(), 0.0
    for batch in itertools.islice(stream, steps):
        seconds += batch["waveform"].size / SAMPLE_RATE
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    stream.close()
    return seconds / wall, seconds / processor


def rate(work: Callable[[], None], amount: float) -> float:
    """``amount`` per second, the best of five."""
    times = []
    for _ in range(5):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return amount / min(times)


def machine_limits(root: Path, config: DataConfig) -> list[str]:
    """Lines about what the machine does with the same bytes, on one core."""
    files = sorted((root / "pcm16/train").glob("*.array_record"))
    hours = Manifest.load(config.path).hours("train")
    seconds = sum(hours.values()) * 3600
    size = sum(file.stat().st_size for file in files)
    read = rate(lambda: [file.read_bytes() for file in files], seconds)
    pcm = np.random.default_rng(0).integers(-(2**15), 2**15, 5 * SAMPLE_RATE, dtype=np.int16)
    convert = rate(lambda: [pcm.astype(np.float32) for _ in range(100)], 500)
    wave = speech_like(np.random.default_rng(0), 5 * SAMPLE_RATE)
    encoded = records.encode_audio(wave, "flac")

    import soundfile

    def decode() -> None:
        for _ in range(20):
            soundfile.read(io.BytesIO(encoded), dtype="float32")

    return [
        f"  file read (page cache)     {read:10,.0f} s/s   {read * size / seconds / 1e9:.2f} GB/s",
        f"  int16 -> float32           {convert:10,.0f} s/s",
        f"  FLAC decode (libsndfile)   {rate(decode, 100):10,.0f} s/s",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--utterances", type=int, default=400)
    parser.add_argument("--steps", type=int, default=40, help="updates of 160 s in each round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=0, help="reading processes; times wall only")
    flags = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        configs = make_corpora(Path(folder), flags.utterances)
        rates = {kind: [] for kind in configs}
        for _ in range(flags.rounds):
            for kind, config in configs.items():
                config = dataclasses.replace(config, workers=flags.workers)
                rates[kind].append(stream_rate(config, flags.steps))
        print("whole pipeline, audio-seconds per second (median; all rounds)")
        for kind, target in (("pcm16", 3000), ("flac", 600)):
            wall, core = (statistics.median(column) for column in zip(*rates[kind], strict=True))
            rounds = " ".join(f"{one[0]:,.0f}" for one in rates[kind])
            if flags.workers:
                print(f"  {kind:6} wall {wall:8,.0f} ({rounds}) with {flags.workers} processes")
            else:
                print(f"  {kind:6} per core {core:8,.0f} (target {target:,})  wall {wall:8,.0f} "
                      f"({rounds})")  # fmt: skip
        print("what the machine does on one core")
        print("\n".join(machine_limits(Path(folder), configs["pcm16"])))


if __name__ == "__main__":
    main()
