"""The page about a prepared corpus: README.md beside the shards, with pictures in card/.

All numbers come from the manifest, the length index and the commits; no audio is opened. The same
corpus gives the same bytes. What stands under the page's last heading, the licence, is a person's
and is kept when the page is made again.
"""

import html
import logging
import os
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

import numpy as np

from xlsr_jax import storage
from xlsr_jax.data import mixture, records
from xlsr_jax.data.index import DataConfig
from xlsr_jax.data.records import SAMPLE_RATE, Manifest
from xlsr_jax.preparation import card_pictures
from xlsr_jax.preparation.contents import (
    TENTH,
    Cell,
    bin_width,
    histogram,
    read_cells,
    training_split,
)

PAGES = ("README.md", "CARD.md")  # the second where the first is there and not ours
FOLDER = "card"
ALPHAS = card_pictures.ALPHAS
MARK = "<!-- Made by python -m xlsr_jax.prepare; what stands under Licence is kept. -->"
LICENCE = "## Licence"
TO_FILL_IN = """
To be filled in: the licence of the recordings and of the texts, who gave them, where they were
downloaded and when, and what the speakers agreed to. What stands here is kept when the page is made
again.
"""


def write(root: str | os.PathLike[str], manifest: Manifest | None = None) -> Path:
    """Writes the page of a corpus and its pictures, and returns the page's path.

    Args:
      manifest: of the corpus; None for the one in ``root``.

    Raises:
      CorpusError: no corpus, a shard or index that is missing, a disk that refuses.
    """
    manifest = manifest or Manifest.load(root)
    cells = read_cells(root, manifest)
    usual, other = (storage.at(root) / name for name in PAGES)
    page = other if _foreign(usual) else usual
    drawn = _draw(cells, storage.at(root) / FOLDER)
    text = markdown(manifest, cells, drawn, _kept(page))
    records.write_atomically(page, text.encode())
    return page


def remove(root: str | os.PathLike[str]) -> None:
    """Removes what ``write`` made, and nothing of others."""
    for page in (storage.at(root) / name for name in PAGES):
        if page.exists() and not _foreign(page):
            page.unlink()
    folder = storage.at(root) / FOLDER
    for name in card_pictures.FILES:
        (folder / name).unlink(missing_ok=True)
    if not storage.is_remote(root) and folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def _draw(cells: Sequence[Cell], folder: Path) -> set[str]:
    """Writes the pictures and returns their names."""
    languages = [cell for cell in cells if cell.language]
    width = bin_width(languages, card_pictures.BINS)
    counts = [histogram(cell.tenths, width, card_pictures.BINS) for cell in languages]
    rows = [
        card_pictures.Row(cell.split, cell.language, cell.hours, count)
        for cell, count in zip(languages, counts, strict=True)
    ]
    try:
        pictures = card_pictures.draw(rows, training_split(cells), width / 10)
    except (ImportError, OSError, RuntimeError) as error:  # the corpus is good without them
        logging.warning("the corpus' page has no pictures: matplotlib failed (%s)", error)
        pictures = {}
    for name in card_pictures.FILES:
        if name in pictures:
            storage.make_folder(folder)
            records.write_atomically(folder / name, pictures[name])
        else:  # lest one of before contradict the page
            (folder / name).unlink(missing_ok=True)
    return set(pictures)


def markdown(
    manifest: Manifest, cells: Sequence[Cell], pictures: Collection[str], licence: str
) -> str:
    """The page.

    Args:
      cells: of ``read_cells``.
      pictures: names of those that there are.
      licence: what stands under the last heading.
    """
    wholes = [cell for cell in cells if not cell.language]
    hours, utterances = (sum(getattr(cell, name) for cell in wholes)
                         for name in ("hours", "utterances"))  # fmt: skip
    count = len({cell.language for cell in cells} - {""})
    aside = Counter[str]()
    for by_language in manifest.rejected.values():
        for reasons in by_language.values():
            aside.update(reasons)
    listed = utterances + aside.total()
    lines = [
        MARK, f"# {_text(manifest.name)}", "",
        f"{_hours(hours)} h of speech in {count} language{'s' * (count != 1)}: {utterances:,} "
        f"utterances, mono, 16 kHz, 16 bits. {aside.total():,} of {listed:,} listed were set "
        "aside.",
    ]  # fmt: skip
    lines += _picture(card_pictures.HOURS, "Hours of each language and split", pictures)
    lines += ["", "## Audio", "", *_audio(cells), "", *_voices(wholes), "", "## Lengths", ""]
    lines += _lengths(wholes)
    lines += _picture(card_pictures.DURATIONS, "Lengths by split and language", pictures)
    lines += ["", "## Set aside", "", *_aside(manifest, aside)]
    split = training_split(cells)
    lines += ["", "## Languages in training", "", *_shares(cells, split)]
    lines += _picture(card_pictures.SHARES, "Shares of each language", pictures)
    lines += ["", "## Training on it", "", *_training(cells, split)]
    made = [(name, value) for name, value in sorted(manifest.made_with.items())]
    lines += ["", "## Made with", "", *_table(("what", "value"), made, numbers=0)]
    return "\n".join([*lines, "", LICENCE]) + "\n" + licence


def _picture(name: str, said: str, pictures: Collection[str]) -> list[str]:
    return ["", f"![{said}]({FOLDER}/{name})"] if name in pictures else []


