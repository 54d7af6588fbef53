"""What a config's data settings become: plans of training and evaluation, labels, vocabulary."""

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import Any

from xlsr_jax import storage
from xlsr_jax.config import Config, method_module
from xlsr_jax.data import buckets, joint, labelled, labels, mixture, pipeline, records
from xlsr_jax.data.index import load_index
from xlsr_jax.data.plan import EvalPlan, TrainPlan
from xlsr_jax.data.records import CorpusError
from xlsr_jax.schema import ConfigError
from xlsr_jax.text.vocabulary import BLANK, Vocabulary

LABELS_A_SECOND = 20  # columns of labels where no corpus tells


@dataclasses.dataclass(frozen=True)
class Inputs:
    """What a run reads.

    Attributes:
      vocabulary: of a run with labels, else None.
      notes: lines for the person who starts the run.
      left_out: {id, language, reason} of labelled utterances that cannot be trained on.
    """

    plan: TrainPlan | joint.JointPlan
    eval_plan: EvalPlan
    vocabulary: Vocabulary | None = None
    notes: tuple[str, ...] = ()
    left_out: tuple[Any, ...] = ()


def open_inputs(config: Config, row_multiple: int, devices: int) -> Inputs:
    """Plans training and evaluation of a config, and makes labels where it has any.

    Args:
      row_multiple: what training batches must divide by.
      devices: what held-out batches must divide by.

    Raises:
      CorpusError, ConfigError: see ``plan_training`` and ``labels.load``.
    """
    prepare_corpus(config)
    window, hop = config.model.geometry
    eval_seconds = config.data.batch_seconds / config.training.accumulation
    share, method = config.unlabelled.share, method_module(config.method)
    if share and not getattr(method, "JOINT", False):
        raise ConfigError(
            f"config.unlabelled.share={share}: method {config.method} learns from one kind of "
            "audio; set it to 0, or config.method to unispeech"
        )
    if method.LABELLED and share < 1:
        found = _open_labelled(config, row_multiple, devices, eval_seconds, window, hop)
        return _beside(found, config, row_multiple, window, hop) if share else found
    plan = pipeline.plan_training(config.data, row_multiple, window=window, hop=hop)
    eval_plan = pipeline.plan_evaluation(
        config.data, devices, batch_seconds=eval_seconds, window=window, hop=hop
    )
    return Inputs(plan, eval_plan, notes=(plan.summary(),))


def _open_labelled(
    config: Config, row_multiple: int, devices: int, eval_seconds: float, window: int, hop: int
) -> Inputs:
    data, objective = config.data, config.objective
    hours = records.Manifest.load(data.path).hours(data.train_split)
    languages = mixture.choose_languages(hours, data.languages)
    index = load_index(data, data.train_split, languages)
    eval_index = load_index(data, data.eval_split, languages)
    tokens = labels.load(config.labels, index)
    eval_tokens = labels.load(config.labels, eval_index)
    chosen = labelled.choose(data, index)
    vocabulary = labels.make_vocabulary(index, tokens, config.labels, chosen)
    kernel, stride = getattr(objective, "head_kernel", 1), getattr(objective, "head_stride", 1)
    target = getattr(objective, "target", "ctc")
    outputs = (window + (kernel - 1) * hop, hop * stride)
    aligned = config.labels.unit == "aligned"
    if aligned != (target == "frames"):
        raise ConfigError(
            f"config.labels.unit={config.labels.unit} does not go with config.objective.target="
            f"{target}: labels of frames are for target frames, others for ctc"
        )
    unknown: Counter[tuple[str, str]] = Counter()
    if aligned:
        train_labels = labels.encode_frames(index, tokens, vocabulary, *outputs)
        eval_labels = labels.encode_frames(eval_index, eval_tokens, vocabulary, *outputs)
    else:
        train_labels, _ = labels.encode(index, tokens, vocabulary)
        eval_labels, unknown = labels.encode(eval_index, eval_tokens, vocabulary)
    plan = labelled.plan_labelled(
        data, index, train_labels, row_multiple, chosen=chosen, window=window, hop=hop,
        label_window=outputs[0], label_hop=outputs[1], ctc=not aligned,
    )  # fmt: skip
    eval_plan = labelled.plan_labelled_evaluation(
        data, eval_index, eval_labels, devices, batch_seconds=eval_seconds, window=window, hop=hop
    )
    size = len(vocabulary.symbols)
    notes = [plan.summary(), f"vocabulary: {size} symbols with the blank ({config.labels.unit})"]
    if unknown:
        notes.append(f"{data.eval_split} has symbols that training lacks: {listed(unknown)}")
    return Inputs(plan, eval_plan, vocabulary, tuple(notes), tuple(labelled.reasons_of(plan)))


