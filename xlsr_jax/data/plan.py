"""What is drawn, planned from the manifest and the length index alone; no audio is opened."""

import dataclasses
from functools import cached_property

import numpy as np

from xlsr_jax.data import buckets, mixture, records, speakers
from xlsr_jax.data.index import DataConfig, Index, check_lengths, load_index
from xlsr_jax.data.records import SAMPLE_RATE, CorpusError
from xlsr_jax.schema import ConfigError


@dataclasses.dataclass(frozen=True)
class TrainPlan:
    """Buckets, rows and shares of a training stream.

    Attributes:
      config, index: what the plan was made from.
      shares: [languages] p_l, the share of each language in the seconds of audio drawn.
      lengths: [buckets] crop lengths in samples, ascending.
      rows: [buckets] rows of a global batch.
      cells: [buckets][languages] record numbers, int32 ascending; an utterance lies in the last
        bucket that it fills.
      left_out: [languages] utterances shorter than ``min_samples``.
      speaker: [records] int32 numbers, where rows come in groups of one speaker; else None.
    """

    config: DataConfig
    index: Index
    shares: np.ndarray
    lengths: tuple[int, ...]
    rows: tuple[int, ...]
    cells: tuple[tuple[np.ndarray, ...], ...]
    left_out: np.ndarray
    speaker: np.ndarray | None = dataclasses.field(default=None, kw_only=True)

    @property
    def group(self) -> int:
        """Rows i group, ..., (i + 1) group - 1 of a batch have one speaker; 1 for no groups."""
        return 1 if self.speaker is None else self.config.same_speaker

    @property
    def languages(self) -> tuple[str, ...]:
        return self.index.languages

    @property
    def shapes(self) -> tuple[tuple[int, int], ...]:
        """(rows, samples) of the global batch of each bucket, to compile ahead of time."""
        return tuple(zip(self.rows, self.lengths, strict=True))

    @cached_property
    def cell_shares(self) -> np.ndarray:
        """[buckets, languages] share of each cell in the seconds drawn, summing to 1."""
        counts = np.array([[len(cell) for cell in row] for row in self.cells])
        return mixture.cell_shares(self.shares, counts * np.array(self.lengths)[:, None])

    @cached_property
    def step_shares(self) -> np.ndarray:
        """[buckets] share of each bucket in the updates."""
        steps = self.cell_shares.sum(axis=1) / [rows * length for rows, length in self.shapes]
        return steps / steps.sum()

    @property
    def seconds_per_update(self) -> float:
        """Mean audio of an update over all devices."""
        audio = [rows * length / SAMPLE_RATE for rows, length in self.shapes]
        return float(np.dot(self.step_shares, audio))

    @property
    def discarded(self) -> tuple[float, float]:
        """Shares of the drawn utterances' audio that cropping leaves unread.

        The first for want of a longer bucket, as a share of the audio within ``max_crop_samples``;
        the second in all. Offsets are uniform, so another epoch reads another part.
        """
        whole, capped, read = np.zeros((3, len(self.languages)))
        for length, row in zip(self.lengths, self.cells, strict=True):
            for number, cell in enumerate(row):
                samples = self.index.samples[cell]
                whole[number] += samples.sum(dtype=np.int64)
                capped[number] += np.minimum(samples, self.config.max_crop_samples).sum()
                read[number] += len(cell) * length
        draws = self.shares / read
        return (
            float(1 - np.dot(draws, read) / np.dot(draws, capped)),
            float(1 - np.dot(draws, read) / np.dot(draws, whole)),
        )

    def summary(self) -> str:
        """A few lines for the log."""
        crops = ", ".join(f"{rows} x {n / SAMPLE_RATE:.2f} s" for rows, n in self.shapes)
        by_bucket, in_all = self.discarded
        lines = [
            f"{sum(len(cell) for row in self.cells for cell in row):,} utterances, "
            f"{self.index.hours.sum():,.2f} h, {len(self.languages)} languages",
            f"batches: {crops}; {self.seconds_per_update:,.1f} s of audio an update, no padding, "
            f"{by_bucket:.1%} discarded by the choice of lengths, {in_all:.1%} in all",
        ]
        if self.left_out.sum():
            which = zip(self.languages, self.left_out, strict=True)
            counts = ", ".join(f"{language} {count:,}" for language, count in which if count)
            seconds = self.config.min_samples / SAMPLE_RATE
            lines.append(f"left out, shorter than {seconds:g} s: {counts}")
        if self.speaker is not None:
            windows = self.cell_shares / np.array(self.lengths)[:, None]
            lines += speakers.summary(self.index, self.speaker, self.group, self.cells, windows)
        shares = zip(self.languages, self.index.hours, self.shares, strict=True)
        parts = ", ".join(f"{language} {n:,.2f} h {p:.1%}" for language, n, p in shares)
        lines.append(f"share of audio drawn (alpha {self.config.alpha:g}): {parts}")
        return "\n".join(lines)


