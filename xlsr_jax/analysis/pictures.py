"""Pictures of an analysis, one panel a run: what a code means, and how languages lie."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from xlsr_jax.analysis import statistics
from xlsr_jax.analysis.figures import RunFigures

NAMES = ("phones", "codes_per_phone", "languages", "tree", "projection")
FILES = tuple(f"{name}.png" for name in NAMES)
SHOWN = 60  # phones with a row of their own; the rest share one
INK, FAINT, GRID = "#1d2b38", "#66727e", "#e3e7eb"
COLOURS = ("#3b76a8", "#c4661f")
REST = "others"


def draw(runs: Sequence[RunFigures], languages: Sequence[str], folder: Path) -> dict[str, Path]:
    """Draws all that there is; returns the files by what they show, in reading order."""
    pictures = {}
    if runs[0].phones:
        pictures["phones"] = _phones(runs)
        pictures["codes_per_phone"] = _codes_per_phone(runs)
    if runs[0].languages:
        pictures["languages"] = _matrices(runs, languages)
        pictures["tree"] = _trees(runs, languages)
        pictures["projection"] = _projections(runs, languages)
    paths = {name: folder / f"{name}.png" for name in pictures}
    for name, figure in pictures.items():
        figure.savefig(paths[name], bbox_inches="tight", facecolor="white")
    return paths


def _panels(count: int, width: float, height: float, **kwargs: Any) -> tuple[Any, list[Any]]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width * count, height), dpi=160, layout="constrained")
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(1, count, squeeze=False, **kwargs)[0])
    for each in axes:
        each.spines[["top", "right"]].set_visible(False)
        each.spines[["left", "bottom"]].set_color(FAINT)
        each.tick_params(colors=INK, labelsize=8.5, length=0)
    return figure, axes


def _title(axes: Any, runs: Sequence[RunFigures], text: str, each: RunFigures) -> None:
    name = f"{each.name}: " if len(runs) > 1 else ""
    axes.set_title(name + text, loc="left", fontsize=9.5, color=INK)


def shown_phones(counts_QP: np.ndarray, symbols: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """Counts and symbols with the phones beyond ``SHOWN`` in one last column."""
    if len(symbols) <= SHOWN + 1:
        return counts_QP, list(symbols)
    rest = counts_QP[:, SHOWN:].sum(axis=1, keepdims=True)
    return np.concatenate([counts_QP[:, :SHOWN], rest], axis=1), [*symbols[:SHOWN], REST]


def ordered_codes(counts_QP: np.ndarray) -> np.ndarray:
    """Codes that occur, by their most likely phone; of one phone, the surest first."""
    used = np.flatnonzero(counts_QP.sum(axis=1))
    given = statistics.shares(counts_QP[used])
    return used[np.lexsort((-given.max(axis=1), np.minimum(given.argmax(axis=1), SHOWN)))]


def _phones(runs: Sequence[RunFigures]) -> Any:
    """P(phone | code) as wav2vec 2.0, appendix D, draws it."""
    rows = len(shown_phones(runs[0].phones.counts_QP, runs[0].phones.symbols)[1])
    figure, panels = _panels(
        len(runs), 8.6 if len(runs) == 1 else 6.6, max(3.0, 1.2 + 0.125 * rows), sharey=True
    )
    for axes, each in zip(panels, runs, strict=True):
        counts, symbols = shown_phones(each.phones.counts_QP, each.phones.symbols)
        order = ordered_codes(each.phones.counts_QP)
        given = statistics.shares(counts[order]).T
        image = axes.imshow(given, cmap=_shades(), vmin=0, vmax=1, aspect="auto")
        axes.set_yticks(range(len(symbols)), symbols, fontsize=7)
        axes.set_xlabel(f"active {each.code}s, by their most likely phone", fontsize=9)
        axes.set_xlim(-0.5, len(order) - 0.5)
        axes.spines[["top", "right"]].set_visible(True)
        axes.spines[:].set_color(GRID)
        frames = each.phones.found.frames
        _title(axes, runs, f"{len(order):,} {each.code}s, {frames:,} frames", each)
    panels[0].set_ylabel("phone, the most frequent at the top", fontsize=9)
    bar = figure.colorbar(image, ax=panels, shrink=0.6, aspect=30, pad=0.015)
    bar.set_label(f"P(phone | {runs[0].code})", fontsize=9)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=8, length=0)
    return figure


def _shades() -> Any:
    from matplotlib.colors import LinearSegmentedColormap

    colours = ["#ffffff", "#cfe0ee", "#7faed3", COLOURS[0], "#1c3f63", "#0b1b2e"]
    return LinearSegmentedColormap.from_list("shares", colours)


def _codes_per_phone(runs: Sequence[RunFigures]) -> Any:
    figure, (axes,) = _panels(1, 11.4, 3.2)
    counts, symbols = shown_phones(runs[0].phones.counts_QP, runs[0].phones.symbols)
    places = np.arange(len(symbols)) + (np.array(symbols) == REST)  # a gap before the rest
    width = 0.8 / len(runs)
    for place, (each, colour) in enumerate(zip(runs, COLOURS, strict=False)):
        codes = statistics.codes_per_phone(each.phones.counts_QP)[None]
        share = 100 * statistics.shares(shown_phones(codes, each.phones.symbols)[0][0])
        at = places + (place - (len(runs) - 1) / 2) * width
        label = each.name if len(runs) > 1 else f"active {each.code}s that stand for the phone"
        axes.bar(at, share, width=0.92 * width, color=colour, label=label, zorder=2)
    frames = 100 * statistics.shares(counts.sum(axis=0))
    axes.plot(places, frames, "_", color=INK, markersize=6, label="frames of the phone", zorder=3)
    axes.set_xticks(places, symbols, fontsize=7)
    axes.set_xlim(-0.8, places[-1] + 0.8)
    axes.set_ylabel("share, %", fontsize=9)
    axes.grid(axis="y", color=GRID, linewidth=0.8, zorder=0)
    axes.legend(frameon=False, fontsize=8.5)
    return figure


def _matrices(runs: Sequence[RunFigures], languages: Sequence[str]) -> Any:
    """Divergences, the languages in the order of the first run's tree; halves on the diagonal."""
    size = max(3.4, 0.44 * len(languages) + 1.2)
    figure, panels = _panels(len(runs), size, size - 0.3, sharey=True)
    order = list(runs[0].languages.order)
    names = [languages[number] for number in order]
    for axes, each in zip(panels, runs, strict=True):
        table = each.languages.by_code.divergence.copy()
        np.fill_diagonal(table, each.languages.by_code.halves)
        table = table[np.ix_(order, order)]
        top = float(np.nanmax(table)) or 1.0
        image = axes.imshow(table, cmap=_shades().reversed(), vmin=0, vmax=top)
        axes.set_xticks(range(len(names)), names)
        axes.set_yticks(range(len(names)), names)
        axes.spines[:].set_visible(False)
        for (row, column), value in np.ndenumerate(table):
            if np.isfinite(value) and len(names) <= 16:
                number = f"{value:.{2 if top >= 0.1 else 3}f}".removeprefix("0")
                colour = "white" if value < 0.55 * top else INK
                weight = "bold" if row == column else "normal"
                axes.text(column, row, number, ha="center", va="center", color=colour,
                          fontsize=7.5, weight=weight)  # fmt: skip
        _title(axes, runs, "Jensen-Shannon divergence, bits", each)
        bar = figure.colorbar(image, ax=axes, shrink=0.6, aspect=28, pad=0.015)
        bar.outline.set_visible(False)
        bar.ax.tick_params(labelsize=8, length=0)
    return figure


