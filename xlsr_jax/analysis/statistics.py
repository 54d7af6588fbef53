"""Figures of codes, phones and languages, from counts; NumPy and SciPy only.

Table suffixes: ``Q`` codes that occur, ``P`` phones, ``L`` languages. A code is a choice of one
codeword in every group: a pair where there are two groups, as published. Entropies are in nats.
"""

import dataclasses

import numpy as np

MINIMUM = 10  # frames that a code must have to count as one that a single language uses


def entropy(probabilities: np.ndarray) -> np.ndarray:
    """Of distributions along the last axis, nats; 0 log 0 is 0."""
    positive = np.where(probabilities > 0, probabilities, 1.0)
    return -np.sum(probabilities * np.log(positive), axis=-1)


def shares(counts: np.ndarray) -> np.ndarray:
    """Counts as shares along the last axis; all 0 where there are none."""
    return counts / np.maximum(counts.sum(axis=-1, keepdims=True), 1)


def joint(codes_FG: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The codes that occur, [Q, G] in ascending order, and the number of each frame's, [F]."""
    codewords, numbers = np.unique(codes_FG, axis=0, return_inverse=True)
    return codewords, numbers.reshape(-1)


def table(rows: np.ndarray, columns: np.ndarray, height: int, width: int) -> np.ndarray:
    """[height, width] int64: how often row and column occur together; both [F]."""
    flat = np.bincount(rows.astype(np.int64) * width + columns, minlength=height * width)
    return flat.reshape(height, width)


@dataclasses.dataclass(frozen=True)
class Usage:
    """How much of the codebook the frames use.

    Attributes:
      frames: looked at.
      possible, active: codes that there are (V^G), and that occur at least once: |Q|.
      perplexity: exp of the entropy of the codes; between 1 and ``active``.
      codewords: of each group, V.
      group_active, group_perplexity: the same of each group's codewords by themselves.
    """

    frames: int
    possible: int
    active: int
    perplexity: float
    codewords: int
    group_active: tuple[int, ...]
    group_perplexity: tuple[float, ...]


def usage(codes_FG: np.ndarray, codewords: int) -> Usage:
    """``Usage`` of codes [frames, G] with ``codewords`` in each group."""
    groups = [np.bincount(column, minlength=codewords) for column in codes_FG.T]
    used, numbers = joint(codes_FG)
    return Usage(
        frames=len(codes_FG),
        possible=codewords ** len(groups),
        active=len(used),
        perplexity=float(np.exp(entropy(shares(np.bincount(numbers))))),
        codewords=codewords,
        group_active=tuple(int((counts > 0).sum()) for counts in groups),
        group_perplexity=tuple(float(np.exp(entropy(shares(counts)))) for counts in groups),
    )


@dataclasses.dataclass(frozen=True)
class Agreement:
    """How codes and phones go together.

    Attributes:
      frames: that have a phone; the others are left out.
      phones, codes: that occur among them.
      mean_entropy: mean over codes of H(phone | code), nats (UniSpeech section 4.3). A code of few
        frames has a low one by chance.
      conditional_entropy: the same weighted by frames, nats: H(phone | code) proper.
      phone_entropy, code_entropy: H(phone) and H(code), nats.
      mutual_information: H(phone) - H(phone | code), nats.
      nmi: mutual information / arithmetic mean of the two entropies, in [0, 1].
      phone_purity: share of frames that have their code's most frequent phone.
      cluster_purity: share of frames that have their phone's most frequent code.
    """

    frames: int
    phones: int
    codes: int
    mean_entropy: float
    conditional_entropy: float
    phone_entropy: float
    code_entropy: float
    mutual_information: float
    nmi: float
    phone_purity: float
    cluster_purity: float


def agreement(counts_QP: np.ndarray) -> Agreement:
    """``Agreement`` by a table of counts; codes and phones that never occur change nothing."""
    frames = int(counts_QP.sum())
    of_code, of_phone = counts_QP.sum(axis=1), counts_QP.sum(axis=0)
    used = of_code > 0
    each = entropy(shares(counts_QP[used]))
    weighted = float(each @ of_code[used]) / max(frames, 1)
    phone_entropy, code_entropy = float(entropy(shares(of_phone))), float(entropy(shares(of_code)))
    information = max(phone_entropy - weighted, 0.0)
    both = (phone_entropy + code_entropy) / 2
    return Agreement(
        frames=frames,
        phones=int((of_phone > 0).sum()),
        codes=int(used.sum()),
        mean_entropy=float(each.mean()) if len(each) else 0.0,
        conditional_entropy=weighted,
        phone_entropy=phone_entropy,
        code_entropy=code_entropy,
        mutual_information=information,
        nmi=information / both if both > 0 else 1.0,
        phone_purity=int(counts_QP.max(axis=1, initial=0).sum()) / max(frames, 1),
        cluster_purity=int(counts_QP.max(axis=0, initial=0).sum()) / max(frames, 1),
    )


def codes_per_phone(counts_QP: np.ndarray) -> np.ndarray:
    """[P] number of occurring codes whose most likely phone it is; the first of equal ones."""
    used = counts_QP[counts_QP.sum(axis=1) > 0]
    return np.bincount(used.argmax(axis=1), minlength=counts_QP.shape[1])


def cosine(vectors_LQ: np.ndarray) -> np.ndarray:
    """[L, L] cosine of each two rows; 1 for equal directions."""
    unit = vectors_LQ / np.maximum(np.linalg.norm(vectors_LQ, axis=1, keepdims=True), 1e-30)
    return np.clip(unit @ unit.T, -1.0, 1.0)


def jensen_shannon(shares_LQ: np.ndarray) -> np.ndarray:
    """[L, L] Jensen-Shannon divergence of each two rows, bits: 0 equal, 1 nothing in common."""
    own = entropy(shares_LQ)
    count = len(shares_LQ)
    divergence = np.zeros((count, count))
    for a in range(count):
        for b in range(a):
            mixed = entropy((shares_LQ[a] + shares_LQ[b]) / 2)
            divergence[a, b] = divergence[b, a] = mixed - (own[a] + own[b]) / 2
    return np.clip(divergence / np.log(2), 0.0, 1.0)


def tree(divergence_LL: np.ndarray) -> np.ndarray:
    """[L - 1, 4] merges of average linkage, as of ``scipy.cluster.hierarchy``.

    Distances are the roots of the divergences, which obey the triangle inequality.
    """
    from scipy.cluster import hierarchy
    from scipy.spatial.distance import squareform

    distances = squareform(np.sqrt(divergence_LL), checks=False)
    return hierarchy.linkage(distances, "average", optimal_ordering=True)


def principal_components(vectors_LQ: np.ndarray, most: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates [L, most] on the first principal axes, and their shares of the variance.

    By singular values of the centred rows. The sign of an axis, which is arbitrary, is the one
    that makes its largest coordinate positive.
    """
    centred = vectors_LQ - vectors_LQ.mean(axis=0)
    left, sizes, _ = np.linalg.svd(centred, full_matrices=False)
    coordinates = np.zeros((len(vectors_LQ), most))
    explained = np.zeros(most)
    count = min(most, len(sizes))
    coordinates[:, :count] = left[:, :count] * sizes[:count]
    total = float(np.sum(sizes**2))
    explained[:count] = sizes[:count] ** 2 / total if total > 0 else 0.0
    largest = coordinates[np.abs(coordinates).argmax(axis=0), np.arange(most)]
    return coordinates * np.where(largest < 0, -1.0, 1.0), explained


def exclusive(counts_LQ: np.ndarray, minimum: int = MINIMUM) -> tuple[np.ndarray, np.ndarray]:
    """Codes that only one language uses: how many of each language, and their frames; both [L].

    Args:
      minimum: frames that such a code must have.
    """
    alone = ((counts_LQ > 0).sum(axis=0) == 1) & (counts_LQ.sum(axis=0) >= minimum)
    of_language = np.where(alone, counts_LQ, 0)
    return (of_language > 0).sum(axis=1), of_language.sum(axis=1)
