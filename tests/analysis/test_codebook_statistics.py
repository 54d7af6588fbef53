"""Figures of codes, phones and languages, against hand counts, SciPy and plain definitions."""

import math

import numpy as np
import pytest
import scipy.stats
from scipy.spatial.distance import jensenshannon

from xlsr_jax.analysis import statistics


@pytest.fixture
def counts():
    """Four codes and five phones, sparse, and a code and a phone that never occur."""
    table = np.random.default_rng(0).poisson(1.2, (6, 6)) * 3
    table[2] = 0
    table[:, 4] = 0
    return table


@pytest.fixture
def histograms():
    found = np.random.default_rng(1).dirichlet(np.full(30, 0.3), 6)
    found[found < 1e-3] = 0
    return found / found.sum(axis=1, keepdims=True)


def test_entropy_is_that_of_scipy_in_nats(histograms):
    np.testing.assert_allclose(
        statistics.entropy(histograms), scipy.stats.entropy(histograms, axis=1), atol=1e-12
    )
    assert statistics.entropy(np.array([0.5, 0.5, 0.0])) == pytest.approx(math.log(2))


def test_usage_by_hand():
    codes = np.array([[0, 1], [2, 1], [0, 1], [2, 0]])
    used, numbers = statistics.joint(codes)
    assert used.tolist() == [[0, 1], [2, 0], [2, 1]]
    assert numbers.tolist() == [0, 2, 0, 1]
    found = statistics.usage(codes, 4)
    assert (found.frames, found.possible, found.active) == (4, 16, 3)
    assert found.perplexity == pytest.approx(2**1.5)  # 1.5 bits: 1/2, 1/4, 1/4
    assert found.group_active == (2, 2)
    three_to_one = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert found.group_perplexity == pytest.approx((2.0, math.exp(three_to_one)))


def test_table_counts_pairs():
    found = statistics.table(np.array([0, 1, 1, 1]), np.array([2, 0, 0, 1]), 3, 4)
    assert found.tolist() == [[0, 0, 1, 0], [2, 1, 0, 0], [0, 0, 0, 0]]


def test_agreement_by_hand():
    found = statistics.agreement(np.array([[3, 1], [0, 4], [0, 0], [2, 0]]))
    mixed = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    of_codes = -(2 * 0.4 * math.log(0.4) + 0.2 * math.log(0.2))
    assert (found.frames, found.codes, found.phones) == (10, 3, 2)
    assert found.mean_entropy == pytest.approx(mixed / 3)
    assert found.conditional_entropy == pytest.approx(0.4 * mixed)
    assert found.phone_entropy == pytest.approx(math.log(2))
    assert found.code_entropy == pytest.approx(of_codes)
    information = math.log(2) - 0.4 * mixed
    assert found.mutual_information == pytest.approx(information)
    assert found.nmi == pytest.approx(2 * information / (math.log(2) + of_codes))
    assert found.phone_purity == pytest.approx(0.9)  # 3 + 4 + 2 of 10
    assert found.cluster_purity == pytest.approx(0.7)  # 3 + 4 of 10


def test_mutual_information_is_the_sum_over_cells(counts):
    found, total = statistics.agreement(counts), counts.sum()
    information = 0.0
    for (row, column), count in np.ndenumerate(counts):
        if count:
            product = counts[row].sum() * counts[:, column].sum()
            information += count / total * math.log(count * total / product)
    assert information > 0.05
    assert found.mutual_information == pytest.approx(information)
    entropies = [scipy.stats.entropy(counts.sum(axis=axis)) for axis in (0, 1)]
    assert found.nmi == pytest.approx(information / np.mean(entropies))


def test_ends_of_agreement():
    same = statistics.agreement(np.diag([4, 1, 5]))
    assert (same.nmi, same.phone_purity, same.mean_entropy) == (pytest.approx(1.0), 1.0, 0.0)
    nothing = statistics.agreement(np.outer([1, 2, 3], [2, 2]))
    assert nothing.mutual_information == pytest.approx(0.0, abs=1e-12)
    assert nothing.phone_purity == 0.5


def test_codes_per_phone_counts_each_code_once():
    table = np.array([[5, 1, 0], [0, 2, 1], [0, 0, 0], [3, 0, 0], [1, 1, 0]])
    assert statistics.codes_per_phone(table).tolist() == [3, 1, 0]


def test_similarities_against_scipy(histograms):
    divergence, cosine = statistics.jensen_shannon(histograms), statistics.cosine(histograms)
    for a in range(len(histograms)):
        for b in range(len(histograms)):
            one, other = histograms[a], histograms[b]
            assert divergence[a, b] == pytest.approx(jensenshannon(one, other, 2) ** 2, abs=1e-12)
            lengths = math.sqrt((one @ one) * (other @ other))
            assert cosine[a, b] == pytest.approx(one @ other / lengths)
    apart = statistics.jensen_shannon(np.array([[1.0, 0, 0], [0, 0.5, 0.5]]))
    np.testing.assert_allclose(apart, [[0, 1], [1, 0]], atol=1e-12)


def test_tree_joins_the_nearest_and_averages():
    distances = np.array([[0, 0.2, 0.6, 0.9], [0.2, 0, 0.4, 0.7],
                          [0.6, 0.4, 0, 0.3], [0.9, 0.7, 0.3, 0]])  # fmt: skip
    merges = statistics.tree(distances**2)  # it takes the roots of divergences
    assert [sorted(pair) for pair in merges[:, :2].tolist()] == [[0, 1], [2, 3], [4, 5]]
    np.testing.assert_allclose(merges[:, 2], [0.2, 0.3, (0.6 + 0.9 + 0.4 + 0.7) / 4])


def test_principal_components_are_those_of_the_covariance(histograms):
    found, explained = statistics.principal_components(histograms)
    centred = histograms - histograms.mean(axis=0)
    values, vectors = np.linalg.eigh(centred.T @ centred)
    expected = centred @ vectors[:, ::-1][:, :2]
    np.testing.assert_allclose(np.abs(found), np.abs(expected), atol=1e-10)
    np.testing.assert_allclose(explained, values[::-1][:2] / values.sum(), atol=1e-10)
    largest = found[np.abs(found).argmax(axis=0), [0, 1]]
    assert (largest > 0).all()


def test_one_pair_of_languages_has_one_axis():
    found, explained = statistics.principal_components(np.array([[1.0, 0.0], [0.0, 1.0]]))
    np.testing.assert_allclose(explained, [1.0, 0.0], atol=1e-12)
    assert abs(found[0, 0] - found[1, 0]) == pytest.approx(math.sqrt(2))


def test_exclusive_codes_have_one_language_and_enough_frames():
    counts = np.array([[12, 0, 9, 5, 0], [0, 30, 0, 5, 0], [0, 11, 0, 0, 10]])
    codes, frames = statistics.exclusive(counts, minimum=10)
    assert codes.tolist() == [1, 0, 1]
    assert frames.tolist() == [12, 0, 10]
