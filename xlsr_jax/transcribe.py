"""Writes down what recordings say, with a fine-tuned run.

    python -m xlsr_jax.transcribe --run=runs/spanish talk.mp3
    python -m xlsr_jax.transcribe --run=runs/spanish interviews --format=textgrid --output=grids
    ffmpeg -i film.mkv -f wav - | python -m xlsr_jax.transcribe --run=runs/spanish --format=srt -

RECORDING is a file of any format that libsndfile reads, a folder of them, a glob in quotes, or -
for standard input. Exit status 0 where all went well, 1 where a recording could not be read (one
line names it and why, the others are transcribed), 2 where there was nothing to do.
"""

import argparse
import contextlib
import dataclasses
import functools
import glob
import os
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from xlsr_jax.data import audio
from xlsr_jax.data.records import SAMPLE_RATE
from xlsr_jax.data.speech import Speech, UnreadableAudio
from xlsr_jax.evaluation import transcript as transcripts
from xlsr_jax.evaluation import windows
from xlsr_jax.evaluation.transcript import Transcript
from xlsr_jax.preparation.corpora.folder import SUFFIXES
from xlsr_jax.schema import ConfigError

if TYPE_CHECKING:
    from xlsr_jax.recognizer import Recognizer


def transcribe(
    recordings: Iterable[str | os.PathLike[str] | np.ndarray],
    run: "str | os.PathLike[str] | Recognizer",
    *,
    step: int | None = None,
    language: str = "",
    batch_seconds: float = 120.0,
    window_seconds: float = 30.0,
    overlap_seconds: float = 4.0,
    failed: Callable[[str, UnreadableAudio], None] | None = None,
    progress: Callable[[float], object] = lambda seconds: None,
) -> Iterator[Transcript]:
    """Transcribes recordings greedily, in their order; those of like length go in one batch.

    A recording that fits one window is seen whole. A longer one, of hours too, is read in blocks
    and seen in windows (``evaluation.windows``), normalized over the whole of it where the run
    normalizes. Runs with a group norm take that norm's statistics over each window.

    Args:
      recordings: files, or [samples] float32 waveforms at 16 kHz, which are called "array 0", ...
      run: folder of a fine-tuned run, or what ``recognizer.load`` made of it.
      step: of the checkpoint; the newest if None.
      language: restricts a separate vocabulary to the symbols of this language.
      batch_seconds: most audio in a batch, padding included, but at least one window.
      window_seconds: what a longer recording is cut into.
      overlap_seconds: the least overlap of two windows.
      failed: called with the name of a recording that cannot be read; without it that raises.
      progress: called with the seconds of audio that have been done since the last call.

    Raises:
      ConfigError: for windows that cannot be, or a language that the run does not have.
      CheckpointError: where the run has no checkpoint.
      UnreadableAudio: while iterating, see ``failed``.
    """
    if isinstance(recordings, str | os.PathLike | np.ndarray):
        recordings = (recordings,)
    if isinstance(run, str | os.PathLike):
        from xlsr_jax import recognizer

        run = recognizer.load(run, step)
    length = (round(window_seconds * SAMPLE_RATE) - run.window) // run.hop + 1
    overlap = round(overlap_seconds * SAMPLE_RATE) // run.hop
    if not 0 <= overlap < length:
        raise ConfigError(
            f"windows of {window_seconds:g} s cannot overlap by {overlap_seconds:g} s; "
            "make the overlap the shorter of the two"
        )
    closed = transcripts.closed_to(run.vocabulary, language)
    most = round(batch_seconds * SAMPLE_RATE)
    longest = length * run.hop + run.window - 1  # samples; one more, and a frame does not fit
    readable = _opened(recordings, run.window, longest, run.normalize, failed)
    heard = windows.heard(
        readable, run, length, overlap, most, lambda samples: progress(samples / SAMPLE_RATE)
    )
    blank, frame_rate = run.vocabulary.blank, SAMPLE_RATE / run.hop
    return (
        transcripts.assemble(
            recording.name,
            windows.spans(pieces, blank, closed),
            run.vocabulary,
            frame_rate,
            recording.samples / SAMPLE_RATE,
        )
        for recording, pieces in heard
    )


def _opened(
    recordings: Iterable[str | os.PathLike[str] | np.ndarray],
    shortest: int,
    longest: int,
    normalize: bool,
    failed: Callable[[str, UnreadableAudio], None] | None,
) -> Iterator[windows.Recording]:
    """Recordings that have been read once, kept up to ``longest`` samples, normalized if asked."""
    for number, recording in enumerate(recordings):
        is_array = isinstance(recording, np.ndarray)
        name = f"array {number}" if is_array else os.fspath(recording)
        blocks = functools.partial(_blocks, recording)
        try:
            measured = windows.measure(blocks(), longest)
            if measured.samples < shortest:
                counts = f"{measured.samples} of {shortest} samples at 16 kHz"
                raise UnreadableAudio(f"shorter than one frame: {counts}")
        except UnreadableAudio as error:
            if failed is None:
                raise
            failed(name, error)
            continue
        waveform = measured.waveform
        if normalize and waveform is not None:
            waveform = audio.normalize(waveform)
        elif normalize:
            blocks = functools.partial(windows.standardized, blocks, measured)
        yield windows.Recording(name, measured.samples, waveform, blocks)


