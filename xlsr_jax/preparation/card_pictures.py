"""Pictures of a corpus for its page: hours, lengths and shares of its languages, as PNG bytes."""

import dataclasses
import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from xlsr_jax.data import mixture

HOURS, DURATIONS, SHARES = FILES = ("hours.png", "durations.png", "shares.png")
ALPHAS = (1.0, 0.5, 0.0)
BINS = 40  # of a histogram
INK, FAINT, GRID = "#1d2b38", "#66727e", "#e3e7eb"
COLOURS = ("#3b76a8", "#c4661f", "#5d9150", "#8a5a9e", "#b8a12b", "#4aa3a0", "#a34a5c", "#777777")
ROW = 0.17  # inches of a language's row


@dataclasses.dataclass(frozen=True)
class Row:
    """One split and language: hours of audio, and [``BINS``] utterances by length."""

    split: str
    language: str
    hours: float
    counts: np.ndarray


def draw(rows: Sequence[Row], training: str, width: float) -> dict[str, bytes]:
    """PNG bytes by file name, the same for the same rows; of one language it draws no shares.

    Args:
      rows: of all splits and languages.
      training: the split whose shares are shown.
      width: of a bin of the histograms, in seconds; the last bin has all that is longer.

    Raises:
      ImportError: without matplotlib.
    """
    pictures = {HOURS: _hours(rows), DURATIONS: _durations(rows, width)}
    if len({row.language for row in rows if row.split == training}) > 1:
        pictures[SHARES] = _shares(rows, training)
    return {name: _png(figure) for name, figure in pictures.items()}


def _png(figure: Any) -> bytes:
    data = io.BytesIO()
    # Without a name of the software, whose versions need not differ in anything that is seen.
    figure.savefig(data, facecolor="white", metadata={"Software": None})
    return data.getvalue()


def _figure(width: float, heights: Sequence[float]) -> tuple[Any, list[Any]]:
    """A figure with a panel below the other, heights in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    gap, height = 0.75, sum(heights)
    whole = height + gap * len(heights)
    figure = Figure(figsize=(width, whole), dpi=110)
    FigureCanvasAgg(figure)
    panels, top = [], whole
    for each in heights:
        top -= each + gap
        axes = figure.add_axes((0.1, (top + gap / 2) / whole, 0.8, each / whole))
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(FAINT)
        axes.tick_params(colors=INK, labelsize=8, length=0)
        axes.set_axisbelow(True)
        panels.append(axes)
    return figure, panels


def _languages(rows: Sequence[Row]) -> dict[str, float]:
    """Hours of each language, the most first."""
    hours: dict[str, float] = {}
    for row in rows:
        hours[row.language] = hours.get(row.language, 0.0) + row.hours
    return dict(sorted(hours.items(), key=lambda pair: (-pair[1], pair[0])))


def _name_rows(axes: Any, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.spines["left"].set_visible(False)
    for row in range(len(names)):
        axes.axhline(row, color=GRID, linewidth=0.7, zorder=0)


def _log_axis(axes: Any, values: Sequence[float]) -> None:
    """A logarithmic axis from below the smallest value to above the largest, in plain numbers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    low, high = min(values), max(values)
    axes.set_xscale("log")
    axes.set_xlim(low / 1.35, high * 1.35)
    decades = np.log10(high / low)
    subs = range(1, 10) if decades < 0.7 else (1, 2, 5) if decades < 2.5 else (1,)
    axes.xaxis.set_major_locator(LogLocator(subs=subs, numticks=12))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))
    axes.grid(axis="x", color=GRID, linewidth=0.7)


def _legend(axes: Any, columns: int) -> None:
    axes.legend(
        loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=min(columns, 4), frameon=False,
        fontsize=8, labelcolor=INK, handletextpad=0.4, columnspacing=1.2, borderaxespad=0.2,
    )  # fmt: skip


def _title(axes: Any, text: str) -> None:
    axes.set_title(text, loc="left", fontsize=9.5, color=INK)


def _splits(rows: Sequence[Row]) -> dict[str, str]:
    names = list(dict.fromkeys(row.split for row in rows))
    return {name: COLOURS[number % len(COLOURS)] for number, name in enumerate(names)}


