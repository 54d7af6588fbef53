"""Turns a corpus into shards.

    python -m xlsr_jax.prepare spoken_text --output corpora/demo --hours 2
    python -m xlsr_jax.prepare folder --source recordings --output corpora/mine --language es
    python -m xlsr_jax.prepare check --output corpora/mine

The same command again goes on where a killed one stopped. Exit status 0 also where some files
were set aside (they are in rejected.jsonl, with reasons), 1 where nothing came of it.
"""

import argparse
import sys
from collections.abc import Sequence

from xlsr_jax.data.corpora.base import Corpus
from xlsr_jax.data.prepare import prepare, summary
from xlsr_jax.data.records import CorpusError, Manifest, damage


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

    folder = commands.add_parser("folder", parents=[shared], help="a tree of audio files")
    folder.set_defaults(corpus=_folder)
    add = folder.add_argument
    add("--source", required=True, help="folder of WAV, FLAC, MP3 and OGG files")
    add("--metadata", default="",
        help=".tsv, .csv or .jsonl with columns path, id, language, text, speaker, split")
    add("--column", action="append", default=[], metavar="OURS=THEIRS",
        help="another column name in the metadata, such as text=sentence; may be repeated")
    add("--language", default="", help="for files without one; default the first folder's name")
    add("--split", default="", help="for files without one; default drawn from the id")
    add("--split-shares", type=float, nargs=3, default=(98, 1, 1),
        metavar=("TRAIN", "VALID", "TEST"), help="of that draw; default 98 1 1")
    add("--max-seconds", type=float, default=600.0, help="longer files are set aside")
    add("--name", default="folder", help="corpus name in the manifest")

    spoken = commands.add_parser(
        "spoken_text", parents=[shared], help="the demonstration corpus, spoken by espeak-ng"
    )
    spoken.set_defaults(corpus=_spoken_text)
    add = spoken.add_argument
    add("--hours", type=float, default=2.0, help="of training audio in all; default %(default)s")
    add("--seed", type=int, default=0)
    add("--languages", nargs="+", metavar="LANGUAGE", help="default all eleven")
    add("--valid-utterances", type=int, default=25, help="per language; default %(default)s")
    add("--test-utterances", type=int, default=25, help="per language; default %(default)s")

    sentences = commands.add_parser(
        "spoken_sentences", parents=[shared], help="lists of sentences, spoken by other voices"
    )
    sentences.set_defaults(corpus=_spoken_sentences)
    add = sentences.add_argument
    add("--source", required=True, help="folder of LANGUAGE/train.text, val.text: id, tab, text")
    add("--seed", type=int, default=0)
    add("--languages", nargs="+", metavar="LANGUAGE", help="default all of the source")

    check = commands.add_parser("check", help="compare every shard with its checksum")
    check.add_argument("--output", required=True, help="corpus directory")
    return parser


def _folder(options: argparse.Namespace) -> Corpus:
    from xlsr_jax.data.corpora.folder import Folder

    for column in options.column:
        if column.count("=") != 1:
            raise CorpusError(f"--column {column} must be OURS=THEIRS, such as text=sentence")
    return Folder(
        source=options.source,
        metadata=options.metadata,
        columns=tuple(tuple(column.split("=")) for column in options.column),
        language=options.language,
        split=options.split,
        split_shares=tuple(float(share) for share in options.split_shares),
        max_seconds=options.max_seconds,
        name=options.name,
    )


def _spoken_text(options: argparse.Namespace) -> Corpus:
    from xlsr_jax.data.corpora.spoken_text import SpokenText

    languages = {"languages": tuple(options.languages)} if options.languages else {}
    return SpokenText(
        hours=options.hours,
        seed=options.seed,
        valid_utterances=options.valid_utterances,
        test_utterances=options.test_utterances,
        **languages,
    )


def _spoken_sentences(options: argparse.Namespace) -> Corpus:
    from xlsr_jax.data.corpora.spoken_sentences import SpokenSentences

    return SpokenSentences(options.source, tuple(options.languages or ()), options.seed)


if __name__ == "__main__":
    sys.exit(main())
