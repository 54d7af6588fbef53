"""What the search for settings tries, and what it leaves out."""

from types import SimpleNamespace

from xlsr_jax.compilation.search import Candidate, candidates

REMATS = ("none", "dots", "layer")


def tried(fits, divides=lambda candidate: True):
    def measure(candidate):
        if not divides(candidate):
            return None
        return [SimpleNamespace(fits=fits(candidate)), SimpleNamespace(fits=True)]

    return [candidate for candidate, _ in candidates(measure, (1, 4), REMATS, (1, 2, 4))]


def test_what_fits_whole_is_not_cut_nor_recomputed():
    assert tried(lambda candidate: True) == [Candidate(1, "none", 1), Candidate(4, "none", 1)]


def test_every_policy_is_cut_until_it_fits():
    found = tried(
        lambda c: c.replica == 1 and c.accumulation >= {"none": 4, "dots": 2}.get(c.remat, 1)
    )
    assert found[:6] == [
        Candidate(1, "none", 1), Candidate(1, "none", 2), Candidate(1, "none", 4),
        Candidate(1, "dots", 1), Candidate(1, "dots", 2), Candidate(1, "layer", 1),
    ]  # fmt: skip
    assert len(found) == 6 + 9, "with four replicas nothing fits, and all of it is tried"


def test_what_does_not_divide_the_batch_is_passed_over():
    found = tried(lambda candidate: True, lambda candidate: candidate.accumulation == 2)
    assert [candidate.accumulation for candidate in found] == [2] * 6
