"""Checkpoints in and out.

    python -m xlsr_jax.convert import facebook/wav2vec2-large-xlsr-53 --output=runs/xlsr53
    python -m xlsr_jax.convert import xlsr_53_56k.pt --output=runs/xlsr53
    python -m xlsr_jax.convert export runs/mine --format=huggingface --output=mine

SOURCE is a folder as the Hugging Face hub has it (wav2vec 2.0 or UniSpeech: pretraining, CTC or the
bare model; safetensors), a pytorch_model.bin in one, or a fairseq .pt. Pickles are read by a reader
that runs nothing that is in them. The run can be fine-tuned and continued (--config.init_from),
evaluated, transcribed with and analysed as one that was trained here; RUN/import.json says what
became of each tensor. Exit status 0 where all went well, 1 where not, and then nothing is written.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from xlsr_jax import command


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    options = _parser().parse_args(arguments)
    return command.run(lambda: {"import": _import, "export": _export}[options.action](options))


def _import(options: argparse.Namespace) -> None:
    from xlsr_jax.interop import importing

    chosen = importing.Options(
        vocabulary=Path(options.vocabulary) if options.vocabulary else None,
        leave_out=_parts(options.leave_out),
        languages=_parts(options.languages),
        unit=options.unit,
    )
    run = importing.import_run(options.source, options.output, chosen)
    print("\n".join([*run.lines(), f"written to {options.output}"]))


def _export(options: argparse.Namespace) -> None:
    from xlsr_jax.interop.export import export_run

    chosen = {"step": options.step, "licence": options.licence}
    print(export_run(options.run, options.format, options.output, **chosen))


def _parts(text: str) -> tuple[str, ...]:
    return tuple(part for part in text.split(",") if part)


def _parser() -> argparse.ArgumentParser:
    def described(make, *name: str, **keywords) -> argparse.ArgumentParser:
        return make(*name, formatter_class=argparse.RawDescriptionHelpFormatter, **keywords)

    parser = described(
        argparse.ArgumentParser, prog="python -m xlsr_jax.convert", description=__doc__
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="import|export")
    into = described(actions.add_parser, "import", help="another library's checkpoint into a run")
    add = into.add_argument
    add("source", metavar="SOURCE", help="Hugging Face folder, pytorch_model.bin, fairseq .pt")
    add("--output", required=True, metavar="RUN", help="the run, a folder that is not there yet")
    add("--vocabulary", default="", metavar="FILE", help="vocab.json or dict.*.txt that is not "
        "beside SOURCE")  # fmt: skip
    add("--languages", default="", metavar="es,fr", help="languages that it was trained on")
    add("--unit", default="", choices=("", "characters", "phonemes"), help="of the vocabulary, "
        "where its files do not tell")  # fmt: skip
    add("--leave_out", default="", metavar="NAMES", help="tensors to pass over, or what their "
        "names begin with")  # fmt: skip
    out = described(actions.add_parser, "export", help="a run into a folder for others")
    add = out.add_argument
    add("run", metavar="RUN", help="its --workdir")
    add("--format", default="huggingface", help="default %(default)s")
    add("--output", required=True, metavar="DIR", help="a folder that is not there yet")
    add("--step", type=int, help="checkpoint; the best of a run with labels, the newest of others")
    add("--licence", default="", help="of the weights, for the model card: apache-2.0, ...")
    return parser


if __name__ == "__main__":
    sys.exit(main())
