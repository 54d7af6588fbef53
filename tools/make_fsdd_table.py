"""The table of the Free Spoken Digit Dataset: its own test split, a little of train held out.

    python tools/make_fsdd_table.py --source=DIR --output=fsdd.tsv
    python -m xlsr_jax.prepare folder --source=DIR --metadata=fsdd.tsv --output=corpora/fsdd

3,000 recordings named ``{digit}_{speaker}_{index}.wav``, CC BY-SA 4.0. By the data set's own rule
indices 0 to 4 are its test split; of the rest, 5 to 7 become the validation split here (7 %), so
that every speaker and every digit is in all three.
"""

import argparse
import csv
import re
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

COLUMNS = ("path", "language", "text", "speaker", "split")
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
NAME = re.compile(r"(\d)_([^_]+)_(\d+)\.wav")
TEST, VALID = 5, 8  # first indices that are not of these splits


def row(name: str) -> tuple[str, ...]:
    """The ``COLUMNS`` of a file.

    Raises:
      ValueError: a name that is not of the data set.
    """
    match = NAME.fullmatch(name)
    if match is None:
        raise ValueError(f"{name} is not named {{digit}}_{{speaker}}_{{index}}.wav; move it away")
    digit, speaker, index = match.groups()
    split = "test" if int(index) < TEST else "valid" if int(index) < VALID else "train"
    return name, "en", DIGITS[int(digit)], speaker, split


def write(output: Path, names: Iterable[str]) -> Counter[str]:
    """Writes the table of the files, sorted by name; returns the number of files by split."""
    rows = [row(name) for name in sorted(names)]
    with open(output, "w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, delimiter="\t", lineterminator="\n")
        table.writerows([COLUMNS, *rows])
    return Counter(split for *_, split in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", type=Path, required=True, help="folder of the recordings")
    parser.add_argument("--output", type=Path, required=True, help="table to write, .tsv")
    flags = parser.parse_args()
    names = [path.name for path in flags.source.glob("*.wav")]
    if not names:
        sys.exit(f"error: no .wav in {flags.source}; give the folder of the recordings")
    try:
        counts = write(flags.output, names)
    except ValueError as error:
        sys.exit(f"error: {error}")
    found = ", ".join(f"{split} {counts[split]:,}" for split in ("train", "valid", "test"))
    print(f"{flags.output}: {found}")


if __name__ == "__main__":
    main()
