"""The report as one HTML page without any other file: tables, picture, aligned utterances."""

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from xlsr_jax.evaluation.error_rate import NOTHING, Alignment
from xlsr_jax.evaluation.figures import AVERAGE, HEADINGS, TOGETHER, Figures, note, percent, rows

SHOWN = 8  # utterances of each end
_GAP = "∅"
_STYLE = """
:root { color-scheme: light; --ink: #1d2b38; --faint: #66727e; --line: #dfe4e9; --blue: #3b76a8; }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2.5rem 1.5rem 4rem; max-width: 62rem; color: var(--ink);
  background: #fff; font: 16px/1.5 system-ui, "Segoe UI", "Noto Sans", "DejaVu Sans", sans-serif; }
h1 { margin: 0 0 1.2rem; font-size: 1.7rem; line-height: 1.25; }
h2 { margin: 2.6rem 0 .8rem; font-size: 1.15rem; }
p { margin: .6rem 0; max-width: 48rem; } .faint { color: var(--faint); font-size: .875rem; }
.heads { display: flex; flex-wrap: wrap; gap: 1rem; margin: 0 0 1.4rem; }
.head { flex: 1 1 11rem; padding: .8rem 1.1rem; border: 1px solid var(--line);
  border-radius: .5rem; }
.head b { display: block; font-size: 1.9rem; line-height: 1.2; }
.head b small { font-size: 1rem; font-weight: 400; color: var(--faint); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1.4rem; margin: 0;
  font-size: .9375rem; } dt { color: var(--faint); } dd { margin: 0; overflow-wrap: anywhere; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9375rem; font-variant-numeric: tabular-nums; }
th { color: var(--faint); font-weight: 500; font-size: .8125rem; vertical-align: bottom; }
th, td { padding: .32rem .75rem; text-align: right; border-bottom: 1px solid var(--line);
  white-space: nowrap; }
thead th { white-space: normal; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
tr.sum td { font-weight: 600; } tr.first td { border-top: 2px solid var(--ink); }
img { max-width: 100%; height: auto; max-height: 24rem; }
.confusions { columns: 3 14rem; column-gap: 2.2rem; }
.confusion { display: grid; grid-template-columns: 5.6rem 1fr 2.6rem; gap: .5rem;
  align-items: center; break-inside: avoid; font-size: .9375rem; line-height: 1.75; }
.confusion i { height: .55rem; background: var(--blue); border-radius: 2px; min-width: 2px; }
.confusion span:last-child { text-align: right; font-variant-numeric: tabular-nums; }
.utterance { padding: .75rem 0 .85rem; border-bottom: 1px solid var(--line); }
.pairs { display: flex; flex-wrap: wrap; gap: .4rem .12rem; margin-top: .35rem; }
.pair { display: inline-flex; flex-direction: column; min-width: 1.45rem; padding: 0 .22rem;
  text-align: center; line-height: 1.45; border-radius: .25rem; white-space: pre; }
.pair > :last-child { border-top: 1px solid var(--line); }
.pair.sub { background: #fdebd0; } .pair.sub > :last-child { color: #a04b00; font-weight: 600; }
.pair.del { background: #fbdcdc; } .pair.del > :first-child { color: #a3222b; font-weight: 600; }
.pair.ins { background: #dcebfb; } .pair.ins > :last-child { color: #17569b; font-weight: 600; }
.none { color: #9aa5b0; font-weight: 400 !important; } .legend .pair { padding: 0 .5rem; }
.legend { display: inline-flex; gap: .5rem; margin-left: .3rem; }
.legend .pair > * { border: 0 !important; }
@media print { body { padding: 0; } .utterance { break-inside: avoid; } }
"""


def page(found: Sequence[Figures], title: str, facts: Mapping[str, Any], picture: bytes) -> str:
    """The page's HTML.

    Args:
      found: figures by unit, the main one first.
      facts: name -> value, in order.
      picture: a PNG.
    """
    main = found[0]
    data = base64.b64encode(picture).decode()
    worst, best = _ends(main.alignments)
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>",
        f"<h1>{escape(title)}</h1>",
        f'<div class="heads">{"".join(map(_heads, found))}</div>',
        "<dl>",
        *(f"<dt>{escape(str(n))}</dt><dd>{escape(str(v))}</dd>" for n, v in facts.items()),
        "</dl>",
        *map(_table, found),
        f'<p><img alt="{main.rate} by language" src="data:image/png;base64,{data}"></p>',
        f"<h2>Most frequent confusions</h2>{_confusions(main)}",
        f"<h2>Worst utterances</h2>{_LEGEND}{''.join(map(_utterance, worst))}",
    ]
    if best:
        parts.append(f"<h2>Best utterances</h2>{''.join(map(_utterance, best))}")
    return "\n".join([*parts, "</body></html>", ""])