def plan_training(
    config: DataConfig,
    row_multiple: int = 1,
    *,
    index: Index | None = None,
    window: int = buckets.WINDOW,
    hop: int = buckets.HOP,
) -> TrainPlan:
    """Plans the training stream.

    Args:
      config: settings of the data.
      row_multiple: what the rows of a global batch must divide by, for instance data-parallel
        devices x accumulation steps.
      index: read from ``config.path`` where not given.
      window, hop: of the feature encoder, samples.

    Raises:
      CorpusError: see ``load_index``; or a language has no utterance that is long enough, or no
        speakers where ``same_speaker`` needs them.
      ConfigError: lengths or batch size that do not fit each other.
    """
    check_lengths(config, window)
    index = index or load_index(config, config.train_split)
    shares = mixture.language_shares(index.hours, config.alpha)
    languages = len(index.languages)
    long_enough = index.samples >= config.min_samples
    kept = np.bincount(index.language[long_enough], minlength=languages)
    total = np.bincount(index.language, minlength=languages)
    for language, count, whole in zip(index.languages, kept, total, strict=True):
        if not count:
            raise CorpusError(
                f"language {language!r}: all {whole} utterances are shorter than min_samples "
                f"({config.min_samples / SAMPLE_RATE:g} s); lower it or leave the language out"
            )

    speaker = None
    if config.same_speaker:
        speaker = speakers.load(index)
        long_enough = speakers.known(index, speaker, long_enough)

    # An utterance is drawn as often as the others of its language, p_l over the language's audio.
    samples, language = index.samples[long_enough], index.language[long_enough]
    capped = np.minimum(samples, config.max_crop_samples)
    draws = shares / np.bincount(language, capped, languages)
    lengths = buckets.choose_crops(
        samples, draws[language], config.buckets,
        shortest=config.min_samples, longest=config.max_crop_samples, window=window, hop=hop,
    )  # fmt: skip
    return TrainPlan(
        config=config,
        index=index,
        shares=shares,
        lengths=lengths,
        rows=_rows(config, lengths, row_multiple),
        cells=cells_of(
            np.flatnonzero(long_enough),
            np.searchsorted(lengths, samples, side="right") - 1,
            language,
            len(lengths),
            languages,
        ),
        left_out=total - kept,
        speaker=speaker,
    )


def _rows(config: DataConfig, lengths: tuple[int, ...], row_multiple: int) -> tuple[int, ...]:
    """Rows of a batch of each length, in whole groups of one speaker where there are such."""
    group = max(config.same_speaker, 1)
    try:
        return buckets.rows_per_batch(lengths, config.batch_seconds, row_multiple * group)
    except ConfigError as error:
        if group == 1:
            raise
        raise ConfigError(f"{error}; config.data.same_speaker={group} is a factor of it") from error


