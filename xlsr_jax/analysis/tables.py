"""The figures as tables: rows to read, and CSV files.

summary.csv       run, figure, unit, value, and what counting alone gives
codes.csv         a line an occurring code: codewords, frames, most likely phone, its probability
phones.csv        a line a phone: frames, and codes whose most likely phone it is
phone_counts.csv  a line a code and phone that occur together
languages.csv     a line a language: audio, codes, principal components
similarity.csv    a line a pair of languages, by codes and by codewords
"""

import csv
import dataclasses
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from xlsr_jax.analysis import statistics
from xlsr_jax.analysis.codes import Frames
from xlsr_jax.analysis.figures import RunFigures

NAMES = ("summary", "codes", "phones", "phone_counts", "languages", "similarity")
FILES = tuple(f"{name}.csv" for name in NAMES)
Row = tuple[Any, ...]
BITS = 1 / math.log(2)


@dataclasses.dataclass(frozen=True)
class Line:
    """One figure of one run.

    Attributes:
      unit: "" for a plain number, else "%" or "nats".
      chance: with the phones in random order; None where that means nothing.
    """

    figure: str
    unit: str
    value: float
    chance: float | None = None


def lines(run: RunFigures) -> list[Line]:
    """The summary of a run, from what the codebook uses to what it says of phones."""
    use, code = run.usage, run.code
    found = [
        Line("frames", "", use.frames),
        Line(f"active {code}s of {use.possible:,}", "", use.active),
        Line(f"perplexity of {code}s", "", use.perplexity),
    ]
    if len(use.group_active) > 1:
        for group, (active, perplexity) in enumerate(
            zip(use.group_active, use.group_perplexity, strict=True), 1
        ):
            found.append(Line(f"active codewords of group {group}, of {use.codewords}", "", active))
            found.append(Line(f"perplexity of group {group}", "", perplexity))
    if run.phones is None:
        return found
    one, other = run.phones.found, run.phones.chance
    found += [
        Line("frames with a phone", "", one.frames),
        Line("frames without, left out below", "", run.phones.left_out),
        Line("phones", "", one.phones),
        Line(f"active {code}s of frames with a phone", "", one.codes),
    ]
    for figure, name in (
        (f"H(phone | code), mean of {code}s", "mean_entropy"),
        ("H(phone | code), mean of frames", "conditional_entropy"),
        ("H(phone)", "phone_entropy"),
        ("mutual information of phone and code", "mutual_information"),
    ):
        fixed = name == "phone_entropy"
        chance = None if fixed else getattr(other, name)
        found.append(Line(figure, "nats", getattr(one, name), chance))
    found.append(Line("normalised mutual information", "", one.nmi, other.nmi))
    for figure, name in (("phone purity", "phone_purity"), ("cluster purity", "cluster_purity")):
        found.append(Line(figure, "%", 100 * getattr(one, name), 100 * getattr(other, name)))
    return found


def cell(line: Line, value: float | None) -> str:
    """A figure as text; nats with the bits beside them."""
    if value is None:
        return ""
    if isinstance(value, int):
        return f"{value:,}"
    if line.unit == "nats":
        return f"{value:.2f} nats ({value * BITS:.2f} bits)"
    if line.unit == "%":
        return f"{value:.1f} %"
    return f"{value:.3f}" if value < 1 else f"{value:.1f}"


def summary(runs: Sequence[RunFigures]) -> list[Row]:
    """Heading and rows: figure, then for each run its value and that of chance."""
    heading: list[str] = ["figure"]
    for run in runs:
        heading += [run.name] + (["phones shuffled"] if run.phones else [])
    columns = [lines(run) for run in runs]
    rows = [tuple(heading)]
    for place, line in enumerate(columns[0]):
        cells = [line.figure if len({c[place].figure for c in columns}) == 1
                 else " / ".join(c[place].figure for c in columns)]  # fmt: skip
        for run, column in zip(runs, columns, strict=True):
            at = column[place]
            cells.append(cell(at, at.value))
            if run.phones:
                cells.append(cell(at, at.chance))
        rows.append(tuple(cells))
    return rows


def languages(runs: Sequence[RunFigures], frames: Frames) -> list[Row]:
    """Heading and a row a language: audio, then for each run what only it uses, and its halves."""
    heading: list[str] = ["language", "utterances", "seconds", "frames"]
    for run in runs:
        of = f", {run.name}" if len(runs) > 1 else ""
        heading += [f"{run.code}s{of}", f"only here{of}", f"frames of those{of}"]
        heading += [f"halves, bits{of}"]
    total = np.bincount(frames.language, minlength=len(frames.languages))
    rows = [tuple(heading)]
    for number, language in enumerate(frames.languages):
        cells = [language, f"{frames.utterances[number]:,}", f"{frames.seconds[number]:,.0f}"]
        cells.append(f"{total[number]:,}")
        for run in runs:
            found = run.languages
            if found is None:
                cells += [f"{run.usage.active:,}", "–", "–", "–"]
                continue
            share = found.exclusive_frames[number] / max(total[number], 1)
            own = found.by_code.halves[number]
            cells += [f"{int((found.counts_LQ[number] > 0).sum()):,}"]
            cells += [f"{found.exclusive_codes[number]:,}", f"{100 * share:.2f} %"]
            cells += [f"{own:.3f}" if np.isfinite(own) else "–"]
        rows.append(tuple(cells))
    return rows