def _hours(rows: Sequence[Row]) -> Any:
    hours, splits = _languages(rows), _splits(rows)
    place = {language: number for number, language in enumerate(hours)}
    figure, (axes,) = _figure(7.5, [max(0.45, ROW * len(hours))])
    for split, colour in splits.items():
        own = [row for row in rows if row.split == split]
        axes.plot([row.hours for row in own], [place[row.language] for row in own], "o",
                  color=colour, markersize=5, label=split, zorder=3)  # fmt: skip
    _name_rows(axes, list(hours))
    _log_axis(axes, [row.hours for row in rows])
    for language, amount in hours.items():
        axes.annotate(
            f"{amount:,.{1 if amount >= 10 else 2 if amount >= 0.1 else 3}f} h",
            (1, place[language]),
            xycoords=axes.get_yaxis_transform(), xytext=(5, 0), textcoords="offset points",
            va="center", fontsize=7.5, color=FAINT,
        )  # fmt: skip
    axes.set_xlabel("hours", fontsize=8.5, color=INK)
    _title(axes, "Hours, all splits at the right")
    _legend(axes, len(splits))
    return figure


def _durations(rows: Sequence[Row], width: float) -> Any:
    hours, splits = _languages(rows), _splits(rows)
    matrix = len(hours) > 1
    figure, panels = _figure(7.5, [1.6, *([max(0.7, ROW * len(hours))] if matrix else [])])
    used = 1 + max(int(np.flatnonzero(row.counts).max()) for row in rows)
    edges = np.arange(used + 1) * width
    axes = panels[0]
    for number, (split, colour) in enumerate(splits.items()):
        counts = sum(row.counts for row in rows if row.split == split)[:used]
        shares = 100 * counts / counts.sum()
        axes.stairs(shares, edges, color=colour, fill=not number, alpha=1 if number else 0.45,
                    linewidth=1.5, label=split)  # fmt: skip
    axes.grid(axis="y", color=GRID, linewidth=0.7)
    axes.set_ylabel("% of utterances", fontsize=8.5, color=INK)
    axes.set_xlim(0, edges[-1])
    axes.set_ylim(bottom=0)
    _title(axes, f"Lengths by split, in steps of {width:g} s")
    _legend(axes, len(splits))
    if matrix:
        axes = panels[1]
        counts = np.array([
            sum(row.counts for row in rows if row.language == language)[:used]
            for language in hours
        ])  # fmt: skip
        axes.pcolormesh(
            edges, np.arange(len(hours) + 1) - 0.5, counts / counts.max(axis=1, keepdims=True),
            cmap="Blues", vmin=0, rasterized=True,
        )  # fmt: skip
        axes.set_yticks(range(len(hours)), list(hours))
        axes.set_ylim(len(hours) - 0.5, -0.5)
        _title(axes, "Lengths by language, all splits, each row up to its own peak")
    longest = ", the last step with all longer" if used == BINS else ""
    panels[-1].set_xlabel(f"seconds{longest}", fontsize=8.5, color=INK)
    return figure


def _shares(rows: Sequence[Row], training: str) -> Any:
    hours = _languages([row for row in rows if row.split == training])
    figure, (axes,) = _figure(7.5, [max(0.45, ROW * len(hours))])
    shares = [100 * mixture.language_shares(list(hours.values()), alpha) for alpha in ALPHAS]
    for alpha, share, colour in zip(ALPHAS, shares, COLOURS, strict=False):
        axes.plot(share, range(len(hours)), "o", color=colour, markersize=5,
                  label=f"alpha {alpha:g}", zorder=3)  # fmt: skip
    for number in range(len(hours)):
        ends = [share[number] for share in shares]
        axes.plot([min(ends), max(ends)], [number, number], color=FAINT, linewidth=1, zorder=2)
    _name_rows(axes, list(hours))
    _log_axis(axes, np.concatenate(shares))
    axes.set_xlabel("% of the audio drawn", fontsize=8.5, color=INK)
    _title(axes, f"Share of each language, {training}")
    _legend(axes, len(ALPHAS))
    return figure
