"""An n-gram model of a corpus' transcripts, and the lexicon of their words, for the beam search.

    python tools/make_ngram.py --corpus=corpora/spoken_text --languages=it --output=it.arpa \\
        --lexicon=it.lexicon
    python -m xlsr_jax.evaluate --run=runs/it_characters --decoder=beam --lm=it.arpa \\
        --lexicon=it.lexicon --tune=30

Of words for a model that writes characters; of phonemes or characters themselves for a search
without lexicon. For text of more than some million words use KenLM's ``lmplz``.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from xlsr_jax.data import labels, mixture, records
from xlsr_jax.data.index import DataConfig, load_index
from xlsr_jax.data.labels import LabelsConfig
from xlsr_jax.evaluation import ngram
from xlsr_jax.schema import ConfigError
from xlsr_jax.text.vocabulary import DELIMITER


def words_of(tokens: Sequence[str]) -> list[str]:
    """The words that character tokens spell."""
    return "".join(tokens).replace(DELIMITER, " ").split()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--corpus", required=True, help="prepared corpus with transcripts")
    add("--output", type=Path, required=True, help="ARPA file to write")
    add("--languages", default="", help="codes, comma-separated; default all")
    add("--split", default="train", help="default %(default)s")
    add("--unit", choices=("words", "characters", "phonemes"), default="words")
    add("--order", type=int, default=3, help="default %(default)s")
    add("--lexicon", type=Path, help="file to write the words and their spellings to")
    flags = parser.parse_args()
    if flags.lexicon and flags.unit != "words":
        parser.error("--lexicon is of words; leave it out, or --unit")
    try:
        sequences = _sequences(flags)
        ngram.write_arpa(flags.output, sequences, flags.order)
    except (records.CorpusError, ConfigError, OSError) as error:
        sys.exit(f"error: {error}")
    words = sorted({word for sequence in sequences for word in sequence})
    if flags.lexicon:
        lines = [f"{word} {' '.join(word)}\n" for word in words]
        flags.lexicon.write_text("".join(lines), encoding="utf-8")
    tokens = sum(map(len, sequences))
    print(f"{flags.output}: {len(sequences):,} transcripts, {tokens:,} {flags.unit}, "
          f"{len(words):,} different")  # fmt: skip


def _sequences(flags: argparse.Namespace) -> list[Sequence[str]]:
    hours = records.Manifest.load(flags.corpus).hours(flags.split)
    asked = tuple(filter(None, flags.languages.split(",")))
    data = DataConfig(path=flags.corpus)
    index = load_index(data, flags.split, mixture.choose_languages(hours, asked))
    unit = "characters" if flags.unit == "words" else flags.unit
    found = [tokens for _, tokens in labels.load(LabelsConfig(unit=unit), index) if tokens]
    return [words_of(tokens) for tokens in found] if flags.unit == "words" else found


if __name__ == "__main__":
    main()