def _trees(runs: Sequence[RunFigures], languages: Sequence[str]) -> Any:
    from scipy.cluster import hierarchy

    figure, panels = _panels(
        len(runs), 5.8 if len(runs) == 1 else 4.8, max(2.2, 0.9 + 0.26 * len(languages)),
        sharex=True,
    )  # fmt: skip
    longest = max(float(each.languages.merges[:, 2].max()) for each in runs)
    for axes, each, colour in zip(panels, runs, COLOURS, strict=False):
        hierarchy.dendrogram(
            each.languages.merges,
            labels=list(languages),
            orientation="left",
            ax=axes,
            color_threshold=0,
            above_threshold_color=colour,
            leaf_font_size=9,
        )
        for line in axes.collections:
            line.set_linewidth(1.6)
        axes.set_xlim(1.06 * longest or 1.0, 0)
        axes.invert_yaxis()  # as the rows of the matrix
        axes.spines["left"].set_visible(False)
        axes.set_xlabel("distance (√ Jensen-Shannon divergence, bits)", fontsize=9)
        axes.tick_params(axis="y", labelright=True, labelleft=False, length=0, pad=4)
        axes.grid(axis="x", color=GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        _title(axes, runs, "average linkage", each)
    return figure


def _projections(runs: Sequence[RunFigures], languages: Sequence[str]) -> Any:
    figure, panels = _panels(len(runs), 5.8 if len(runs) == 1 else 4.9, 4.4)
    for axes, each, colour in zip(panels, runs, COLOURS, strict=False):
        points, explained = each.languages.coordinates, each.languages.explained
        axes.scatter(*points.T, s=34, color=colour, edgecolor="white", linewidth=0.8, zorder=3)
        axes.margins(0.12)
        extent = np.maximum(np.ptp(points, axis=0), 1e-12)
        for name, (x, y), side in zip(languages, points, _sides(points / extent), strict=True):
            axes.annotate(
                name, (x, y), xytext=7.5 * side, textcoords="offset points", ha="center",
                va="center", fontsize=9, color=INK,
            )  # fmt: skip
        axes.axhline(0, color=GRID, linewidth=0.9, zorder=1)
        axes.axvline(0, color=GRID, linewidth=0.9, zorder=1)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.set_xlabel(f"first component, {100 * explained[0]:.0f} % of the variance", fontsize=9)
        axes.set_ylabel(f"second component, {100 * explained[1]:.0f} %", fontsize=9)
        _title(axes, runs, f"shares of the {each.code}s", each)
    return figure


def _sides(points: np.ndarray) -> np.ndarray:
    """[L, 2] unit vectors from each point to where its label is farthest from the other points."""
    angles = np.arange(0, 2 * np.pi, np.pi / 4)
    around = np.stack([np.cos(angles) * 1.25, np.sin(angles)], axis=-1)
    chosen = []
    for number, point in enumerate(points):
        others = np.delete(points, number, axis=0)
        placed = [points[n] + 0.05 * side for n, side in enumerate(chosen)]
        taken = np.concatenate([others, *[place[None] for place in placed]])
        labels = point + 0.05 * around
        nearest = np.linalg.norm(labels[:, None] - taken[None], axis=-1).min(axis=1)
        chosen.append(around[nearest.argmax()])
    return np.array(chosen)
