"""Records on disk: ArrayRecord shards, their length index, and the manifest of a corpus.

A prepared corpus is a directory:

    manifest.json                             ``Manifest``: what is in it, and what made it
    <split>/<language>-00000.array_record     shards of records, one record a group
    <split>/<language>-00000.samples.npy      length index: int32 samples of each record
    rejected.jsonl                            utterances set aside: {id, split, language, reason}

A record is a msgpack map with the fields of ``Record``. Sampling and bucketing read the manifest
and the length index only; audio is opened when a batch is made.

The directory may lie in an object store (``gs://bucket/folder``). Shards there are read in place by
ArrayRecord, whose wheels for Linux know gs://, or from local copies where the environment variable
XLSR_JAX_CACHE names a folder for them.
"""

import contextlib
import dataclasses
import io
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgpack
import numpy as np

from xlsr_jax import storage
from xlsr_jax.storage import KEPT, CorpusError, sha256, write_atomically

SAMPLE_RATE = 16_000  # Hz, of every record
SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
REJECTED = "rejected.jsonl"


@dataclasses.dataclass(frozen=True)
class Record:
    """One utterance on disk.

    Attributes:
      id: unique within the corpus.
      language: language code.
      audio: encoded mono audio at 16 kHz.
      encoding: "pcm16" (little-endian int16) or "flac".
      samples: number of samples.
      speaker, text: "" where unknown.
      phonemes: phoneme symbols separated by single spaces; "" where unknown.
      alignment: (symbol, start, end) triples, [start, end) in samples; () where unknown.
    """

    id: str
    language: str
    audio: bytes
    encoding: str
    samples: int
    speaker: str = ""
    text: str = ""
    phonemes: str = ""
    alignment: tuple[tuple[str, int, int], ...] = ()

    def to_bytes(self) -> bytes:
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return msgpack.packb(fields)

    @staticmethod
    def from_bytes(data: bytes) -> "Record":
        fields = msgpack.unpackb(data)
        fields["alignment"] = tuple(tuple(phone) for phone in fields["alignment"])
        return Record(**fields)

    def waveform(self) -> np.ndarray:
        """[samples] float32 in [-1, 1)."""
        if self.encoding == "pcm16":
            return np.frombuffer(self.audio, "<i2").astype(np.float32) * np.float32(1 / 32768)
        import soundfile

        waveform, _ = soundfile.read(io.BytesIO(self.audio), dtype="float32")
        return waveform