def csv_files(runs: Sequence[RunFigures], frames: Frames) -> dict[str, str]:
    """Name and content of every table; the first column is the run."""
    groups = tuple(f"group_{g}" for g in range(1, 1 + max(r.codewords_QG.shape[1] for r in runs)))
    total = np.bincount(frames.language, minlength=len(frames.languages))
    heads: Mapping[str, tuple[Row, Any]] = {
        "summary": (
            ("run", "figure", "unit", "value", "phones_shuffled"),
            lambda run: (dataclasses.astuple(line) for line in lines(run)),
        ),
        "codes": (
            ("run", *groups, "frames", "languages", "frames_with_phone", "phone", "probability",
             "entropy_nats"),
            lambda run: _codes(run, len(groups)),
        ),
        "phones": (("run", "phone", "frames", "share_percent", "codes"), _phones),
        "phone_counts": (
            ("run", *groups, "phone", "frames"), lambda run: _phone_counts(run, len(groups))
        ),
        "languages": (
            ("run", "language", "utterances", "seconds", "frames", "codes", "exclusive_codes",
             "exclusive_frames", "exclusive_frames_percent", "halves_by_code_bits",
             "halves_by_codeword_bits", "component_1", "component_2"),
            lambda run: _languages(run, frames, total),
        ),
        "similarity": (
            ("run", "by", "language", "other", "cosine", "jensen_shannon_bits"),
            lambda run: _similarity(run, frames.languages),
        ),
    }  # fmt: skip
    files = {}
    for name, (head, rows) in heads.items():
        content = [(run.name, *row) for run in runs for row in rows(run)]
        if content:
            files[f"{name}.csv"] = _csv([head, *content])
    return files


def _codes(run: RunFigures, groups: int) -> Iterator[Row]:
    spoken = run.languages.counts_LQ if run.languages else run.counts_Q[None]
    using = (spoken > 0).sum(axis=0)
    for number in np.argsort(-run.counts_Q, kind="stable"):
        row = (*_padded(run, number, groups), run.counts_Q[number], using[number])
        counts = run.phones.counts_QP[number] if run.phones else np.zeros(0, np.int64)
        if not counts.any():
            yield (*row, 0, "", "", "")
            continue
        given = statistics.shares(counts)
        best = int(given.argmax())
        entropy = float(statistics.entropy(given))
        yield (*row, counts.sum(), run.phones.symbols[best], float(given[best]), entropy)


def _phones(run: RunFigures) -> Iterator[Row]:
    if run.phones:
        counts = run.phones.counts_QP
        frames, codes = counts.sum(axis=0), statistics.codes_per_phone(counts)
        for symbol, some, many in zip(run.phones.symbols, frames, codes, strict=True):
            yield symbol, some, 100 * some / frames.sum(), many


def _phone_counts(run: RunFigures, groups: int) -> Iterator[Row]:
    if run.phones:
        for code, phone in np.argwhere(run.phones.counts_QP):
            count = run.phones.counts_QP[code, phone]
            yield (*_padded(run, code, groups), run.phones.symbols[phone], count)


def _padded(run: RunFigures, code: int, groups: int) -> Row:
    codewords = run.codewords_QG[code].tolist()
    return (*codewords, *[""] * (groups - len(codewords)))


def _languages(run: RunFigures, frames: Frames, total: np.ndarray) -> Iterator[Row]:
    if (found := run.languages) is not None:
        for n, language in enumerate(frames.languages):
            alone = found.exclusive_frames[n]
            yield (
                language, frames.utterances[n], round(float(frames.seconds[n]), 3), total[n],
                (found.counts_LQ[n] > 0).sum(), found.exclusive_codes[n], alone,
                100 * alone / max(total[n], 1), found.by_code.halves[n],
                found.by_codeword.halves[n], *found.coordinates[n],
            )  # fmt: skip


def _similarity(run: RunFigures, names: Sequence[str]) -> Iterator[Row]:
    if run.languages is not None:
        both = (("code", run.languages.by_code), ("codeword", run.languages.by_codeword))
        for by, found in both:
            for (a, b), cosine in np.ndenumerate(found.cosine):
                yield by, names[a], names[b], float(cosine), float(found.divergence[a, b])


def _csv(rows: Sequence[Row]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()
