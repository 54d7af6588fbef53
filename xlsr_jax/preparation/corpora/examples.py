"""Files of ``tf.train.Example`` messages, ArrayRecord and TFRecord, and the audio in them.

A TFRecord is: length (8 bytes, little-endian), its checksum (4), the message, its checksum (4).
Checksums are not compared; lengths and the number of records are.
"""

import dataclasses
import functools
import os
import struct
import zlib
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

import numpy as np

from xlsr_jax.data.records import CorpusError
from xlsr_jax.data.speech import Speech, UnreadableAudio
from xlsr_jax.preparation.corpora import embedded

FORMATS = ("array_record", "tfrecord")
FULL_SCALE = {"int8": 2**7, "int16": 2**15, "int32": 2**31, "int64": 2**15}
_HEAD, _TAIL = 12, 4  # bytes


@dataclasses.dataclass(frozen=True)
class Shard:
    """One file.

    Attributes:
      folder, name: where it lies.
      form: of ``FORMATS``.
      length: how many records it must hold.
    """

    folder: str
    form: str
    length: int
    name: str

    @property
    def path(self) -> str:
        return os.path.join(self.folder, self.name)

    def examples(self) -> Iterator[tuple[int, Any]]:
        """(place, Example) of each record in order, Example None where it cannot be parsed.

        The place is what ``read`` takes: a number in ArrayRecord, an offset in TFRecord.

        Raises:
          CorpusError: for a file that is missing, truncated or of another format.
        """
        if self.form not in FORMATS:
            raise CorpusError(
                f"{self.folder} is in the format {self.form}, read are {' and '.join(FORMATS)}; "
                "prepare it again with tfds build --file_format=array_record"
            )
        if not os.path.isfile(self.path):
            raise CorpusError(f"{self.folder} lacks {self.name}; copy it again")
        records = _array_records(self) if self.form == "array_record" else _tf_records(self)
        count = 0
        for place, data in records:
            count += 1
            yield place, _parsed(data)
        if count != self.length:
            raise CorpusError(
                f"{self.path} holds {count} of {self.length} records; copy or prepare it again"
            )


def read(shard: Shard, place: int) -> Any:
    """The Example at a place that ``Shard.examples`` gave."""
    if shard.form == "array_record":
        (data,) = _reader(shard.path).read([place])
    else:
        with open(shard.path, "rb") as file:
            file.seek(place)
            data = _next(file)
    return _parsed(data)


def _parsed(data: bytes | None) -> Any:
    from google.protobuf.message import DecodeError
    from tensorflow_datasets.proto import tf_example_pb2

    try:
        return tf_example_pb2.Example.FromString(data)
    except DecodeError:
        return None


def _array_records(shard: Shard) -> Iterator[tuple[int, bytes]]:
    try:
        reader = _open(shard.path)
        for number in range(reader.num_records()):
            yield number, reader.read([number])[0]
    except (RuntimeError, ValueError, IndexError) as error:  # what array_record raises of damage
        raise CorpusError(
            f"{shard.path} is damaged ({str(error).split(';')[0]}); copy or prepare it again"
        ) from error


def _open(path: str) -> Any:
    from array_record.python.array_record_module import ArrayRecordReader

    return ArrayRecordReader(path, "readahead_buffer_size:0")


_reader = functools.lru_cache(maxsize=4)(_open)  # of a worker; utterances come in order


def _tf_records(shard: Shard) -> Iterator[tuple[int, bytes]]:
    with open(shard.path, "rb") as file:
        place = 0
        while (data := _next(file)) is not None:
            yield place, data
            place += _HEAD + len(data) + _TAIL


def _next(file: BinaryIO) -> bytes | None:
    """The record that begins here; None where none does, or not a whole one."""
    head = file.read(_HEAD)
    if len(head) < _HEAD:
        return None
    (length,) = struct.unpack("<Q", head[:8])
    if length > os.fstat(file.fileno()).st_size:
        return None
    data = file.read(length)
    return data if len(data) == length and len(file.read(_TAIL)) == _TAIL else None


@dataclasses.dataclass(frozen=True)
class Audio:
    """How a feature holds audio.

    Attributes:
      feature: its name.
      dtype: of the samples.
      encoding: "none", "bytes" or "zlib" of them; "file" for audio files.
      channels: interleaved.
      rate: in Hz.
    """

    feature: str
    dtype: str
    encoding: str
    channels: int
    rate: int


def audio_of(name: str, feature: Mapping[str, Any], rate: int) -> Audio:
    """How a feature of features.json holds audio; ``rate`` in Hz where it tells none, or 0.

    Raises:
      CorpusError: for a feature without samples or without rate.
    """
    held = feature.get("audio") or feature.get("tensor") or {}
    dtype, encoding = held.get("dtype", ""), str(held.get("encoding") or "none").lower()
    sizes = held.get("shape", {}).get("dimensions", ())
    lazy = bool(held.get("lazyDecode"))
    rate = int(held.get("sampleRate") or 0) or rate
    if not lazy and (dtype not in FULL_SCALE and not dtype.startswith("float")):
        raise CorpusError(
            f"the feature {name!r} has no samples but {dtype or 'no numbers'}; give "
            "another by --column audio="
        )
    if not lazy and not rate:
        raise CorpusError(f"the feature {name!r} does not tell its sampling rate; give --rate")
    channels = int(sizes[1]) if len(sizes) > 1 else 1
    return Audio(name, dtype, "file" if lazy else encoding, channels, rate)


def seconds(example: Any, audio: Audio) -> float:
    """The length in seconds, 0 where only decoding tells."""
    if audio.encoding != "none":
        return 0.0
    samples = example.features.feature[audio.feature]
    count = len(samples.int64_list.value) + len(samples.float_list.value)
    return count / audio.channels / audio.rate


def load(shard: Shard, at: int, audio: Audio, max_seconds: float) -> Speech:
    """The audio of a record; raises ``UnreadableAudio``."""
    feature = read(shard, at).features.feature[audio.feature]
    if audio.encoding == "file":
        data = b"".join(feature.bytes_list.value)
        return embedded.decode(data, max_seconds)
    if audio.encoding == "none":
        held = feature.int64_list if feature.HasField("int64_list") else feature.float_list
        samples = np.asarray(held.value)
    else:
        data = b"".join(feature.bytes_list.value)
        try:
            data = zlib.decompress(data) if audio.encoding == "zlib" else data
            samples = np.frombuffer(data, audio.dtype)
        except (zlib.error, ValueError) as error:
            raise UnreadableAudio(f"damaged samples: {error}") from error
    if not len(samples) or len(samples) % audio.channels:
        raise UnreadableAudio(f"no samples: {len(samples)} for {audio.channels} channels")
    embedded.check_length(len(samples) // audio.channels, audio.rate, max_seconds)
    waveform = samples.astype(np.float32) / np.float32(FULL_SCALE.get(audio.dtype, 1))
    return Speech(waveform.reshape(-1, audio.channels).mean(axis=1), audio.rate)