def _audio(cells: Sequence[Cell]) -> list[str]:
    head = ("split", "language", "hours", "utterances", "speakers", "mean s", "median s",
            "shortest s", "longest s")  # fmt: skip
    rows = []
    for cell in cells:
        lengths = (cell.samples / cell.utterances, cell.median, cell.shortest, cell.longest)
        seconds = (f"{each / SAMPLE_RATE:,.2f}" for each in lengths)
        language = cell.language or "**all**"
        rows.append((cell.split, language, _hours(cell.hours), f"{cell.utterances:,}",
                     _count(cell), *seconds))  # fmt: skip
    return _table(head, rows, numbers=7)


def _count(cell: Cell) -> str:
    if cell.speakers is None or not cell.speakers:
        return "unknown"
    return f"{len(cell.speakers):,}" + " and unnamed" * cell.unnamed


def _voices(wholes: Sequence[Cell]) -> list[str]:
    """Whether held-out figures are of voices that training knows."""
    lines = ["A speaker is a name within a language."]
    for i, first in enumerate(wholes):
        for second in wholes[i + 1 :]:
            if not first.speakers or not second.speakers:
                continue
            shared = len(first.speakers & second.speakers) or "no"
            lines.append(f"Named speakers in both {first.split} and {second.split}: {shared}.")
    return lines


def _lengths(wholes: Sequence[Cell]) -> list[str]:
    bins = 12
    width = bin_width(wholes, bins)
    counts = np.array([histogram(cell.tenths, width, bins) for cell in wholes])
    used = int(np.flatnonzero(counts.sum(axis=0)).max()) + 1
    rows = []
    for number in range(used):
        low, high = number * width / 10, (number + 1) * width / 10
        name = f"{low:g} and more" if number == bins - 1 else f"{low:g} to {high:g}"
        rows.append((name, *(f"{each:,}" for each in counts[:, number])))
    head = ("seconds", *(f"{cell.split}, utterances" for cell in wholes))
    return _table(head, rows, numbers=len(wholes))


def _aside(manifest: Manifest, aside: Counter[str]) -> list[str]:
    if not aside:
        return ["Nothing was set aside."]
    rows = [
        (split, language, reason, f"{count:,}")
        for split, languages in manifest.rejected.items()
        for language, reasons in sorted(languages.items())
        for reason, count in sorted(reasons.items(), key=lambda pair: (-pair[1], pair[0]))
    ]
    total = "; ".join(f"{count:,} {_text(reason)}" for reason, count in aside.most_common())
    return [f"In all: {total}. `{records.REJECTED}` names each.", "",
            *_table(("split", "language", "reason", "utterances"), rows, numbers=1)]  # fmt: skip


def _shares(cells: Sequence[Cell], split: str) -> list[str]:
    chosen = [cell for cell in cells if cell.split == split and cell.language]
    hours = [cell.hours for cell in chosen]
    shares = [mixture.language_shares(hours, alpha) for alpha in ALPHAS]
    rows = [
        (cell.language, _hours(cell.hours), *(f"{100 * share[i]:.3g}" for share in shares))
        for i, cell in enumerate(chosen)
    ]
    head = ("language", "hours", *(f"alpha {alpha:g}, %" for alpha in ALPHAS))
    said = "`config.data.alpha` sets the share of each language in the audio that training draws"
    return [f"{said}, here of {_text(split)}: hours to the power of alpha.", "",
            *_table(head, rows, numbers=1 + len(ALPHAS))]  # fmt: skip


def _training(cells: Sequence[Cell], split: str) -> list[str]:
    wholes, default = {cell.split: cell for cell in cells if not cell.language}, DataConfig()
    held_out = [each for each in (default.eval_split, "dev", "test") if each in wholes]
    chosen = (held_out or [each for each in wholes if each != split] or [split])[0]
    flags = "".join(
        f" --config.data.{name}={value}"
        for name, value, usual in (
            ("train_split", split, default.train_split), ("eval_split", chosen, default.eval_split)
        )
        if value != usual
    )  # fmt: skip
    whole = wholes[split]
    short = int(whole.tenths[: default.min_samples // TENTH].sum())
    return [
        "    python -m xlsr_jax.train --config=configs/quickstart.py --workdir=runs/mine \\",
        f"        --config.data.path=DIR --config.corpus.make={flags}",
        "    python -m xlsr_jax.train --config=configs/xlsr53_large.py --config.data.path=DIR"
        + flags, "",
        "with this folder for DIR; the first is small enough for a processor. Of "
        f"{_text(split)}, {short:,} of {whole.utterances:,} utterances are shorter than "
        f"{default.min_samples / SAMPLE_RATE:g} s, and left out unless `config.data.min_samples` "
        "is lowered. `python -m xlsr_jax.prepare inspect DIR` shows a few records.",
    ]  # fmt: skip


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], numbers: int) -> list[str]:
    """A Markdown table, of which the last ``numbers`` columns are flush right."""
    ruler = ["---"] * (len(head) - numbers) + ["---:"] * numbers
    body = [[_text(cell) for cell in row] for row in rows]
    return [f"| {' | '.join(row)} |" for row in (head, ruler, *body)]


def _hours(hours: float) -> str:
    return f"{hours:,.1f}" if hours >= 10 else f"{hours:.3f}"


def _text(text: str) -> str:
    """One line that is no markup; names and reasons come from who made the source."""
    return html.escape(" ".join(str(text).split()), quote=False).replace("|", "\\|")


def _foreign(page: Path) -> bool:
    """Whether a page is there that somebody else wrote."""
    return page.exists() and not _read(page).startswith(MARK)


def _kept(page: Path) -> str:
    _, heading, text = (_read(page) if page.exists() else "").partition(f"\n{LICENCE}\n")
    return text if heading else TO_FILL_IN


def _read(page: Path) -> str:
    return page.read_bytes().decode(errors="replace")
