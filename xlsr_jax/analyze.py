"""What a pretraining run's codebook learned: ``python -m xlsr_jax.analyze --run=runs/mine``.

    python -m xlsr_jax.analyze --run=runs/mine --against=runs/other --corpus=corpora/demo

Asks which codewords the quantizer takes for each frame of a prepared corpus, and how they go with
phones, where the corpus is aligned, and with languages. Writes a page, pictures, tables and
figures.json to ``<run>/analysis/<split>`` and prints the summary.
"""

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from typing import Any

from xlsr_jax import command, storage


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    options = _parser().parse_args(arguments)
    return command.run(lambda: _analyze(options))


def _analyze(options: argparse.Namespace) -> None:
    from tqdm import tqdm

    from xlsr_jax.analysis import codes, document, figures, page, pictures, tables
    from xlsr_jax.data import mixture, records
    from xlsr_jax.data.index import load_index
    from xlsr_jax.data.pipeline import Reader

    folder = command.output_folder(options.output, options.run, f"analysis/{options.split}")
    coders = [codes.load(options.run, options.step)]
    if options.against:
        coders.append(codes.load(options.against, options.against_step))
    _check_same_frames(coders)
    data = coders[0].config.data
    data = dataclasses.replace(data, path=options.corpus or data.path)
    hours = records.Manifest.load(data.path).hours(options.split)
    wanted = [language for language in options.languages.split(",") if language]
    index = load_index(data, options.split, mixture.choose_languages(hours, wanted))
    reader = Reader(index)
    window, hop = coders[0].config.model.geometry
    numbers = codes.draw(index, options.seconds, window)
    frames = codes.look(reader, numbers, window, hop)
    runs = []
    total = round(float(frames.seconds.sum()) * len(coders))
    with tqdm(total=total, unit=" s of audio", unit_scale=True, disable=None) as bar:
        for coder, name in zip(coders, _names(coders), strict=True):
            found = codes.codes_of(coder, reader, numbers, options.batch_seconds, bar.update)
            facts = _facts(coder)
            runs.append(figures.of_run(name, facts, found, coder.codewords, frames))
    notes = _notes(frames, options)
    facts = {
        "corpus": f"{data.path}, split {options.split}",
        "frames": f"{len(frames.language):,}, one every {hop / records.SAMPLE_RATE * 1000:g} ms, "
        f"each of {window / records.SAMPLE_RATE * 1000:g} ms",
        "languages": ", ".join(frames.languages),
        "audio": f"{frames.seconds.sum():,.0f} s, {_asked(options.seconds)}",
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name in (*tables.FILES, *pictures.FILES):  # of an earlier analysis, which had more of them
        (folder / name).unlink(missing_ok=True)
    files = tables.csv_files(runs, frames)
    title = f"Codebook of {' and '.join(run.name for run in runs)}"
    whole = {"title": title, "facts": facts, "notes": notes, **document.document(runs, frames)}
    files["figures.json"] = json.dumps(whole, ensure_ascii=False, indent=1) + "\n"
    drawn = pictures.draw(runs, frames.languages, folder)
    files["analysis.html"] = page.page(runs, frames, title, facts, notes, drawn)
    for name, content in files.items():
        records.write_atomically(folder / name, content.encode())
    for note in notes:
        print(note, file=sys.stderr)
    _show(tables.summary(runs))
    print(f"analysis: {folder / 'analysis.html'}", file=sys.stderr)


def _check_same_frames(coders: Sequence[Any]) -> None:
    from xlsr_jax.schema import ConfigError

    first, *others = coders
    for other in others:
        (window, hop), theirs = first.config.model.geometry, other.config.model.geometry
        if theirs != (window, hop):
            raise ConfigError(
                f"{first.run} has frames of {window} samples every {hop} and {other.run} of "
                f"{theirs[0]} every {theirs[1]}: such runs cannot be compared frame by frame; "
                "analyze each by itself"
            )


def _names(coders: Sequence[Any]) -> list[str]:
    """The runs' folders, with what tells them apart where they are called the same."""
    runs = [coder.run for coder in coders]
    folders = [run if storage.is_remote(run) else run.resolve() for run in runs]
    names = [folder.name for folder in folders]
    if len(set(names)) == len(names):
        return names
    if len(set(folders)) == len(folders):
        return [str(coder.run) for coder in coders]
    steps = [f"{name}, update {coder.step:,}" for name, coder in zip(names, coders, strict=True)]
    return steps if len(set(steps)) == len(steps) else [f"{steps[0]} ({n})" for n in (1, 2)]


def _facts(coder: Any) -> dict[str, Any]:
    return {
        "update": f"{coder.step:,}",
        "method": coder.config.method,
        "codebook": f"{coder.groups} x {coder.codewords} codewords",
    }


def _asked(seconds: float) -> str:
    return f"{seconds:g} s of each language asked for" if seconds else "all there is"


def _notes(frames: Any, options: argparse.Namespace) -> list[str]:
    """What is left out, or to be read with care."""
    notes = []
    if not frames.phone.any():
        notes.append(
            f"Split {options.split} has no aligned phones: the figures of phones are left out."
        )
    if len(frames.languages) < 2:
        notes.append(f"One language only ({frames.languages[0]}): nothing to compare it with.")
    short = [
        f"{language} ({seconds:.0f} s)"
        for language, seconds in zip(frames.languages, frames.seconds, strict=True)
        if options.seconds and seconds < options.seconds
    ]
    if short and len(frames.languages) > 1:
        notes.append(
            f"Less than {options.seconds:g} s: {', '.join(short)}. Languages with less audio seem "
            "further from others and to use fewer codes; a lower --seconds makes them equal."
        )
    return notes


def _show(rows: Sequence[Sequence[str]]) -> None:
    """Prints a table with aligned columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        first, *others = (
            value.ljust(width) if place == 0 else value.rjust(width)
            for place, (value, width) in enumerate(zip(row, widths, strict=True))
        )
        print("  ".join([first, *others]).rstrip())


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text}: seconds of audio, 0 or more, are wanted")
    return value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m xlsr_jax.analyze",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--run", required=True, metavar="DIR", help="folder of a pretraining run")
    add("--step", type=int, help="of its checkpoint; default the newest")
    add("--against", default="", metavar="DIR", help="a second run, on the same frames")
    add("--against_step", type=int, help="of its checkpoint; default the newest")
    add("--corpus", default="", metavar="DIR", help="prepared corpus; default that of the run")
    add("--split", default="train", help="of the corpus; default %(default)s")
    add("--languages", default="", metavar="es,fr", help="codes; default all of the split")
    add("--seconds", type=_seconds, default=600.0,
        help="audio of each language, 0 for all; default %(default)g")  # fmt: skip
    add("--batch_seconds", type=_seconds, default=60.0, help="audio computed at once")
    add("--output", default="", metavar="DIR", help="default <run>/analysis/<split>")
    return parser


if __name__ == "__main__":
    sys.exit(main())
