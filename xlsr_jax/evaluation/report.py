"""The report of an evaluation: figures as JSON, Markdown and a picture, and a page to look at.

utterances.jsonl     {id, language, reference, hypothesis, errors, rate}, a line an utterance
report.json          all figures; rates are fractions
report.md            the tables
per_language.png     error rate by language with confidence intervals
report.html          all of it on one page that needs no other file
"""

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from xlsr_jax.evaluation.error_rate import Alignment, Score, Utterance
from xlsr_jax.evaluation.figures import HEADINGS, Figures, figures, note, rows
from xlsr_jax.evaluation.report_page import page

PAGE, PICTURE = "report.html", "per_language.png"


def write_report(
    folder: str | os.PathLike[str],
    utterances: Sequence[Utterance],
    title: str,
    facts: Mapping[str, Any],
    units: Sequence[str] = ("phoneme",),
) -> Path:
    """Writes the report; returns the page.

    Args:
      folder: made where it is missing; files of an earlier report are replaced.
      utterances: at least one.
      title: what was evaluated.
      facts: what a reader has to know, in order: checkpoint, data, decoding.
      units: of the tables, "phoneme", "character" or "word"; the first is that of the utterances,
        the picture and the confusions.

    Raises:
      ValueError: no utterances, or an unknown unit.
    """
    if not utterances:
        raise ValueError("there are no utterances to report; check split and languages")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    found = [figures(utterances, unit) for unit in units]
    lines = [json.dumps(_utterance(a), ensure_ascii=False) for a in found[0].alignments]
    _write(folder / "utterances.jsonl", "\n".join(lines) + "\n")
    document = {"title": title, "facts": {name: str(value) for name, value in facts.items()}}
    document["units"] = {each.unit: _figures(each) for each in found}
    _write(folder / "report.json", json.dumps(document, ensure_ascii=False, indent=1) + "\n")
    draw(found[0], folder / PICTURE)
    _write(folder / "report.md", _markdown(found, title, facts))
    _write(folder / PAGE, page(found, title, facts, (folder / PICTURE).read_bytes()))
    return folder / PAGE


def draw(found: Figures, path: Path) -> None:
    """Bars of the corpus rate by language, with intervals, and the languages' average."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    languages = {n: s for n, s in found.languages.items() if s.reference_length}
    figure = Figure(figsize=(max(4.5, 1.8 + 0.62 * len(languages)), 3.6), dpi=160)
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    rates = [100 * each.corpus_rate for each in languages.values()]
    below = [100 * max(each.corpus_rate - each.low, 0) for each in languages.values()]
    above = [100 * max(each.high - each.corpus_rate, 0) for each in languages.values()]
    axes.bar(range(len(rates)), rates, width=0.62, color="#3b76a8", zorder=2)
    whiskers = {"ecolor": "#1d2b38", "elinewidth": 1.1, "capsize": 3, "zorder": 3}
    axes.errorbar(range(len(rates)), rates, yerr=[below, above], fmt="none", **whiskers)
    for index, (rate, reach) in enumerate(zip(rates, above, strict=True)):
        offset = {"xytext": (0, 4), "textcoords": "offset points"}
        axes.annotate(f"{rate:.1f}", (index, rate + reach), ha="center", fontsize=8.5, **offset)
    if len(languages) > 1:
        average = 100 * found.average[0]
        axes.axhline(average, color="#c4661f", linewidth=1.2, linestyle=(0, (5, 3)), zorder=1)
        axes.annotate(
            f"average {average:.1f}",
            (1, average),
            xycoords=axes.get_yaxis_transform(),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            color="#c4661f",
            fontsize=8.5,
        )
    axes.set_xticks(range(len(rates)), list(languages))
    axes.set_xlim(-0.6, max(len(rates), 1) - 0.4)
    axes.set_ylabel(f"{found.rate} (corpus), %")
    tops = [rate + reach for rate, reach in zip(rates, above, strict=True)]
    axes.set_ylim(0, 1.12 * max(tops + [1.0]))
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(axis="x", length=0)
    axes.grid(axis="y", color="#e3e7eb", linewidth=0.8, zorder=0)
    axes.set_axisbelow(True)
    figure.savefig(path, bbox_inches="tight", facecolor="white")


def _markdown(found: Sequence[Figures], title: str, facts: Mapping[str, Any]) -> str:
    lines = [f"# {title}", "", *(f"- {name}: {value}" for name, value in facts.items())]
    for each in found:
        cells = [heading.format(rate=each.rate) for heading in HEADINGS]
        lines += ["", f"## {each.rate} by language", "", f"| {' | '.join(cells)} |"]
        lines += ["|---|" + "---:|" * (len(cells) - 1)]
        lines += [f"| {' | '.join(row)} |" for row in rows(each)]
        lines += ["", note(each)]
    lines += ["", f"![{found[0].rate} by language]({PICTURE})", ""]
    return "\n".join(lines)


def _figures(found: Figures) -> dict[str, Any]:
    corpus, utterance = found.average
    return {
        "rate": found.rate,
        "languages": {name: _numbers(each) for name, each in found.languages.items()},
        "language_average": _defined({"corpus_rate": corpus, "utterance_mean": utterance}),
        "all_utterances": _numbers(found.together),
        "confusions": [
            {"reference": reference, "hypothesis": hypothesis, "count": count}
            for reference, hypothesis, count in found.confusions
        ],
    }


def _numbers(each: Score) -> dict[str, Any]:
    numbers = dataclasses.asdict(each)
    interval = [numbers.pop("low"), numbers.pop("high")]
    interval = interval if each.reference_length else None
    return _defined(numbers) | {"errors": each.errors, "corpus_rate_95_interval": interval}


def _utterance(alignment: Alignment) -> dict[str, Any]:
    utterance = alignment.utterance
    line = {
        "id": utterance.id,
        "language": utterance.language,
        "reference": " ".join(utterance.reference),
        "hypothesis": " ".join(utterance.hypothesis),
        "errors": alignment.errors,
        "rate": alignment.rate,
    }
    if utterance.reference_text or utterance.hypothesis_text:
        line["reference_text"] = utterance.reference_text
        line["hypothesis_text"] = utterance.hypothesis_text
    return _defined(line)


def _defined(numbers: dict[str, Any]) -> dict[str, Any]:
    """JSON has no nan: a rate that is not defined is null."""
    nan = {name for name, value in numbers.items() if isinstance(value, float) and value != value}
    return {name: None if name in nan else value for name, value in numbers.items()}


def _write(path: Path, text: str) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
