"""Do features tell phones apart? ``python -m xlsr_jax.abx --run=runs/mine --split=test``.

    python -m xlsr_jax.abx --run=runs/mine,runs/other --log_mel --corpus=corpora/demo --seconds=300

ABX errors within and across speakers (``xlsr_jax.evaluation.abx``) on a prepared corpus that is
aligned. Runs may be of any method, pretrained or fine-tuned; their heads are left aside. All are
asked about the same triplets. Prints a table, and writes it to ``<first run>/abx``.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

# Nothing of JAX here, so that --help and a mistyped flag answer at once.
from xlsr_jax import command
from xlsr_jax.data.index import DataConfig, load_index
from xlsr_jax.data.mixture import choose_languages
from xlsr_jax.data.pipeline import Reader
from xlsr_jax.data.records import CorpusError, Manifest, write_atomically
from xlsr_jax.evaluation.abx import Item, Result, abx, same_items
from xlsr_jax.evaluation.batches import LONGEST
from xlsr_jax.schema import ConfigError

if TYPE_CHECKING:
    from xlsr_jax.features import Features

COLUMNS = (
    "language", "features", "update", "within_%", "within_pairs", "within_triplets",
    "across_%", "across_pairs", "across_triplets", "speakers", "tokens",
)  # fmt: skip
NO_PAIRS = {
    "within": "no speaker says one phone twice and another between the same two phones",
    "across": "no two speakers say one phone, and one of them another, between the same two phones",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    options = _parser().parse_args(arguments)
    return command.run(lambda: _compare(options))


def _compare(options: argparse.Namespace) -> None:
    from xlsr_jax.analysis.codes import draw
    from xlsr_jax.features import load, log_mel

    runs = list(dict.fromkeys(options.run))
    if not runs:
        raise ConfigError("--run names no run; give the folder of one, or of several: DIR,DIR")
    folder = command.output_folder(options.output, runs[0], "abx")
    named = zip(runs, _names(runs), strict=True)
    compared = [load(run, options.layer, name) for run, name in named]
    path = options.corpus or compared[0].corpus
    compared += [log_mel()] if options.log_mel else []
    hours = Manifest.load(path).hours(options.split)
    languages = choose_languages(hours, options.languages)
    reader = Reader(load_index(DataConfig(path=path), options.split, languages))
    shortest = max(each.model.geometry[0] for each in compared)
    numbers = draw(reader.index, options.seconds, shortest)
    if not any(reader.record(int(number)).alignment for number in numbers):
        raise CorpusError(
            f"split {options.split} of {path} has no aligned phones, which are what is compared; "
            "give a corpus whose records have their alignment, as those of spoken_text have"
        )
    rows, notes = [COLUMNS], []
    for language in reader.index.languages:
        found, remarks = _language(language, reader, numbers, compared, options)
        rows, notes = rows + found, notes + remarks
    read = "contexts" if options.layer < 0 else f"input of layer {options.layer}"
    facts = (
        f"corpus: {path}, split {options.split}",
        f"audio: {options.seconds:g} s of each language" if options.seconds else "audio: all",
        f"features: {read}; every row is asked about the same triplets",
        f"triplets of a context, two phones and speakers: {options.max_per_cell or 'any'} at most",
        "chance: 50 %",
    )
    table = _table(rows)
    page = ["# ABX", "", *(f"- {fact}" for fact in facts), "", *table, ""]
    page += [f"- {note}" for note in notes]
    folder.mkdir(parents=True, exist_ok=True)
    for name, lines in (("abx.tsv", map("\t".join, rows)), ("abx.md", page)):
        write_atomically(folder / name, "".join(f"{line}\n" for line in lines).encode())
    print("\n".join(table))
    print(*notes, f"abx: {folder / 'abx.md'}", sep="\n", file=sys.stderr)


def _language(
    language: str,
    reader: Reader,
    numbers: np.ndarray,
    compared: "Sequence[Features]",
    options: argparse.Namespace,
) -> tuple[list[tuple[str, ...]], list[str]]:
    """A row for each of those compared, and what is to be said of them."""
    from tqdm import tqdm

    from xlsr_jax.features import features_of

    index = reader.index
    tokens: list[list[Item]] = [[] for _ in compared]
    for number in numbers[index.language[numbers] == index.languages.index(language)]:
        record, samples = reader.record(number), min(int(index.samples[number]), LONGEST)
        frames = [(each.model.frames(samples), *each.model.geometry) for each in compared]
        names = {"utterance": str(number), "speaker": record.speaker}
        for items, more in zip(tokens, same_items(record.alignment, frames, **names), strict=True):
            items += more
    used = sorted({int(item.utterance) for item in tokens[0]})
    speakers = {item.speaker for item in tokens[0]}
    rows, notes = [], []
    with tqdm(total=len(used) * len(compared), unit=" utterances", disable=None) as bar:
        for features, items in zip(compared, tokens, strict=True):
            bar.set_description(f"{language}, {features.name}")
            found = features_of(features, reader, used, options.batch_seconds, bar.update)
            results = {
                kind: abx(items, found, kind == "across", options.max_per_cell) for kind in NO_PAIRS
            }
            cells = [cell for result in results.values() for cell in _cells(result)]
            counts = (str(len(speakers)), str(len(items)))
            rows.append((language, features.name, features.update, *cells, *counts))
    if "" in speakers:
        notes.append(f"{language}: utterances that name no speaker count as of one speaker")
    for kind, result in results.items():
        if not result.pairs:
            notes.append(f"{language}, {kind} speakers: no pairs; {NO_PAIRS[kind]}")
    return rows, notes


def _cells(result: Result) -> tuple[str, str, str]:
    error = f"{100 * result.error:.2f}" if result.pairs else "-"
    return error, str(result.pairs), str(result.triplets)


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table, also straight as plain text; the first row is the heading."""
    heading = [cell.replace("_", " ") for cell in rows[0]]
    widths = [max(map(len, column)) for column in zip(heading, *rows[1:], strict=True)]
    rule = ["-" * (width - 1) + ":" for width in widths]
    return [f"| {' | '.join(map(str.rjust, row, widths))} |" for row in (heading, rule, *rows[1:])]


