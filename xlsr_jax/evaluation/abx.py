"""ABX: do features tell two phones apart that stand between the same neighbours?

Schatz et al. 2013, as in the ZeroSpeech 2017 challenge, on which modified CPC (Rivière et al. 2020)
is measured. A and X are tokens of one phone, B is one of another, all three between the same two
phones; a triplet is an error where X is farther from A than from B. Within speakers all three are
of one speaker; across speakers X is of another than A and B. Tokens are compared whole, neighbours
included ("beg" and "bag"), by dynamic time warping.
"""

import dataclasses
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence

import numpy as np

SILENCES = frozenset({"", "SIL", "sil", "SPN", "spn", "sp", "<sil>"})
_TIE = 6  # decimals of a distance; what is closer is a tie, else rounding errors would decide
_CELLS = 1 << 18  # of the matrices of frame distances that are warped at once
_VALUES = 1 << 17  # of the features compared at once, which fit in a cache


@dataclasses.dataclass(frozen=True)
class Item:
    """One token of a phone, with the neighbours between which it stands.

    Attributes:
      utterance: whose features it is a part of.
      speaker, phone, previous, following: names.
      start, end: its frames are [start, end) of the utterance's.
    """

    utterance: str
    speaker: str
    phone: str
    previous: str
    following: str
    start: int
    end: int


@dataclasses.dataclass(frozen=True)
class Result:
    """What ``abx`` finds.

    Attributes:
      error: a fraction, 0.5 for chance; nan where there is no triplet.
      pairs: ordered pairs of phones (A's, B's) that it is averaged over.
      triplets: compared.
    """

    error: float
    pairs: int
    triplets: int


def items_of(
    alignment: Sequence[tuple[str, int, int]],
    *,
    utterance: str,
    speaker: str,
    frames: int,
    window: int = 400,
    hop: int = 320,
    pad: int = 0,
    with_context: bool = True,
    silences: Collection[str] = SILENCES,
) -> list[Item]:
    """Tokens of an utterance whose neighbours are phones; frames count by their centres.

    Args:
      alignment: (symbol, start, end), [start, end) in samples, in order. Where two phones are more
        than a frame apart there is silence between them.
      frames: that the utterance's features have; tokens that they do not hold are left out.
      window, hop, pad: samples that a frame sees, between frames, and before the first sample.
      with_context: whether an item reaches over its neighbours too, as in ZeroSpeech.
      silences: symbols that are neither tokens nor neighbours.
    """
    centre = window / 2 - pad  # of frame 0, samples
    items = []
    for before, token, after in zip(alignment, alignment[1:], alignment[2:], strict=False):
        apart = max(token[1] - before[2], after[1] - token[2])
        if apart > hop or any(phone[0] in silences for phone in (before, token, after)):
            continue
        first, last = (before[1], after[2]) if with_context else (token[1], token[2])
        start, end = (max(0, int(np.ceil((edge - centre) / hop))) for edge in (first, last))
        # The last samples of an utterance may lie beyond its last frame's centre.
        if start < min(end, frames) and end <= frames + 1:
            names = (token[0], before[0], after[0])
            items.append(Item(utterance, speaker, *names, start, min(end, frames)))
    return items


def same_items(
    alignment: Sequence[tuple[str, int, int]],
    frames: Sequence[tuple[int, int, int]],
    *,
    utterance: str,
    speaker: str,
) -> list[list[Item]]:
    """``items_of`` for several features of an utterance: tokens that all hold, in one order.

    So ``abx`` compares them on the same triplets, however far apart their frames are.

    Args:
      frames: of each features their number, window and hop.
    """
    found: list[list[Item]] = [[] for _ in frames]
    names = {"utterance": utterance, "speaker": speaker}
    for first in range(len(alignment) - 2):
        phones = alignment[first : first + 3]
        token = [
            items_of(phones, **names, frames=count, window=window, hop=hop)
            for count, window, hop in frames
        ]
        if all(token):
            for items, item in zip(found, token, strict=True):
                items += item
    return found


