"""Error rates of a fine-tuned run: ``python -m xlsr_jax.evaluate --run=runs/mine --split=test``.

    python -m xlsr_jax.evaluate --run=runs/mine --decoder=beam --lm=4gram.arpa --tune=20

Writes a report (page, table, picture, one line of JSON an utterance) to
``<run>/evaluation/<split>-<decoder>`` and prints the table. Every utterance of the split counts
exactly once, also those too long or too short to train on.
"""

import dataclasses
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from absl import app, flags

from xlsr_jax import command

_RUN = flags.DEFINE_string("run", None, "Folder of a fine-tuning run.", required=True)
_STEP = flags.DEFINE_integer("step", None, "Checkpoint; the one with the lowest held-out error.")
_SPLIT = flags.DEFINE_string("split", "test", "Split of the corpus.")
_CORPUS = flags.DEFINE_string("corpus", "", "Prepared corpus; that of the run if not given.")
_LABELS = flags.DEFINE_string("labels", "", "Labels made elsewhere (.tsv: id, tab, tokens).")
_LANGUAGES = flags.DEFINE_list("languages", [], "Codes; all of the model's that the split has.")
_DECODER = flags.DEFINE_enum("decoder", "greedy", ["greedy", "beam"], "How outputs become text.")
_LM = flags.DEFINE_string("lm", None, "KenLM n-gram model, ARPA or binary, for the beam search.")
_LEXICON = flags.DEFINE_string("lexicon", None, "Words and their spellings, a line a word.")
_BEAM = flags.DEFINE_integer("beam", 50, "Sequences kept after each frame.")
_LM_WEIGHT = flags.DEFINE_float("lm_weight", 2.0, "Times the language model's log10 probability.")
_WORD_SCORE = flags.DEFINE_float("word_score", -1.0, "Added for each word of the lexicon.")
_TUNE = flags.DEFINE_integer("tune", 0, "Trials on the validation split that choose the weights.")
_OUTPUT = flags.DEFINE_string("output", "", "Folder of the report.")
_BATCH_SECONDS = flags.DEFINE_float("batch_seconds", 60.0, "Audio computed at once.")


def main(_: list[str]) -> int:
    return command.run(_evaluate)


def _evaluate() -> None:
    from xlsr_jax import recognizer, storage
    from xlsr_jax.evaluation import report
    from xlsr_jax.evaluation.error_rate import Utterance
    from xlsr_jax.schema import ConfigError

    below = f"evaluation/{_SPLIT.value}-{_DECODER.value}"
    folder = command.output_folder(_OUTPUT.value, _RUN.value, below)
    model = recognizer.load(_RUN.value, _STEP.value)
    if model.config.objective.target == "frames":
        raise ConfigError(
            f"{model.run} classifies frames and writes no transcripts; its figure is the held-out "
            "error_rate of its log"
        )
    search = folder if storage.is_remote(model.run) else model.run / "evaluation"
    decode, facts = _decoder(model, search / "lm_search.jsonl")
    utterances = []
    unit = "character" if model.vocabulary.unit == "characters" else "phoneme"
    for identity, language, reference, log_probs in _outputs(model, _SPLIT.value):
        hypothesis = tuple(decode(log_probs))
        texts = (model.vocabulary.text(tokens) for tokens in (reference, hypothesis))
        utterances.append(Utterance(identity, language, tuple(reference), hypothesis, *texts))
    title = f"{model.config.name}: {_SPLIT.value}"
    units = [unit, "word"] if unit == "character" else [unit]
    page = report.write_report(folder, utterances, title, facts, units)
    print((folder / "report.md").read_text())
    print(f"report: {page}", file=sys.stderr)