def cells_of(
    numbers: np.ndarray, bucket: np.ndarray, language: np.ndarray, buckets: int, languages: int
) -> tuple[tuple[np.ndarray, ...], ...]:
    """Record numbers by bucket and language, ascending in each cell."""
    cell = bucket * languages + language
    order = np.argsort(cell, kind="stable")
    ends = np.cumsum(np.bincount(cell, minlength=buckets * languages))[:-1]
    flat = np.split(numbers[order].astype(np.int32), ends)
    return tuple(tuple(flat[i : i + languages]) for i in range(0, len(flat), languages))


@dataclasses.dataclass(frozen=True)
class EvalPlan:
    """The held-out batches: every chosen utterance once, in a fixed order.

    Attributes:
      config, index: what the plan was made from.
      shapes: (rows, samples) of the global batches of each length.
      batches: (samples, record numbers [rows] int32) of each batch; -1 marks a row without
        utterance, so that the last batch of a length has the shape of the others.
      too_short: utterances shorter than one frame, which are left out.
    """

    config: DataConfig
    index: Index
    shapes: tuple[tuple[int, int], ...]
    batches: tuple[tuple[int, np.ndarray], ...]
    too_short: int


def plan_evaluation(
    config: DataConfig,
    row_multiple: int = 1,
    *,
    batch_seconds: float | None = None,
    index: Index | None = None,
    window: int = buckets.WINDOW,
    hop: int = buckets.HOP,
    usable: np.ndarray | None = None,
) -> EvalPlan:
    """Plans the evaluation: languages numbered as in training, ``eval_seconds`` of each.

    Which utterances are taken does not depend on the seed of the run, on hosts, or on how they
    are batched.

    Args:
      batch_seconds: audio of one batch over all devices; the config's where not given. Give the
        share of one accumulation step where an update is too large for the devices at once.
      usable: [records] bool, which may be taken; all where not given.

    The other arguments and the errors are those of ``plan_training``.
    """
    batch_seconds = batch_seconds or config.batch_seconds
    check_lengths(config, window)
    if index is None:
        hours = records.Manifest.load(config.path).hours(config.train_split)
        languages = mixture.choose_languages(hours, config.languages)
        index = load_index(config, config.eval_split, languages)
    languages = range(len(index.languages))
    usable = index.samples >= window if usable is None else usable & (index.samples >= window)
    taken = np.concatenate([_held_out(index, n, config, usable) for n in languages])
    if not taken.size:
        raise CorpusError(f"no utterance of split {config.eval_split!r} can be evaluated on")
    taken.sort()
    samples = np.minimum(index.samples[taken], config.max_crop_samples)
    lengths = buckets.choose_ceilings(
        samples, config.buckets, longest=config.max_crop_samples, window=window, hop=hop
    )
    shapes, batches = [], []
    for bucket, length in enumerate(lengths):
        numbers = taken[np.searchsorted(lengths, samples) == bucket]
        fit = int(batch_seconds * SAMPLE_RATE // length) // row_multiple
        need = -(-len(numbers) // row_multiple)  # a small set makes no large batch
        rows = max(1, min(fit, need)) * row_multiple
        filled = np.full(-(-len(numbers) // rows) * rows, -1, np.int32)
        filled[: len(numbers)] = numbers
        shapes.append((rows, length))
        batches += [(length, batch) for batch in filled.reshape(-1, rows)]
    too_short = int((index.samples < window).sum())
    return EvalPlan(config, index, tuple(shapes), tuple(batches), too_short)


def _held_out(index: Index, language: int, config: DataConfig, usable: np.ndarray) -> np.ndarray:
    """Record numbers of one language up to ``eval_seconds``, spread over the whole split."""
    numbers = np.flatnonzero((index.language == language) & usable)
    if not config.eval_seconds:
        return numbers
    shuffled = np.random.default_rng([language]).permutation(numbers)
    audio = np.cumsum(np.minimum(index.samples[shuffled], config.max_crop_samples))
    # At least one utterance, then those that end within the limit.
    return shuffled[: max(1, int((audio <= config.eval_seconds * SAMPLE_RATE).sum()))]