def _names(runs: Sequence[str]) -> list[str]:
    """The runs' folders; their paths where two are called the same."""
    names = [Path(run).resolve().name for run in runs]
    return names if len(set(names)) == len(names) else list(runs)


def _listed(text: str) -> list[str]:
    return [part for part in text.split(",") if part]


def _at_least(least: float, kind: type) -> Callable[[str], Any]:
    def number(text: str) -> Any:
        value = kind(text)
        if not least <= value < float("inf"):
            raise argparse.ArgumentTypeError(f"{text}: {least:g} or more is wanted")
        return value

    return number


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m xlsr_jax.abx",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--run", required=True, type=_listed, metavar="DIR,DIR", help="folders of runs")
    add("--layer", type=_at_least(-1, int), default=-1,
        help="what is read: n for the input of layer n; default the contexts")  # fmt: skip
    add("--log_mel", action="store_true", help="compare with log-mel frames too")
    add("--corpus", default="", metavar="DIR", help="prepared corpus; default the first run's")
    add("--split", default="test", help="of the corpus; default %(default)s")
    add("--languages", type=_listed, default=[], metavar="es,fr", help="default all of the split")
    add("--seconds", type=_at_least(0, float), default=600.0,
        help="audio of each language, 0 for all; default %(default)g")  # fmt: skip
    add("--max_per_cell", type=_at_least(0, int), default=100, metavar="N",
        help="triplets of one context and speaker, 0 for all; default %(default)s")  # fmt: skip
    add("--batch_seconds", type=_at_least(0, float), default=60.0, help="audio computed at once")
    add("--output", default="", metavar="DIR", help="default <first run>/abx")
    return parser


if __name__ == "__main__":
    sys.exit(main())