def _beside(found: Inputs, config: Config, row_multiple: int, window: int, hop: int) -> Inputs:
    """Labelled inputs with audio without labels beside them."""
    data = config.unlabelled.data(config.data)
    plan = pipeline.plan_training(data, row_multiple, window=window, hop=hop)
    both = joint.join(found.plan, plan, config.unlabelled.share)
    note = f"{config.unlabelled.share:.0%} of the updates without labels: {plan.summary()}"
    eval_plan = joint.renumber(found.eval_plan, both.languages)
    return dataclasses.replace(found, plan=both, eval_plan=eval_plan, notes=(*found.notes, note))


def batch_shapes(
    config: Config, row_multiple: int, devices: int, classes: int
) -> tuple[list[buckets.Shape], tuple[str, ...], Vocabulary | None, str]:
    """Every shape of batch of a run, its languages and vocabulary, and where they come from.

    Without the corpus: the longest crop alone, ten languages, and ``classes`` symbols. The others
    are as in ``open_inputs``.
    """
    unlabelled = config.unlabelled.share
    if (storage.at(config.data.path) / records.MANIFEST).exists():
        inputs = open_inputs(config, row_multiple, devices)
        parts = [(inputs.plan, 1.0)]
        if isinstance(inputs.plan, joint.JointPlan):
            share = inputs.plan.share
            parts = [(inputs.plan.labelled, 1 - share), (inputs.plan.unlabelled, share)]
        shapes = [
            buckets.Shape(rows, samples, getattr(plan, "width", 0), part * float(share))
            for plan, part in parts
            for (rows, samples), share in zip(plan.shapes, plan.step_shares, strict=True)
        ]
        return shapes, inputs.plan.languages, inputs.vocabulary, f"shapes of {config.data.path}"
    samples = config.data.max_crop_samples
    (rows,) = buckets.rows_per_batch((samples,), config.data.batch_seconds, row_multiple)
    languages = config.data.languages or tuple(f"l{number}" for number in range(10))
    vocabulary, shapes = None, [buckets.Shape(rows, samples, share=unlabelled or 1.0)]
    if method_module(config.method).LABELLED and unlabelled < 1:
        symbols = (BLANK, *(str(number) for number in range(1, classes)))
        vocabulary = Vocabulary(symbols, "phonemes", False, languages)
        width = LABELS_A_SECOND * samples // records.SAMPLE_RATE
        labelled = buckets.Shape(rows, samples, width, 1 - unlabelled)
        shapes = [labelled, *shapes] if unlabelled else [labelled]
    note = f"no corpus at {config.data.path}: the longest crop alone stands for all shapes"
    return shapes, languages, vocabulary, note


def listed(unknown: Counter[tuple[str, str]], most: int = 12) -> str:
    """Out-of-vocabulary symbols with their counts, the most frequent first."""
    parts = [f"{token} ({language}) {count}" for (language, token), count in unknown.most_common()]
    rest = f", and {len(parts) - most} more" if len(parts) > most else ""
    return ", ".join(parts[:most]) + rest


def read_split(
    config: Config, split: str, vocabulary: Vocabulary, languages: Sequence[str] = ()
) -> tuple[pipeline.Reader, list[tuple[str, tuple[str, ...] | None]]]:
    """The records of a split and the label tokens of each, to be evaluated on.

    Args:
      languages: codes; those of the vocabulary that the split has where empty.

    Raises:
      CorpusError: no such split, or none of the languages in it.
    """
    hours = records.Manifest.load(config.data.path).hours(split)
    wanted = tuple(languages) or tuple(x for x in vocabulary.languages if x in hours)
    for language in wanted:
        if language not in hours:
            raise CorpusError(
                f"split {split!r} of {config.data.path} has no language {language!r}; it has "
                f"{', '.join(sorted(hours))}"
            )
    if not wanted:
        raise CorpusError(
            f"split {split!r} of {config.data.path} has none of the model's languages "
            f"{', '.join(vocabulary.languages)}"
        )
    index = load_index(config.data, split, tuple(sorted(wanted)))
    return pipeline.Reader(index), labels.load(config.labels, index)


def prepare_corpus(config: Config) -> None:
    """Makes the config's own corpus on first use, or checks that it is the one asked for."""
    if not config.corpus.make:
        return
    from xlsr_jax.preparation.corpora.spoken_text import SpokenText
    from xlsr_jax.preparation.prepare import ensure

    ensure(SpokenText(hours=config.corpus.hours, seed=config.corpus.seed), config.data.path)
