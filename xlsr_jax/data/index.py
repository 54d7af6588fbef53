"""Settings of the data, and the utterances they choose: numbers, lengths, languages; no audio."""

import dataclasses

import numpy as np

from xlsr_jax.data import mixture, records
from xlsr_jax.data.records import CorpusError, Shard
from xlsr_jax.schema import ConfigError, setting


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Where the audio lies, how languages are mixed, and how batches are cut."""

    path: str = setting("", "directory of a prepared corpus, or gs://bucket/folder")
    train_split: str = setting("train", "split to train on")
    eval_split: str = setting("valid", "split that held-out metrics are measured on")
    languages: tuple[str, ...] = setting((), "language codes; empty for all of the corpus")
    alpha: float = setting(
        0.5, "exponent of the mixture p_l ~ hours^alpha; 1 natural, 0 uniform", low=0, high=1
    )
    batch_seconds: float = setting(
        5600.0, "audio of one update over all devices, seconds; a bound from above", low=0.025
    )
    max_crop_samples: int = setting(250_000, "longest crop, samples at 16 kHz", low=400)
    min_samples: int = setting(
        32_000, "shorter utterances are left out of training, samples at 16 kHz", low=400
    )
    buckets: int = setting(6, "number of static crop lengths, each compiled once", low=1, high=6)
    normalize: bool = setting(False, "zero mean, unit variance over the whole file, then crop")
    eval_seconds: float = setting(
        600.0, "held-out audio per language, seconds; 0 for all there is", low=0
    )
    label_seconds: float = setting(
        0.0, "labelled audio per language to fine-tune on, seconds; 0 for all there is", low=0
    )
    same_speaker: int = setting(
        0, "rows come in groups of this many of one speaker (m-CPC: 8); 0 mixes speakers", low=0
    )
    workers: int = setting(0, "processes that read audio; 0 reads in threads of this one", low=0)
    threads: int = setting(2, "threads that read, in each process; one batch each", low=1)
    prefetch: int = setting(2, "batches read ahead, in each process", low=1)


@dataclasses.dataclass(frozen=True)
class Index:
    """The utterances of one split in the chosen languages.

    Attributes:
      root, shards: record numbers count through these shards in order.
      languages: sorted codes; language numbers index it.
      hours: [languages] audio in the split.
      samples: [records] int32 length of each record.
      language: [records] int16 language number of each record.
    """

    root: str
    shards: tuple[Shard, ...]
    languages: tuple[str, ...]
    hours: np.ndarray
    samples: np.ndarray
    language: np.ndarray


def load_index(config: DataConfig, split: str, languages: tuple[str, ...] = ()) -> Index:
    """Reads the length index of a split.

    Args:
      config: ``path`` and ``languages`` are read.
      split: name of the split.
      languages: numbering to keep, which may hold languages that the split lacks; taken from the
        split itself where empty.

    Raises:
      CorpusError: no corpus, no such split, a language without data, a shard that is missing.
    """
    manifest = records.Manifest.load(config.path)
    hours = manifest.hours(split)
    languages = languages or mixture.choose_languages(hours, config.languages)
    shards = tuple(shard for shard in manifest.split(split) if shard.language in languages)
    if not shards:
        raise CorpusError(f"split {split!r} of {config.path} has none of {', '.join(languages)}")
    lengths = records.read_lengths(config.path, shards)
    numbers = [languages.index(shard.language) for shard in shards]
    return Index(
        root=config.path,
        shards=shards,
        languages=languages,
        hours=np.array([hours.get(language, 0.0) for language in languages]),
        samples=np.concatenate(lengths),
        language=np.repeat(np.array(numbers, np.int16), [len(part) for part in lengths]),
    )


def check_lengths(config: DataConfig, window: int) -> None:
    """Raises ``ConfigError`` for crops shorter than a frame or than the shortest utterance."""
    if config.max_crop_samples < window:
        raise ConfigError(
            f"max_crop_samples {config.max_crop_samples} is shorter than one frame ({window} "
            "samples); crops of 2 s (32000) and more make sense"
        )
    if not window <= config.min_samples <= config.max_crop_samples:
        raise ConfigError(
            f"min_samples {config.min_samples} must lie between one frame ({window} samples) and "
            f"max_crop_samples {config.max_crop_samples}"
        )