def abx(
    items: Sequence[Item],
    features: Mapping[str, np.ndarray],
    across: bool,
    max_per_cell: int = 100,
    seed: int = 0,
) -> Result:
    """ABX error, averaged over contexts, then speakers, then ordered pairs of phones.

    Args:
      items: of ``items_of``, of all utterances of one language.
      features: utterance -> [frames, width] float.
      across: whether X is of another speaker; the average over speakers is then one over ordered
        pairs of them.
      max_per_cell: triplets compared for one context, pair of phones and (pair of) speakers, drawn
        where there are more; 0 for all.
      seed: of the draw.

    Raises:
      ValueError: features that are missing, too short, or not finite.
    """
    rng = np.random.default_rng(seed)
    keys, triplets = [], []
    for key, a, b, x in _cells(items, across):
        drawn = _draw(a, b, x, max_per_cell, rng)
        triplets.append(drawn)
        keys.append(np.broadcast_to(np.array(key), (len(drawn), len(key))))
    if not triplets:
        return Result(float("nan"), 0, 0)
    a, b, x = np.concatenate(triplets).T
    keys, means = np.concatenate(keys), _errors(items, features, a, b, x)
    pairs = 0
    for kept in (5, 4, 2):  # triplets of a cell, contexts, speakers
        keys, means = _average(keys[:, :kept], means)
        pairs = len(keys)
    return Result(float(means.mean()), pairs, len(a))


