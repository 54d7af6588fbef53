"""Plans of labelled audio: whole utterances padded up to a few lengths, none of them cropped."""

import dataclasses
from collections import Counter
from collections.abc import Mapping

import numpy as np

from xlsr_jax.data import buckets, mixture
from xlsr_jax.data.index import DataConfig, Index, check_lengths
from xlsr_jax.data.labels import Labels
from xlsr_jax.data.plan import EvalPlan, TrainPlan, cells_of, plan_evaluation
from xlsr_jax.data.records import SAMPLE_RATE, CorpusError

WIDTH = 8  # label columns come in multiples of this


@dataclasses.dataclass(frozen=True)
class LabelledPlan(TrainPlan):
    """A training stream of whole utterances; ``lengths`` are what they are padded up to.

    Attributes:
      labels: of the index.
      width: label columns of a batch.
      refused: (record number, reason) of every utterance left out.
    """

    labels: Labels
    width: int
    refused: tuple[tuple[int, str], ...]

    def summary(self) -> str:
        """A few lines for the log."""
        used = np.concatenate([cell for row in self.cells for cell in row])
        audio = self.index.samples[used].sum(dtype=np.int64)
        padded = sum(
            length * len(cell)
            for length, row in zip(self.lengths, self.cells, strict=True)
            for cell in row
        )
        batches = ", ".join(f"{rows} x {n / SAMPLE_RATE:.2f} s" for rows, n in self.shapes)
        lines = [
            f"{len(used):,} labelled utterances, {audio / SAMPLE_RATE / 60:,.1f} minutes, "
            f"{len(self.languages)} languages ({', '.join(self.languages)})",
            f"batches: {batches}; {1 - audio / padded:.1%} padding",
        ]
        if self.refused:
            counts = Counter(reason for _, reason in self.refused)
            listed = ", ".join(f"{reason} {count:,}" for reason, count in counts.most_common())
            lines.append(f"left out: {listed}")
        return "\n".join(lines)


def choose(config: DataConfig, index: Index) -> np.ndarray:
    """Record numbers that are trained on: all, or ``label_seconds`` of each language.

    The draw depends on nothing but the split, so that every run has the same utterances.
    """
    everything = np.arange(len(index.samples))
    if not config.label_seconds:
        return everything
    chosen = []
    for language in range(len(index.languages)):
        numbers = everything[index.language == language]
        numbers = np.random.default_rng([language, 1]).permutation(numbers)
        audio = np.cumsum(index.samples[numbers])
        chosen.append(numbers[: max(1, int((audio <= config.label_seconds * SAMPLE_RATE).sum()))])
    return np.sort(np.concatenate(chosen))


def refuse(
    config: DataConfig,
    index: Index,
    labels: Labels,
    chosen: np.ndarray,
    window: int,
    hop: int,
    ctc: bool = True,
) -> dict[int, str]:
    """Why which of the ``chosen`` records cannot be trained on.

    Args:
      window, hop: samples that a frame of the output sees, and between frames.
      ctc: whether each label needs a frame; not where each frame has a label.
    """
    frames = np.maximum((index.samples - window) // hop + 1, 0)
    needed = labels.frames_needed() if ctc else np.minimum(frames, 1)
    reasons = {
        "no label": ~labels.there | (labels.counts == 0),
        "shorter than data.min_samples": index.samples < config.min_samples,
        "longer than data.max_crop_samples": index.samples > config.max_crop_samples,
        "fewer frames than labels": frames < needed,
    }
    found: dict[int, str] = {}
    for reason, hit in reasons.items():
        for record in chosen[hit[chosen]]:
            found.setdefault(int(record), reason)
    return found


def plan_labelled(
    config: DataConfig,
    index: Index,
    labels: Labels,
    row_multiple: int = 1,
    *,
    chosen: np.ndarray,
    window: int = buckets.WINDOW,
    hop: int = buckets.HOP,
    label_window: int | None = None,
    label_hop: int | None = None,
    ctc: bool = True,
) -> LabelledPlan:
    """Plans a training stream over the ``chosen`` records; the others as in ``plan_training``.

    ``alpha`` 1 draws every utterance equally often (XLSR section 3.2: no upsampling).

    Args:
      label_window, label_hop: of an output frame, where those are not the feature encoder's.
      ctc: see ``refuse``.

    Raises:
      CorpusError: nothing is left to train on.
      ConfigError: lengths or batch size that do not fit each other.
    """
    check_lengths(config, window)
    outputs = (label_window or window, label_hop or hop)
    refused = refuse(config, index, labels, chosen, *outputs, ctc)
    kept = np.array([n for n in chosen if int(n) not in refused], np.int64)
    if not len(kept):
        counts = Counter(refused.values()).most_common()
        said = ", ".join(f"{reason}: {count}" for reason, count in counts) or "the split is empty"
        raise CorpusError(f"no utterance of {config.path} can be trained on ({said})")
    samples, language = index.samples[kept], index.language[kept]
    languages = len(index.languages)
    lengths = buckets.choose_ceilings(
        samples, config.buckets, longest=int(samples.max()), window=window, hop=hop
    )
    rows = buckets.rows_per_batch(lengths, config.batch_seconds, row_multiple)
    padded = np.array(lengths)[np.searchsorted(lengths, samples)]
    seconds = np.bincount(language, padded, languages)
    # A language all of whose utterances were left out has no share.
    shares = np.zeros(languages)
    shares[seconds > 0] = mixture.language_shares(seconds[seconds > 0], config.alpha)
    width = int(labels.counts[kept].max())
    return LabelledPlan(
        config=config,
        index=index,
        shares=shares,
        lengths=lengths,
        rows=rows,
        cells=cells_of(kept, np.searchsorted(lengths, samples), language, len(lengths), languages),
        left_out=np.bincount(index.language[list(refused)], minlength=languages),
        labels=labels,
        width=-(-width // WIDTH) * WIDTH,
        refused=tuple(sorted(refused.items())),
    )


@dataclasses.dataclass(frozen=True)
class LabelledEvalPlan(EvalPlan):
    """Held-out utterances with their labels; those that do not fit a batch are left out."""

    labels: Labels
    width: int


def plan_labelled_evaluation(
    config: DataConfig,
    index: Index,
    labels: Labels,
    row_multiple: int = 1,
    *,
    batch_seconds: float | None = None,
    window: int = buckets.WINDOW,
    hop: int = buckets.HOP,
) -> LabelledEvalPlan:
    """As ``plan_evaluation``, of the utterances that have labels and are no longer than a crop."""
    fits = labels.there & (index.samples <= config.max_crop_samples)
    plan = plan_evaluation(
        config, row_multiple, batch_seconds=batch_seconds, index=index, window=window, hop=hop,
        usable=fits,
    )  # fmt: skip
    width = int(labels.counts[fits].max(initial=1))
    fields = {field.name: getattr(plan, field.name) for field in dataclasses.fields(plan)}
    return LabelledEvalPlan(**fields, labels=labels, width=-(-width // WIDTH) * WIDTH)


def reasons_of(plan: LabelledPlan) -> list[Mapping[str, str]]:
    """One {id, language, reason} for every utterance left out."""
    return [
        {
            "id": plan.labels.ids[record],
            "language": plan.languages[plan.index.language[record]],
            "reason": reason,
        }
        for record, reason in plan.refused
    ]
