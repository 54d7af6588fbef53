"""A look at single records of a prepared corpus, and one of them as a WAV file."""

import difflib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from xlsr_jax import storage
from xlsr_jax.data import records
from xlsr_jax.data.records import SAMPLE_RATE, CorpusError, Manifest, Record, Shard

WIDTH = 100  # characters of a text or of phonemes that are shown
_NEAR = 20_000  # ids among which a mistyped one is looked for


def choose(
    root: str | os.PathLike[str],
    *,
    split: str = "",
    language: str = "",
    identity: str = "",
    count: int = 5,
) -> list[tuple[Shard, Record]]:
    """Records with their shards: the one with an id, or ``count`` evenly spread over the chosen.

    An id is looked for in shard after shard; ``split`` and ``language`` say in which.

    Raises:
      CorpusError: no corpus; a split, language or id that it lacks; a damaged shard.
    """
    if count < 1:
        raise CorpusError(f"count must be 1 or more; got {count}")
    manifest = Manifest.load(root)
    shards = _shards(root, manifest, split, language)
    if identity:
        return [_find(root, shards, identity)]
    total = sum(shard.utterances for shard in shards)
    numbers = np.linspace(0, total - 1, min(count, total)).round().astype(int)
    chosen, first = [], 0
    for shard in shards:
        within = [
            int(number) - first for number in numbers if 0 <= number - first < shard.utterances
        ]
        if within:
            chosen += [(shard, record) for record in _read(root, shard, within)]
        first += shard.utterances
    return chosen


def _shards(
    root: str | os.PathLike[str], manifest: Manifest, split: str, language: str
) -> Sequence[Shard]:
    shards = manifest.split(split) if split else manifest.shards
    if not language:
        return shards
    chosen = [shard for shard in shards if shard.language == language]
    if not chosen:
        where = f"split {split} of {root}" if split else f"{root}"
        have = ", ".join(sorted({shard.language for shard in shards}))
        raise CorpusError(f"{where} has no language {language!r}; it has {have}")
    return chosen


def _find(
    root: str | os.PathLike[str], shards: Sequence[Shard], identity: str
) -> tuple[Shard, Record]:
    reason = _reason(root, identity)
    if reason:
        raise CorpusError(f"{identity} is no record of {root}; it was set aside: {reason}")
    others: list[str] = []
    for shard in shards:
        for record in _read(root, shard, range(shard.utterances)):
            if record.id == identity:
                return shard, record
            if len(others) < _NEAR:
                others.append(record.id)
    near = difflib.get_close_matches(identity, others, n=3) or others[:3]
    raise CorpusError(
        f"none of {sum(shard.utterances for shard in shards):,} records looked through has the id "
        f"{identity!r}; there are {', '.join(near)}"
    )


def _reason(root: str | os.PathLike[str], identity: str) -> str:
    path = storage.at(root) / records.REJECTED
    if not path.exists():
        return ""
    with path.open("r") as file:
        for line in map(json.loads, file):
            if line["id"] == identity:
                return line["reason"]
    return ""


def _read(root: str | os.PathLike[str], shard: Shard, numbers: Sequence[int]) -> Iterator[Record]:
    source = records.open_shards(root, [shard])
    for number in numbers:
        try:
            record = Record.from_bytes(source[number])
        except Exception as error:  # array_record raises RuntimeError, msgpack kinds of its own
            raise CorpusError(
                f"record {number} of {shard.path} cannot be read ({error}); "
                f"python -m xlsr_jax.prepare check --output {root} tells which shards are damaged"
            ) from error
        yield record


def describe(shard: Shard, record: Record) -> str:
    """What a record holds, a line each, for people; levels are those of the whole utterance."""
    waveform = record.waveform()
    rms = float(np.sqrt(np.mean(np.square(waveform, dtype=np.float64))))
    peak = float(np.abs(waveform).max())
    fields = {
        "speaker": record.speaker or "unknown",
        "seconds": f"{record.samples / SAMPLE_RATE:.2f} ({record.samples:,} samples at 16 kHz)",
        "audio": f"{record.encoding}, {len(record.audio):,} bytes",
        "level": f"{_decibels(rms)} RMS, peak {_decibels(peak)}",
        "text": _short(record.text),
        "phonemes": _short(record.phonemes),
        "alignment": _aligned(record),
    }
    lines = [f"{record.id}  ({shard.split}, {record.language}, {shard.path})"]
    return "\n".join([*lines, *(f"  {name:<10}{value}" for name, value in fields.items())])


def _decibels(amplitude: float) -> str:
    """Of full scale, which is an amplitude of 1."""
    return f"{20 * np.log10(amplitude):.1f} dBFS" if amplitude else "silence"


def _short(text: str) -> str:
    if not text:
        return "none"
    cut = len(text) > WIDTH
    return text[:WIDTH] + f"... ({len(text):,} characters)" * cut


def _aligned(record: Record) -> str:
    if not record.alignment:
        return "none"
    symbol, start, end = record.alignment[0]
    count = len(record.alignment)
    return (
        f"{count} phone{'s' * (count > 1)}, the first {symbol} at {start / SAMPLE_RATE:.3f} to "
        f"{end / SAMPLE_RATE:.3f} s"
    )


def write_wav(record: Record, path: str | os.PathLike[str]) -> None:
    """Writes a record as 16-bit WAV at 16 kHz, sample by sample what the corpus holds.

    Raises:
      CorpusError: another suffix, or where the file cannot be written.
    """
    import soundfile

    if Path(path).suffix.lower() != ".wav":
        raise CorpusError(f"{path} must end in .wav")
    pcm = np.rint(record.waveform() * 32768).astype(np.int16)
    try:
        soundfile.write(path, pcm, SAMPLE_RATE, subtype="PCM_16")
    except (OSError, soundfile.LibsndfileError) as error:
        raise CorpusError(
            f"cannot write {path}: {error}; name a file in a folder that is there"
        ) from error
