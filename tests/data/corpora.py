"""Small corpora of known lengths, whose samples tell which record and place they come from."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from xlsr_jax.data import records
from xlsr_jax.data.records import Manifest, Record

STRIDE = 7919  # between the first sample values of consecutive records


def ramp(key: int, samples: int) -> np.ndarray:
    """[samples] float32: a 16-bit counter that wraps round, starting at a value of its own."""
    return (((np.arange(samples) + STRIDE * key) % 65536) - 32768).astype(np.float32) / 32768


def make_corpus(
    root: Path,
    lengths: Mapping[str, Sequence[int]],
    split: str = "train",
    waveform=ramp,
    encoding: str = "pcm16",
    shards: Sequence[records.Shard] = (),
) -> tuple[records.Shard, ...]:
    """Writes a corpus with one shard a language; keys count records through the languages."""
    made, key = list(shards), 0
    for language, samples in lengths.items():
        def utterances(language=language, samples=samples, first=key):
            for number, count in enumerate(samples):
                audio = records.encode_audio(waveform(first + number, count), encoding)
                yield Record(f"{language}-{number}", language, audio, encoding, int(count))

        path = f"{split}/{language}-00000.array_record"
        made.append(records.write_shard(root, path, split, language, utterances()))
        key += len(samples)
    Manifest("ramps", tuple(made), {}, {}).save(root)
    return tuple(made)