def encode_audio(waveform: np.ndarray, encoding: str) -> bytes:
    """Encodes [samples] float32 in [-1, 1] as "pcm16" or "flac"."""
    scaled = waveform * np.float32(32768.0)
    np.rint(scaled, out=scaled)
    pcm = np.clip(scaled, -32768, 32767, out=scaled).astype("<i2")
    if encoding == "pcm16":
        return pcm.tobytes()
    if encoding != "flac":
        raise ValueError(f"unknown audio encoding {encoding!r}; use pcm16 or flac")
    import soundfile

    buffer = io.BytesIO()
    soundfile.write(buffer, pcm, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


@dataclasses.dataclass(frozen=True)
class Shard:
    """One shard file of one language and split, as the manifest lists it.

    Attributes:
      path: relative to the corpus, with "/".
      utterances, samples: totals over its records.
      sha256: of the array_record file.
    """

    path: str
    split: str
    language: str
    utterances: int
    samples: int
    sha256: str

    @property
    def index_path(self) -> str:
        return self.path.removesuffix(".array_record") + ".samples.npy"


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What a prepared corpus holds and what made it.

    Attributes:
      name: corpus name.
      shards: in the fixed order that record numbers count through.
      rejected: {split: {language: {reason: count}}}.
      made_with: versions and options of everything that shaped audio or labels.
    """

    name: str
    shards: tuple[Shard, ...]
    rejected: Mapping[str, Mapping[str, Mapping[str, int]]]
    made_with: Mapping[str, str]

    def split(self, split: str) -> tuple[Shard, ...]:
        """Shards of one split; raises ``CorpusError`` where there are none."""
        shards = tuple(shard for shard in self.shards if shard.split == split)
        if not shards:
            have = sorted({shard.split for shard in self.shards}) or ["none"]
            raise CorpusError(
                f"corpus {self.name} has no split {split!r}; it has {', '.join(have)}"
            )
        return shards

    def hours(self, split: str) -> dict[str, float]:
        """Hours of audio per language in one split."""
        hours: dict[str, float] = {}
        for shard in self.split(split):
            seconds = shard.samples / SAMPLE_RATE
            hours[shard.language] = hours.get(shard.language, 0.0) + seconds / 3600
        return hours

    def save(self, root: str | os.PathLike[str]) -> None:
        """Writes the manifest atomically, with per-language totals for human readers."""
        totals = {}
        for shard in self.shards:
            total = totals.setdefault(shard.split, {}).setdefault(
                shard.language, {"utterances": 0, "hours": 0.0}
            )
            total["utterances"] += shard.utterances
            total["hours"] = round(total["hours"] + shard.samples / SAMPLE_RATE / 3600, 6)
        document = {"schema_version": SCHEMA_VERSION, "name": self.name, "totals": totals}
        document |= {"rejected": self.rejected, "made_with": dict(self.made_with)}
        document["shards"] = [dataclasses.asdict(shard) for shard in self.shards]
        write_atomically(storage.at(root) / MANIFEST, json.dumps(document, indent=1).encode())

    @staticmethod
    def load(root: str | os.PathLike[str]) -> "Manifest":
        """Reads the manifest; raises ``CorpusError`` where it is missing or of another schema."""
        path = storage.at(root) / MANIFEST
        if not path.exists():
            raise CorpusError(
                f"no corpus at {root}: {MANIFEST} is missing; make it with "
                "python -m xlsr_jax.prepare (see --help)"
            )
        try:
            document = json.loads(path.read_text())
            schema = document["schema_version"]
        except (ValueError, KeyError, TypeError) as error:
            raise CorpusError(
                f"{path} is damaged ({error}); delete it and run the same "
                "xlsr_jax.prepare command, which keeps the shards"
            ) from error
        if schema != SCHEMA_VERSION:
            raise CorpusError(
                f"{path} has record schema {schema}, this version "
                f"reads {SCHEMA_VERSION}; prepare the corpus again"
            )
        shards = tuple(Shard(**shard) for shard in document["shards"])
        return Manifest(document["name"], shards, document["rejected"], document["made_with"])


def write_shard(
    root: str | os.PathLike[str], path: str, split: str, language: str, records: Iterable[Record]
) -> Shard:
    """Writes one shard and its length index; both appear whole or not at all.

    For an object store the shard is made in a local temporary folder and then copied.

    Args:
      root: corpus directory.
      path: shard path relative to it, ending in ".array_record".
      records: in order; may be a generator.

    Raises:
      CorpusError: where the disk is full or refuses.
    """
    final = storage.at(root) / path
    storage.make_folder(final.parent)
    lengths: list[int] = []
    with storage.placed(final) as partial:
        _write_records(partial, records, lengths)
        shard = Shard(path, split, language, len(lengths), sum(lengths), sha256(partial))
        buffer = io.BytesIO()
        np.save(buffer, np.asarray(lengths, np.int32))
        write_atomically(storage.at(root) / shard.index_path, buffer.getvalue())
    return shard


def _write_records(path: Path, records: Iterable[Record], lengths: list[int]) -> None:
    from array_record.python.array_record_module import ArrayRecordWriter

    def call(function: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return function(*arguments)
        except RuntimeError as error:  # the writer's only kind, also for a full disk
            reason = str(error).split(";")[0]
            final = str(path).split(".partial-")[0]
            raise CorpusError(f"cannot write {final}: {reason}; {KEPT}") from error

    # Uncompressed: ArrayRecord's own compression takes more time than it saves space.
    writer = call(ArrayRecordWriter, str(path), "group_size:1,uncompressed")
    try:
        for record in records:
            call(writer.write, record.to_bytes())
            lengths.append(record.samples)
        call(writer.close)
    except BaseException:
        with contextlib.suppress(RuntimeError):
            writer.close()
        raise
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def read_lengths(root: str | os.PathLike[str], shards: Sequence[Shard]) -> list[np.ndarray]:
    """Length index of each shard, int32 samples per record; opens no audio.

    Raises:
      CorpusError: where a shard or index is missing, or disagrees with the manifest.
    """
    folder = storage.at(root)

    def read(shard: Shard) -> np.ndarray:
        for path in (shard.path, shard.index_path):
            if not (folder / path).exists():
                raise CorpusError(
                    f"{root} lacks {path}, which its manifest lists; copy it again, "
                    "or run the same xlsr_jax.prepare command, which makes only it"
                )
        path = folder / shard.index_path
        try:
            index = np.load(io.BytesIO(path.read_bytes()))
        except (ValueError, EOFError, OSError) as error:
            raise CorpusError(
                f"{path} is truncated or damaged; delete it "
                "and run the same xlsr_jax.prepare command"
            ) from error
        if len(index) != shard.utterances or int(index.sum(dtype=np.int64)) != shard.samples:
            raise CorpusError(
                f"{path} disagrees with the manifest: "
                f"{len(index)} records, expected {shard.utterances}; prepare again"
            )
        return index

    return storage.each(root, read, shards)


def open_shards(root: str | os.PathLike[str], shards: Sequence[Shard]) -> Any:
    """Random-access source of serialized records, numbered through ``shards`` in order.

    Those of an object store are copied first where ``storage.CACHE`` names a folder.

    Raises:
      CorpusError: where a shard file is truncated or no ArrayRecord, or cannot be fetched.
    """
    from grain.sources import ArrayRecordDataSource

    folder = storage.at(root)
    paths = [str(folder / shard.path) for shard in shards]
    remote, mend = storage.is_remote(root), ""
    if remote and os.environ.get(storage.CACHE):
        paths = storage.each(root, lambda s: str(storage.cached(folder / s.path, s.sha256)), shards)
    elif remote:
        mend = f", or set {storage.CACHE} to a local folder for copies of the shards"
    try:
        source = ArrayRecordDataSource(paths)
        count = len(source)
    except Exception as error:  # array_record raises bare RuntimeError or ValueError by version
        raise CorpusError(
            f"a shard of {root} cannot be opened ({error}); compare sha256 with the "
            f"manifest and copy or prepare it again{mend}"
        ) from error
    expected = sum(shard.utterances for shard in shards)
    if count != expected:
        raise CorpusError(
            f"shards of {root} hold {count} records, the manifest says {expected}; "
            "compare sha256 with the manifest and copy or prepare again"
        )
    return source


def damage(root: str | os.PathLike[str], shards: Sequence[Shard]) -> list[str]:
    """One line for each shard that is missing or differs from its checksum; reads every byte."""
    folder = storage.at(root)

    def faults(shard: Shard) -> list[str]:
        paths = (shard.path, shard.index_path)
        lines = [f"{path} is missing" for path in paths if not (folder / path).exists()]
        if f"{shard.path} is missing" not in lines and sha256(folder / shard.path) != shard.sha256:
            lines.append(f"{shard.path} differs from its checksum")
        return lines

    return [line for lines in storage.each(root, faults, shards) for line in lines]
