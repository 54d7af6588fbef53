"""Turns a corpus into shards.

    python -m xlsr_jax.prepare spoken_text --output corpora/demo --hours 2
    python -m xlsr_jax.prepare folder --source recordings --output corpora/mine --language es
    python -m xlsr_jax.prepare check --output corpora/mine
    python -m xlsr_jax.prepare card --output corpora/mine
    python -m xlsr_jax.prepare inspect corpora/mine --language es --wav heard.wav
    python -m xlsr_jax.prepare folder --source recordings --output gs://bucket/mine --language es \\
        --runner DataflowRunner -- --project mine --region europe-west4

With --dry-run it says what would come of it, and writes nothing.
The same command again goes on where a killed one stopped. Exit status 0 also where some files
were set aside (they are in rejected.jsonl, with reasons), 1 where nothing came of it.
"""

import argparse
import importlib
import sys
from collections.abc import Sequence

from xlsr_jax.data.records import CorpusError, Manifest, damage
from xlsr_jax.preparation import card, estimate, inspection, processing
from xlsr_jax.preparation.prepare import prepare, summary

# Each a module of ``xlsr_jax.preparation.corpora`` with ``add_flags`` and ``from_flags``.
CORPORA = {
    "babel": "IARPA BABEL language packs, telephone speech",
    "common_voice": "Common Voice releases, as downloaded or unpacked",
    "fairseq": "manifests of fairseq, with their labels",
    "folder": "a tree of audio files, or a table of them",
    "librispeech": "LibriSpeech, and Libri-light's fine-tuning sets of it",
    "mls": "Multilingual LibriSpeech",
    "mixes": "several corpora as one, such as the papers pretrained on",
    "parquet": "Parquet files with the audio in a column, as the Hugging Face hub has them",
    "spoken_text": "the demonstration corpus, spoken by espeak-ng",
    "spoken_sentences": "lists of sentences, spoken by other voices",
    "tedlium3": "TED-LIUM releases 1 to 3, segments of talks",
    "tfds": "speech data that TensorFlow Datasets prepared",
    "timit": "TIMIT, with its phones aligned by hand",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    given, runner_flags = list(sys.argv[1:] if arguments is None else arguments), []
    if "--" in given:
        place = given.index("--")
        given, runner_flags = given[:place], given[place + 1 :]
    parser = _parser()
    options = parser.parse_args(given)
    if runner_flags and not getattr(options, "runner", ""):
        parser.error("what follows -- is for Apache Beam; name its --runner")
    try:
        if options.command == "check":
            return _check(options.output)
        if options.command == "card":
            print(f"the page is {card.write(options.output)}")
            return 0
        if options.command == "inspect":
            return _inspect(options)
        if options.dry_run:
            return _estimate(options)
        corpus = options.corpus(options)
        manifest = prepare(
            corpus,
            options.output,
            encoding=options.encoding,
            processing=processing.from_flags(options),
            workers=options.workers,
            utterances_per_shard=options.utterances_per_shard,
            overwrite=options.overwrite,
            runner=options.runner,
            runner_flags=runner_flags,
        )
    except CorpusError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; the same command again goes on from here", file=sys.stderr)
        return 130
    print(summary(manifest))
    for line in corpus.notes(manifest) if hasattr(corpus, "notes") else ():
        print(line)
    print(f"corpus {manifest.name} is in {options.output}; its page is README.md there")
    return 0


def _estimate(options: argparse.Namespace) -> int:
    found = estimate.estimate(
        options.corpus(options),
        options.output,
        encoding=options.encoding,
        processing=processing.from_flags(options),
        workers=options.workers,
        utterances_per_shard=options.utterances_per_shard,
    )
    print(estimate.report(found))
    return 0


def _inspect(options: argparse.Namespace) -> int:
    chosen = inspection.choose(
        options.corpus,
        split=options.split,
        language=options.language,
        identity=options.id,
        count=options.count,
    )
    print("\n\n".join(inspection.describe(shard, record) for shard, record in chosen))
    if options.wav:
        inspection.write_wav(chosen[0][1], options.wav)
        print(f"\n{chosen[0][1].id} is in {options.wav}")
    return 0


def _check(root: str) -> int:
    manifest = Manifest.load(root)
    lines = damage(root, manifest.shards)
    for line in lines:
        print(line)
    if lines:
        raise CorpusError(
            f"{len(lines)} faults in {root}; delete those files and run the command that prepared "
            "it, which makes only them"
        )
    print(f"{len(manifest.shards)} shards of {root} agree with their checksums")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m xlsr_jax.prepare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="CORPUS")

    shared = argparse.ArgumentParser(add_help=False)
    add = shared.add_argument
    add("--output", required=True, help="corpus directory, or gs://bucket/folder")
    add("--encoding", choices=("pcm16", "flac"), default="pcm16", help="default %(default)s")
    add("--workers", type=int, help="processes; default one a core")
    add("--utterances-per-shard", type=int, help="default 256 to 4096, by size")
    add("--runner", default="", help="of Apache Beam (DataflowRunner); its flags follow after --")
    add("--overwrite", action="store_true", help="drop an earlier preparation in --output")
    add("--dry-run", action="store_true", help="estimate hours, bytes and time; write nothing")

    for name, text in CORPORA.items():
        module = importlib.import_module(f"xlsr_jax.preparation.corpora.{name}")
        command = commands.add_parser(
            name, parents=[shared], help=text, description=module.__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )  # fmt: skip
        module.add_flags(command)
        processing.add_flags(command)
        command.set_defaults(corpus=module.from_flags)

    check = commands.add_parser("check", help="compare every shard with its checksum")
    check.add_argument("--output", required=True, help="corpus directory")
    page = commands.add_parser("card", help="make a corpus' README.md and its pictures again")
    page.add_argument("--output", required=True, help="corpus directory")
    look = commands.add_parser("inspect", help="show a few records, write one as WAV")
    add = look.add_argument
    add("corpus", metavar="CORPUS_DIR", help="corpus directory")
    add("--split", default="", help="default all")
    add("--language", default="", help="default all")
    add("--id", default="", help="show the record with this id")
    add("--count", type=int, default=5, help="evenly spread over the chosen; default %(default)s")
    add("--wav", default="", metavar="FILE", help="write the first that is shown to this file")
    return parser


if __name__ == "__main__":
    sys.exit(main())
