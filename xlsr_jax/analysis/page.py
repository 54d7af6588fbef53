"""The analysis as one HTML page without any other file."""

import base64
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from xlsr_jax.analysis import statistics, tables
from xlsr_jax.analysis.codes import Frames
from xlsr_jax.analysis.figures import RunFigures

_STYLE = """
:root { color-scheme: light; --ink: #1d2b38; --faint: #66727e; --line: #dfe4e9; }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2.5rem 1.5rem 4rem; max-width: 68rem; color: var(--ink);
  background: #fff; font: 16px/1.5 system-ui, "Segoe UI", "Noto Sans", "DejaVu Sans", sans-serif; }
h1 { margin: 0 0 1.2rem; font-size: 1.7rem; line-height: 1.25; }
h2 { margin: 2.6rem 0 .8rem; font-size: 1.15rem; }
p { margin: .6rem 0; max-width: 48rem; } .faint { color: var(--faint); font-size: .875rem; }
.note { padding: .6rem .9rem; background: #fdf3e3; border-radius: .4rem; }
.heads { display: flex; flex-wrap: wrap; gap: 1rem; margin: 0 0 1rem; }
.head { flex: 1 1 11rem; padding: .8rem 1.1rem; border: 1px solid var(--line);
  border-radius: .5rem; }
.head b { display: block; font-size: 1.9rem; line-height: 1.2; }
.head b small { font-size: 1rem; font-weight: 400; color: var(--faint); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1.4rem; margin: 0;
  font-size: .9375rem; } dt { color: var(--faint); } dd { margin: 0; overflow-wrap: anywhere; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9375rem; font-variant-numeric: tabular-nums; }
th { color: var(--faint); font-weight: 500; font-size: .8125rem; vertical-align: bottom; }
th, td { padding: .32rem .75rem; text-align: right; border-bottom: 1px solid var(--line); }
td { white-space: nowrap; } td.chance { color: var(--faint); }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
img { display: block; max-width: 100%; height: auto; }
@media print { body { padding: 0; } img { break-inside: avoid; } }
"""
_CAPTIONS = {
    "phones": (
        "What a code means",
        "A column is a code that occurs, a row a phone: the share of the code's frames that have "
        "that phone. Codes stand in the order of their most likely phone, phones in that of their "
        "frequency, the rarest of many together in the last row. A frame has the phone that "
        "covers most of what its receptive field sees.",
    ),
    "codes_per_phone": (
        "Codes of each phone",
        "Bars: share of the active codes whose most likely phone it is. Marks: share of the "
        "frames that have the phone. A bar above its mark says that the codebook spends more on "
        "the phone than its share of speech.",
    ),
    "languages": (
        "How alike languages use the codes",
        "Jensen-Shannon divergence between two languages' shares of each code, 0 to 1 bit; darker "
        "is more alike, each run on a scale of its own. On the diagonal, in bold: every "
        "other utterance of the language against "
        "its rest, a yardstick: utterances of one language differ by that much among themselves, "
        "seen through half the audio.",
    ),
    "tree": (
        "Tree of languages",
        "Average linkage of the roots of the divergences. Languages that join further to the "
        "right use the codes more alike.",
    ),
    "projection": (
        "Languages in a plane",
        "The first two principal components of the languages' shares of each code.",
    ),
}


def page(
    runs: Sequence[RunFigures],
    frames: Frames,
    title: str,
    facts: Mapping[str, Any],
    notes: Sequence[str],
    pictures: Mapping[str, Path],
) -> str:
    """The page's HTML.

    Args:
      facts: name -> value, in order.
      notes: what is left out, and why.
      pictures: of ``pictures.draw``.
    """
    sections = []
    for name, path in pictures.items():
        heading, caption = _CAPTIONS[name]
        data = base64.b64encode(path.read_bytes()).decode()
        sections += [
            f"<h2>{heading}</h2>",
            f'<img alt="{escape(heading)}" src="data:image/png;base64,{data}">',
            f'<p class="faint">{caption}</p>',
        ]
    names = [*facts.items(), *((run.name, _line(run)) for run in runs)]
    several = len(frames.languages) > 1
    return "\n".join(
        [
            '<!doctype html><html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>",
            f"<h1>{escape(title)}</h1>",
            *map(_heads, runs),
            "<dl>",
            *(f"<dt>{escape(str(n))}</dt><dd>{escape(str(v))}</dd>" for n, v in names),
            "</dl>",
            *(f'<p class="note">{escape(note)}</p>' for note in notes),
            "<h2>Figures</h2>",
            _table(tables.summary(runs)),
            f'<p class="faint">{escape(_reading(runs[0]))}</p>',
            *sections,
            "<h2>Languages</h2>" if several else "<h2>Audio</h2>",
            _table(tables.languages(runs, frames)),
            f'<p class="faint">{escape(_LANGUAGES)}</p>' if several else "",
            "</body></html>",
            "",
        ]
    )


_LANGUAGES = (
    f"Only here: codes of at least {statistics.MINIMUM} frames, all of this language, and the "
    "share of its frames that have one. Halves: divergence of every other utterance from the rest."
)


def _line(run: RunFigures) -> str:
    return ", ".join(f"{name} {value}" for name, value in run.facts.items())


def _reading(run: RunFigures) -> str:
    """What has to be known to read the summary."""
    text = (
        f"A code is a {run.code}: the most likely codeword of each group, with nothing masked and "
        "no noise. Their number grows with the frames looked at."
    )
    if run.phones:
        text += (
            " Entropies with natural logarithm are in nats. The mean of codes counts a code of one "
            "frame like any other, and such a code has entropy 0; the mean of frames does not. "
            "Phone purity: frames whose phone is their code's most frequent; cluster purity: "
            "frames whose code is their phone's most frequent. Normalised mutual information "
            "divides by the mean of the two entropies. Phones shuffled: the same figures with the "
            "phones in random order, what counting alone gives."
        )
    return text


def _heads(run: RunFigures) -> str:
    heads = [(f"{run.usage.active:,}", f"of {run.usage.possible:,}", f"active {run.code}s")]
    if run.phones:
        found = run.phones.found
        heads += [
            (f"{found.nmi:.3f}", "", "normalised mutual information"),
            (f"{100 * found.phone_purity:.1f}", "%", "phone purity"),
            (f"{found.mean_entropy:.2f}", "nats", f"H(phone | code), mean of {run.code}s"),
        ]
    cards = "".join(
        f'<div class="head"><b>{value} <small>{unit}</small></b>{text}'
        f'<div class="faint">{escape(run.name)}</div></div>'
        for value, unit, text in heads
    )
    return f'<div class="heads">{cards}</div>'


def _table(rows: Sequence[tables.Row]) -> str:
    heading, *body = rows
    kinds = [' class="chance"' if name == "phones shuffled" else "" for name in heading]
    head = "".join(f"<th>{escape(str(name))}</th>" for name in heading)
    lines = [
        "".join(
            f"<td{kind}>{escape(str(value))}</td>" for kind, value in zip(kinds, row, strict=True)
        )
        for row in body
    ]
    inner = "".join(f"<tr>{line}</tr>" for line in lines)
    return (
        f'<div class="wide"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{inner}</tbody></table></div>"
    )
