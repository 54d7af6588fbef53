"""Turns a corpus into shards.

    python -m xlsr_jax.prepare spoken_text --output corpora/demo --hours 2
    python -m xlsr_jax.prepare folder --source recordings --output corpora/mine --language es
    python -m xlsr_jax.prepare check --output corpora/mine

The same command again goes on where a killed one stopped. Exit status 0 also where some files
were set aside (they are in rejected.jsonl, with reasons), 1 where nothing came of it.
"""

import argparse
import importlib
import sys
from collections.abc import Sequence

from xlsr_jax.data.prepare import prepare, summary
from xlsr_jax.data.records import CorpusError, Manifest, damage

# Each a module of ``xlsr_jax.data.corpora`` with ``add_flags`` and ``from_flags``.
CORPORA = {
    "folder": "a tree of audio files, or a table of them",
    "spoken_text": "the demonstration corpus, spoken by espeak-ng",
    "spoken_sentences": "lists of sentences, spoken by other voices",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        if options.command == "check":
            return _check(options.output)
        manifest = prepare(
            options.corpus(options),
            options.output,
            encoding=options.encoding,
            workers=options.workers,
            utterances_per_shard=options.utterances_per_shard,
            overwrite=options.overwrite,
        )
    except CorpusError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; the same command again goes on from here", file=sys.stderr)
        return 130
    print(summary(manifest))
    print(f"corpus {manifest.name} is in {options.output}")
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
    add("--output", required=True, help="corpus directory")
    add("--encoding", choices=("pcm16", "flac"), default="pcm16", help="default %(default)s")
    add("--workers", type=int, help="processes; default one a core")
    add("--utterances-per-shard", type=int, help="default 256 to 4096, by size")
    add("--overwrite", action="store_true", help="drop an earlier preparation in --output")

    for name, text in CORPORA.items():
        module = importlib.import_module(f"xlsr_jax.data.corpora.{name}")
        command = commands.add_parser(
            name, parents=[shared], help=text, description=module.__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )  # fmt: skip
        module.add_flags(command)
        command.set_defaults(corpus=module.from_flags)

    check = commands.add_parser("check", help="compare every shard with its checksum")
    check.add_argument("--output", required=True, help="corpus directory")
    return parser


if __name__ == "__main__":
    sys.exit(main())