def _decoder(model, search: Path):
    """The decoding function, log-probabilities to tokens, and what a reader has to know of it.

    Trials of weights are written to ``search``.
    """
    from xlsr_jax.evaluation import decode, lm_search
    from xlsr_jax.text.vocabulary import DELIMITER

    vocabulary = model.vocabulary
    facts = {"checkpoint": f"update {model.step}", "data": _CORPUS.value or model.config.data.path}
    facts["decoder"] = _DECODER.value
    if _DECODER.value == "greedy":
        greedy = lambda log_probs: decode.greedy(log_probs, vocabulary.blank)  # noqa: E731
        return lambda log_probs: vocabulary.decode(greedy(log_probs)), facts
    settings = decode.DecodeConfig(
        beam=_BEAM.value, lm_weight=_LM_WEIGHT.value, word_score=_WORD_SCORE.value
    )
    beam = decode.BeamDecoder(
        vocabulary.symbols,
        vocabulary.blank,
        config=settings,
        lm=_LM.value,
        lexicon=_LEXICON.value,
        word_delimiter=DELIMITER if vocabulary.unit == "characters" else None,
    )
    if _TUNE.value:
        held_out = list(_outputs(model, model.config.data.eval_split))
        words = beam.lexicon is not None
        examples = [
            (log_probs, vocabulary.text(tokens).split() if words else tokens)
            for _, _, tokens, log_probs in held_out
        ]
        beam, best = lm_search.search(beam, examples, search, _TUNE.value)
        facts["weights chosen on"] = f"{model.config.data.eval_split}, trial {best.number}"
    facts |= {"language model": _LM.value or "none", "lexicon": _LEXICON.value or "none"}
    facts |= {"beam": beam.config.beam, "lm weight": f"{beam.config.lm_weight:.3g}"}
    facts["word score"] = f"{beam.config.word_score:.3g}"
    return lambda log_probs: vocabulary.decode(beam.decode(log_probs).ids), facts


def _outputs(model, split: str) -> Iterator[tuple[str, str, Sequence[str], np.ndarray]]:
    """Id, language, reference and log-probabilities of every utterance that has a label."""
    from tqdm import tqdm

    from xlsr_jax import inputs
    from xlsr_jax.data.records import SAMPLE_RATE, CorpusError
    from xlsr_jax.evaluation.windows import by_length

    data, labels = model.config.data, model.config.labels
    if _CORPUS.value:
        data = dataclasses.replace(data, path=_CORPUS.value)
        labels = dataclasses.replace(labels, file="")
    if _LABELS.value:
        labels = dataclasses.replace(labels, file=_LABELS.value)
    config = dataclasses.replace(model.config, data=data, labels=labels)
    reader, tokens = inputs.read_split(config, split, model.vocabulary, _LANGUAGES.value)
    index = reader.index
    there = [n for n, (_, reference) in enumerate(tokens) if reference is not None]
    if not there:
        raise CorpusError(f"no utterance of split {split!r} of {data.path} has a label")
    if len(there) < len(tokens):
        print(f"{len(tokens) - len(there)} utterances of {split} have no label", file=sys.stderr)
    language_of = lambda n: index.languages[index.language[n]]  # noqa: E731
    unknown = Counter(
        (language_of(n), token)
        for n in there
        for token in model.vocabulary.encode(tokens[n][1], language_of(n))[1]
    )
    if unknown:
        print(f"symbols the model does not know: {inputs.listed(unknown)}", file=sys.stderr)
    lengths = [int(index.samples[n]) for n in there]
    with tqdm(total=len(there), unit="utt", file=sys.stderr, desc=split) as bar:
        for group in by_length(lengths, round(_BATCH_SECONDS.value * SAMPLE_RATE)):
            numbers = [there[place] for place in group]
            waveforms = [reader.waveform(n, model.normalize) for n in numbers]
            for n, log_probs in zip(numbers, model.log_probabilities(waveforms), strict=True):
                yield tokens[n][0], language_of(n), tokens[n][1], log_probs
            bar.update(len(group))


if __name__ == "__main__":
    app.run(main)
