"""All figures of one run: how its codes are used, what phones they go with, and which languages."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from xlsr_jax.analysis import statistics
from xlsr_jax.analysis.codes import Frames
from xlsr_jax.analysis.statistics import Agreement, Usage

_SHUFFLE = 0  # fixed


@dataclasses.dataclass(frozen=True)
class Phones:
    """Codes and phones of the frames that have one.

    Attributes:
      symbols: P of them, the most frequent first.
      counts_QP: frames of each code and phone.
      found: how they agree.
      chance: how they would with the phones in random order: what is due to counting alone.
      left_out: frames without a phone.
    """

    symbols: tuple[str, ...]
    counts_QP: np.ndarray
    found: Agreement
    chance: Agreement
    left_out: int


@dataclasses.dataclass(frozen=True)
class Similarity:
    """How alike languages use the codes; matrices are [L, L].

    Attributes:
      cosine: of the shares of each code.
      divergence: Jensen-Shannon, bits.
      halves: [L] divergence of a language from itself, every other utterance against the rest;
        nan where there is only one utterance. It is the yardstick of all others.
    """

    cosine: np.ndarray
    divergence: np.ndarray
    halves: np.ndarray


@dataclasses.dataclass(frozen=True)
class Languages:
    """Codes and languages.

    Attributes:
      counts_LQ: frames of each language and code.
      by_code, by_codeword: similarity by shares of codes, and by those of the codewords of all
        groups side by side.
      merges: tree of ``statistics.tree`` over ``by_code.divergence``.
      order: languages as the tree's leaves lie.
      coordinates, explained: [L, 2] principal components of the shares of codes, and [2] shares
        of the variance between languages.
      exclusive_codes, exclusive_frames: [L], see ``statistics.exclusive``.
    """

    counts_LQ: np.ndarray
    by_code: Similarity
    by_codeword: Similarity
    merges: np.ndarray
    order: tuple[int, ...]
    coordinates: np.ndarray
    explained: np.ndarray
    exclusive_codes: np.ndarray
    exclusive_frames: np.ndarray


@dataclasses.dataclass(frozen=True)
class RunFigures:
    """Figures of one run.

    Attributes:
      name: as tables and pictures say it.
      facts: what a reader has to know of the run.
      codewords_QG: the codes that occur.
      counts_Q: frames of each.
      phones: None where nothing is aligned.
      languages: None where there is but one.
    """

    name: str
    facts: Mapping[str, Any]
    codewords_QG: np.ndarray
    counts_Q: np.ndarray
    usage: Usage
    phones: Phones | None
    languages: Languages | None

    @property
    def code(self) -> str:
        """What a code is called."""
        return {1: "codeword", 2: "code pair"}.get(self.codewords_QG.shape[1], "code")


def of_run(
    name: str, facts: Mapping[str, Any], codes_FG: np.ndarray, codewords: int, frames: Frames
) -> RunFigures:
    """Counts and reckons.

    Args:
      codes_FG: of ``codes_of``, [frames, G].
      codewords: of each group.
    """
    used, numbers = statistics.joint(codes_FG)
    return RunFigures(
        name,
        facts,
        used,
        np.bincount(numbers),
        statistics.usage(codes_FG, codewords),
        _phones(numbers, len(used), frames) if frames.phone.any() else None,
        _languages(codes_FG, numbers, frames) if len(frames.languages) > 1 else None,
    )


def _phones(numbers: np.ndarray, codes: int, frames: Frames) -> Phones:
    there = frames.phone > 0
    frequency = np.bincount(frames.phone[there], minlength=len(frames.phones))
    order = np.argsort(-frequency, kind="stable")[: int((frequency > 0).sum())]
    rank = np.zeros(len(frames.phones), np.int64)
    rank[order] = np.arange(len(order))
    code, phone = numbers[there], rank[frames.phone[there]]
    shuffled = np.random.default_rng(_SHUFFLE).permutation(phone)
    counts = statistics.table(code, phone, codes, len(order))
    by_chance = statistics.table(code, shuffled, codes, len(order))
    return Phones(
        tuple(frames.phones[number] for number in order),
        counts,
        statistics.agreement(counts),
        statistics.agreement(by_chance),
        int((~there).sum()),
    )


def _languages(codes_FG: np.ndarray, numbers: np.ndarray, frames: Frames) -> Languages:
    from scipy.cluster import hierarchy

    # A row of counts for each half of each language: every other utterance.
    count, half = len(frames.languages), 2 * frames.language.astype(np.int64)
    half += frames.utterance % 2
    halves_by_code = statistics.table(half, numbers, 2 * count, int(numbers.max()) + 1)
    by_group = [
        statistics.table(half, column, 2 * count, int(column.max()) + 1) for column in codes_FG.T
    ]
    by_code = _similarity(halves_by_code)
    merges = statistics.tree(by_code.divergence)
    counts_LQ = _whole(halves_by_code)
    coordinates, explained = statistics.principal_components(statistics.shares(counts_LQ))
    return Languages(
        counts_LQ,
        by_code,
        _similarity(np.concatenate(by_group, axis=1)),
        merges,
        tuple(int(leaf) for leaf in hierarchy.leaves_list(merges)),
        coordinates,
        explained,
        *statistics.exclusive(counts_LQ),
    )


def _whole(halves: np.ndarray) -> np.ndarray:
    return halves.reshape(-1, 2, halves.shape[-1]).sum(axis=1)


def _similarity(halves: np.ndarray) -> Similarity:
    shares, whole = statistics.shares(halves), statistics.shares(_whole(halves))
    own = [
        statistics.jensen_shannon(pair)[0, 1] if pair.any(axis=1).all() else np.nan
        for pair in shares.reshape(-1, 2, shares.shape[-1])
    ]
    return Similarity(statistics.cosine(whole), statistics.jensen_shannon(whole), np.array(own))