def _blocks(recording: str | os.PathLike[str] | np.ndarray) -> Iterator[np.ndarray]:
    if isinstance(recording, np.ndarray):
        return iter([audio.to_record_rate(Speech(recording, SAMPLE_RATE))])
    return audio.stream(recording)


def find(patterns: Iterable[str]) -> tuple[dict[str, str], list[str]]:
    """Recordings as {path: name of its output, without suffix}, and the patterns of none.

    A folder keeps its tree; what is hidden there is passed over, links are followed.
    """
    found: dict[str, str] = {}
    missing = []
    for pattern in patterns:
        exists = pattern == "-" or os.path.exists(pattern)
        here: dict[str, str] = {}
        for path in [pattern] if exists else sorted(glob.glob(pattern, recursive=True)):
            if not os.path.isdir(path):
                here[path] = "stdin" if path == "-" else os.path.basename(path)
                continue
            for name in sorted(glob.glob("**/*", root_dir=path, recursive=True)):
                below = os.path.join(path, name)
                if name.lower().endswith(SUFFIXES) and not os.path.isdir(below):
                    here[below] = name
        found |= {path: name for path, name in here.items() if path not in found}
        if not here:
            missing.append(pattern)
    stems = Counter(os.path.splitext(name)[0] for name in set(found.values()))
    for path, name in found.items():
        stem = os.path.splitext(name)[0]
        found[path] = stem if stems[stem] == 1 else name  # a.wav and a.mp3: a.wav.txt, a.mp3.txt
    return found, missing


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    options = _parser().parse_intermixed_args(arguments)
    found, missing = find(options.recordings)
    if not found:
        kinds = " ".join(SUFFIXES)
        print(f"nothing to transcribe in {' '.join(missing)} ({kinds})", file=sys.stderr)
        return 2
    try:
        return _run(options, found, missing)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:  # who read the output has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (ConfigError, RuntimeError, OSError) as error:  # RuntimeError: CheckpointError, JAX
        said = str(error).strip().splitlines() or [""]
        print(f"{type(error).__name__}: {said[0][:500]}", file=sys.stderr)
        return 1


def _run(options: argparse.Namespace, found: dict[str, str], missing: list[str]) -> int:
    from absl import logging
    from tqdm import tqdm

    from xlsr_jax import runtime

    suffix, form = transcripts.FORMATS[options.format]
    single = len(found) == 1 and options.recordings == list(found)
    if options.output and len(set(found.values())) < len(found):
        name, _ = Counter(found.values()).most_common(1)[0]
        raise ConfigError(
            f"several recordings would be {name}{suffix} in {options.output}; "
            "give their folders to one command each"
        )
    if not options.output and not single and options.format in ("srt", "textgrid"):
        raise ConfigError(f"--format={options.format} of several recordings needs --output=DIR")
    logging.set_verbosity(logging.ERROR)
    runtime.start()
    failures = [f"{pattern}: no such file, nor audio below it" for pattern in missing]
    with contextlib.ExitStack() as stack:
        paths = {path: path for path in found}  # what is read: what it is called
        if "-" in found:
            spooled = stack.enter_context(tempfile.NamedTemporaryFile())
            shutil.copyfileobj(sys.stdin.buffer, spooled)
            spooled.flush()
            paths = {spooled.name if path == "-" else path: path for path in found}
        total = sum(map(_seconds, paths))
        bar = tqdm(total=total, unit=" s of audio", unit_scale=True, disable=None)
        stack.enter_context(bar)

        def failed(path: str, error: UnreadableAudio) -> None:
            failures.append(f"{paths[path]}: {error}")
            bar.write(failures[-1], file=sys.stderr)

        for line in failures:
            bar.write(line, file=sys.stderr)
        for transcript in transcribe(
            paths,
            options.run,
            step=options.step,
            language=options.language,
            batch_seconds=options.batch_seconds,
            window_seconds=options.window_seconds,
            overlap_seconds=options.overlap_seconds,
            failed=failed,
            progress=bar.update,
        ):
            transcript = dataclasses.replace(transcript, path=paths[transcript.path])
            content = form(transcript)
            if options.output:
                output = Path(options.output, found[transcript.path] + suffix)
                output.parent.mkdir(parents=True, exist_ok=True)
                output.write_text(content, encoding="utf-8")
            else:
                head = "" if single or options.format == "json" else f"{transcript.path}\t"
                bar.write(head + content, file=sys.stdout, end="")
    return 1 if failures else 0


def _seconds(path: str) -> float:
    """Length by the header, for the progress bar; 0 where it has none."""
    import soundfile

    with contextlib.suppress(soundfile.SoundFileError, TypeError):
        return min(soundfile.info(path).duration, 1e6)
    return 0.0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m xlsr_jax.transcribe",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("recordings", nargs="+", metavar="RECORDING", help="file, folder, glob, or -")
    add("--run", required=True, help="folder of a fine-tuned run")
    add("--step", type=int, help="of the checkpoint; default the newest")
    add("--format", choices=transcripts.FORMATS, default="txt", help="default %(default)s")
    add("--output", default="", metavar="DIR", help="a file each, in the tree of its folder")
    add("--language", default="", help="only this language's symbols of a separate vocabulary")
    add("--batch_seconds", type=float, default=120.0, help="audio in a batch; default %(default)s")
    add("--window_seconds", type=float, default=30.0, help="longer is cut; default %(default)s")
    add("--overlap_seconds", type=float, default=4.0, help="of windows; default %(default)s")
    return parser


if __name__ == "__main__":
    sys.exit(main())