def _heads(found: Figures) -> str:
    languages = sum(each.reference_length > 0 for each in found.languages.values())
    corpus, utterance = found.average
    whose = f"mean of {languages} languages" if languages > 1 else "all utterances"
    return "".join(
        f'<div class="head"><b>{percent(rate)} <small>%</small></b>{found.rate}, {statistic}'
        f'<div class="faint">{whose}</div></div>'
        for rate, statistic in ((corpus, "corpus rate"), (utterance, "utterance mean"))
    )


def _table(found: Figures) -> str:
    heads = "".join(f"<th>{heading.format(rate=found.rate)}</th>" for heading in HEADINGS)
    body = []
    for row in rows(found):
        kind = {AVERAGE: ' class="sum first"', TOGETHER: ' class="sum"'}.get(row[0], "")
        body.append(f"<tr{kind}>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>")
    return (
        f'<h2>{found.rate} by language</h2><div class="wide"><table><thead><tr>{heads}</tr>'
        f"</thead><tbody>{''.join(body)}</tbody></table></div>"
        f'<p class="faint">{escape(note(found))}</p>'
    )


def _confusions(found: Figures) -> str:
    if not found.confusions:
        return "<p>None: no errors.</p>"
    most = found.confusions[0][2]
    lines = [
        f'<div class="confusion"><span>{_token(reference)} → {_token(hypothesis)}</span>'
        f'<i style="width:{100 * count / most:.0f}%"></i><span>{count:,}</span></div>'
        for reference, hypothesis, count in found.confusions
    ]
    return (
        f'<p class="faint">reference → hypothesis; {_GAP} → inserted, → {_GAP} deleted</p>'
        f'<div class="confusions">{"".join(lines)}</div>'
    )


def _ends(alignments: Iterable[Alignment]) -> tuple[list[Alignment], list[Alignment]]:
    """The worst and the best utterances that have a reference; of equals the longer ones."""
    spoken = [alignment for alignment in alignments if alignment.length]
    ranked = sorted(spoken, key=lambda a: (-a.rate, -a.errors, a.length))
    best = sorted(ranked[SHOWN:], key=lambda a: (a.rate, -a.length))[:SHOWN]
    return ranked[:SHOWN], best


def _utterance(alignment: Alignment) -> str:
    utterance = alignment.utterance
    counts = {
        "substituted": alignment.substitutions,
        "deleted": alignment.deletions,
        "inserted": alignment.insertions,
    }
    told = ", ".join(f"{count} {kind}" for kind, count in counts.items() if count) or "no errors"
    pairs = "".join(
        f'<span class="pair {_kind(*pair)}">{_cell(pair[0])}{_cell(pair[1])}</span>'
        for pair in alignment.pairs
    )
    return (
        f'<div class="utterance"><b>{percent(alignment.rate)} %</b> '
        f'<span class="faint">{escape(utterance.language)} · {escape(utterance.id)} · '
        f'{told} of {alignment.length}</span><div class="pairs">{pairs}</div></div>'
    )


def _kind(reference: str, hypothesis: str) -> str:
    if reference == hypothesis:
        return ""
    return "ins" if reference == NOTHING else "del" if hypothesis == NOTHING else "sub"


def _cell(token: str) -> str:
    kind = "" if token else ' class="none"'
    return f"<span{kind}>{_token(token)}</span>"


def _token(token: str) -> str:
    return escape(token) if token else _GAP


_LEGEND = (
    '<p class="faint">reference above, hypothesis below:<span class="legend">'
    '<span class="pair sub"><span>substituted</span></span>'
    '<span class="pair del"><span>deleted</span></span>'
    '<span class="pair ins"><span>inserted</span></span></span></p>'
)