def frame_distances(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Angles between frames, in half turns: arccos(cosine) / pi, [..., N, M] in [0, 1].

    Args:
      one, other: [..., N, D] and [..., M, D]. A frame of zeros is at right angles to all.
    """
    one, other = np.asarray(one, np.float64), np.asarray(other, np.float64)
    scale = [
        1 / np.sqrt(np.maximum(np.einsum("...d,...d->...", frames, frames), 1e-60))
        for frames in (one, other)
    ]
    cosine = one @ np.swapaxes(other, -1, -2)
    cosine *= scale[0][..., :, None]
    cosine *= scale[1][..., None, :]
    return np.arccos(np.clip(cosine, -1, 1, out=cosine), out=cosine) / np.pi


def warp(costs: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Dynamic time warping: mean cost of the cells of the cheapest path, [P] float64.

    Paths go from the first row and column to the last by steps of one row, one column or both.
    Among cheapest paths the shortest counts.

    Args:
      costs: [P, N, M], of which the first ``rows`` and ``columns`` ([P] int) are valid.
    """
    count, height, width = costs.shape
    cells = np.moveaxis(costs, 0, -1) + 1j  # NumPy orders complex numbers by the real part first:
    best = np.full((height + 1, width + 1, count), np.inf, np.complex128)  # cost + j path length
    best[0, 0] = 0
    for i in range(height):
        for j in range(width):
            came = np.minimum(np.minimum(best[i, j], best[i, j + 1]), best[i + 1, j])
            np.add(came, cells[i, j], out=best[i + 1, j + 1])
    last = best[rows, columns, np.arange(count)]
    return last.real / last.imag


def _cells(
    items: Sequence[Item], across: bool
) -> Iterator[tuple[tuple[int, ...], np.ndarray, np.ndarray, np.ndarray]]:
    """(phone of A, of B, speaker of A and B, of X, context) by number; item numbers of A, B, X."""
    number: dict[tuple[str, ...], int] = {}
    tokens: dict[tuple[str, str], dict[str, dict[str, list[int]]]] = defaultdict(dict)
    for place, item in enumerate(items):
        speakers = tokens[item.previous, item.following].setdefault(item.phone, {})
        speakers.setdefault(item.speaker, []).append(place)

    def named(*name: str) -> int:
        return number.setdefault(name, len(number))

    for context, phones in sorted(tokens.items()):
        for phone, of_phone in sorted(phones.items()):
            for other, of_other in sorted(phones.items()):
                for speaker in sorted(of_phone.keys() & of_other.keys()) if phone != other else ():
                    for of_x in sorted(of_phone) if across else [speaker]:
                        if across == (of_x == speaker):
                            continue
                        key = (("phone", phone), ("phone", other), ("speaker", speaker))
                        key += (("speaker", of_x), ("context", *context))
                        found = (of_phone[speaker], of_other[speaker], of_phone[of_x])
                        if across or len(found[0]) > 1:
                            yield tuple(named(*name) for name in key), *map(np.array, found)


def _draw(
    a: np.ndarray, b: np.ndarray, x: np.ndarray, most: int, rng: np.random.Generator
) -> np.ndarray:
    """[triplets, 3] item numbers, at most ``most``, of all in which X is not A."""
    same = a[0] == x[0]  # within a speaker both are the same tokens
    sizes = (len(a), len(b), len(x) - same)
    total = int(np.prod(sizes))
    chosen = np.arange(total)
    if 0 < most < total:
        chosen = np.sort(rng.choice(total, most, replace=False, shuffle=False))
    i, j, k = np.unravel_index(chosen, sizes)
    k = k + (same & (k >= i))
    return np.stack([a[i], b[j], x[k]], axis=1)


def _errors(
    items: Sequence[Item],
    features: Mapping[str, np.ndarray],
    a: np.ndarray,
    b: np.ndarray,
    x: np.ndarray,
) -> np.ndarray:
    """[triplets] 1 where d(A, X) > d(B, X), a half where they are equal, else 0."""
    # A pair of tokens is in many triplets, and the distance the same from either end.
    ends = np.sort(np.stack([np.concatenate([a, b]), np.concatenate([x, x])], axis=1), axis=1)
    unique, where = np.unique(ends[:, 0] * len(items) + ends[:, 1], return_inverse=True)
    found = np.round(_distances(items, features, *np.divmod(unique, len(items))), _TIE)
    to_a, to_b = np.split(found[where.reshape(-1)], 2)
    return (to_a > to_b) + 0.5 * (to_a == to_b)


def _distances(
    items: Sequence[Item], features: Mapping[str, np.ndarray], one: np.ndarray, other: np.ndarray
) -> np.ndarray:
    """[pairs] distances between items, those of about equal lengths warped together."""
    frames, starts, lengths = _gather(items, features, np.unique(np.concatenate([one, other])))
    one, other = np.where(lengths[one] > lengths[other], (other, one), (one, other))
    order = np.lexsort((lengths[one], lengths[other]))
    found, done = np.empty(len(one)), 0
    while done < len(order):
        longest = int(lengths[other[order[done]]]) + 1  # of the block: those of two lengths
        block = order[done : done + max(1, _CELLS // longest**2)]
        block = block[: np.searchsorted(lengths[other[block]], longest, side="right")]
        rows, columns = lengths[one[block]], lengths[other[block]]
        costs = np.empty((len(block), rows.max(), columns.max()))
        part = max(1, _VALUES // (longest * frames.shape[1]))
        for at in range(0, len(block), part):
            some = block[at : at + part]
            padded = [
                frames[starts[side, None] + np.minimum(np.arange(size), lengths[side, None] - 1)]
                for side, size in zip((one[some], other[some]), costs.shape[1:], strict=True)
            ]
            costs[at : at + part] = frame_distances(*padded)
        found[block] = warp(costs, rows, columns)
        done += len(block)
    return found


def _gather(
    items: Sequence[Item], features: Mapping[str, np.ndarray], used: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Frames of the used items one after another [F, D]; [items] where each begins, how many."""
    starts, lengths = np.zeros((2, len(items)), np.int64)
    parts, total = [], 0
    for number in used:
        item = items[number]
        if item.utterance not in features:
            raise ValueError(f"utterance {item.utterance!r} has items but no features")
        part = np.asarray(features[item.utterance])[item.start : item.end]
        if len(part) != item.end - item.start or not len(part) or not np.isfinite(part).all():
            raise ValueError(
                f"utterance {item.utterance!r}: frames {item.start} to {item.end} of its features "
                f"are wanted; there are {len(features[item.utterance])}, or some are not finite"
            )
        starts[number], lengths[number] = total, len(part)
        total += len(part)
        parts.append(part)
    return np.concatenate(parts), starts, lengths


def _average(keys: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distinct keys, [n, k] int, and the mean value of each."""
    unique, where, counts = np.unique(keys, axis=0, return_inverse=True, return_counts=True)
    return unique, np.bincount(where.reshape(-1), values) / counts
