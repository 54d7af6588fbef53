"""Span masks against the published statistics and against fairseq's sampling done in NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xlsr_jax.objectives import masking

SPANS = {"prob": 0.65, "span": 10, "min_spans": 2}


# Compiling is what takes the time here.
@functools.partial(
    jax.jit,
    static_argnums=(2, 3, 4, 5),
    compiler_options={"xla_backend_optimization_level": 0},
)
def _draw(keys, valid, length, prob, span, min_spans):
    return masking.span_mask(keys, valid, length, prob=prob, span=span, min_spans=min_spans)


def draw(valid, length, seed=0, keys=None, **changed):
    """[rows, length] bool, one row for each number of valid frames."""
    keys = jax.random.split(jax.random.key(seed), len(valid)) if keys is None else keys
    settings = SPANS | changed
    return np.asarray(_draw(keys, jnp.asarray(valid, jnp.int32), length, *settings.values()))


def reference(rng, valid, prob, span, min_spans):
    """fairseq's sampling of one row, but for starts that the row does not have."""
    spans = max(int(np.floor(prob * valid / span + rng.random())), min_spans)
    starts = valid - span if valid - span > spans else min(spans + 1, valid)
    mask = np.zeros(valid, bool)
    for start in rng.choice(starts, min(spans, starts), replace=False):
        mask[start : start + span] = True
    return mask


@pytest.mark.parametrize(
    "prob, share, run", [(0.65, 0.491, 14.7), (0.75, 0.544, 15.8), (0.5, 0.402, 13.3)]
)
def test_published_statistics(prob, share, run):
    mask = draw(np.full(3000, 781), 781, prob=prob)
    runs = np.sum(mask[:, 0]) + np.sum(mask[:, 1:] & ~mask[:, :-1])
    assert mask.mean() == pytest.approx(share, abs=0.002)
    assert mask.sum() / runs == pytest.approx(run, abs=0.12)


def test_every_frame_is_masked_as_often_as_in_the_reference():
    lengths, rows = (3, 8, 11, 12, 13, 14, 25, 60), 4000
    masks = draw(np.repeat(lengths, rows), 60).reshape(len(lengths), rows, 60)
    rng = np.random.default_rng(0)
    for length, mask in zip(lengths, masks, strict=True):
        expected = np.array([reference(rng, length, **SPANS) for _ in range(rows)])
        deviation = np.sqrt(0.5 / rows)  # at most, of a difference of two shares
        np.testing.assert_allclose(
            mask[:, :length].mean(0), expected.mean(0), atol=4 * deviation, err_msg=f"{length}"
        )
        counts, wanted = (
            np.bincount(m.sum(1), minlength=61) / rows for m in (mask[:, :length], expected)
        )
        np.testing.assert_allclose(counts, wanted, atol=4 * deviation, err_msg=f"{length}")


def test_every_length_gets_a_mask_within_its_frames():
    lengths = np.repeat(np.arange(1, 41), 50)
    mask = draw(lengths, 45)
    assert np.all(mask.any(axis=1))
    assert not np.any(mask & (np.arange(45) >= lengths[:, None]))
    assert not draw([0], 45).any()
    for length in (1, 9):  # without padding too
        assert draw([length], length).any()


def test_no_span_starts_within_the_last_span_of_frames():
    lengths = np.repeat(np.arange(20, 70, 7), 400)
    mask = draw(lengths, 80)
    ends = np.array([np.flatnonzero(row).max() for row in mask])
    # The last start is length - 11, and so the last masked frame length - 2.
    assert np.all(ends <= lengths - 2)
    assert np.all([np.any(ends[lengths == n] == n - 2) for n in range(20, 70, 7)])
    # Each span is whole: cut at neither end, runs have 10 frames or more.
    edges = np.diff(np.pad(mask, ((0, 0), (1, 1))).astype(int), axis=1)
    begin, end = np.argwhere(edges == 1), np.argwhere(edges == -1)
    assert np.min(end[:, 1] - begin[:, 1]) == 10


def test_number_of_spans_is_rounded_at_random_with_a_minimum():
    # Spans of one frame do not overlap: as many masked frames as spans.
    count = draw(np.full(4000, 51), 51, prob=0.25, span=1, min_spans=2).sum(axis=1)
    assert set(count) == {12, 13}
    assert np.mean(count == 13) == pytest.approx(0.75, abs=0.03)
    assert set(draw(np.full(200, 51), 51, prob=0.0, span=1, min_spans=5).sum(axis=1)) == {5}
    assert not draw(np.full(20, 51), 51, prob=0.0, min_spans=0).any()


def test_a_row_does_not_depend_on_its_batch():
    lengths = np.arange(1, 65)
    keys = jax.random.split(jax.random.key(3), 64)
    mask = draw(lengths, 64, keys=keys)
    np.testing.assert_array_equal(draw(lengths[::-1], 64, keys=keys[::-1])[::-1], mask)
    np.testing.assert_array_equal(draw(lengths[20:25], 64, keys=keys[20:25]), mask[20:25])
    # Nor on the padding.
    np.testing.assert_array_equal(draw(lengths, 90, keys=keys)[:, :64], mask)
    # And rows of the same length are not alike.
    same = draw(np.full(200, 200), 200)
    assert len(np.unique(same, axis=0)) == 200


def test_masked_frames_are_gathered_in_order_within_the_bound():
    lengths = np.repeat([1, 5, 12, 40, 64], 200)
    mask = draw(lengths, 64)
    bound = masking.most_masked(64, 0.65, 10, 2)
    assert mask.sum(axis=1).max() <= bound <= 64
    masked = masking.gather_masked(jnp.asarray(mask), bound)
    for row, positions, valid in zip(*map(np.asarray, masked), strict=True):
        np.testing.assert_array_equal(positions[valid], np.flatnonzero(row))
        assert not valid[np.sum(row) :].any()
        assert len(np.unique(positions)) == bound  # beyond them other frames, none twice


def test_the_bound_holds_where_spans_cannot_overlap():
    for length in (51, 101):
        count = draw(np.full(500, length), length, prob=0.3, span=1, min_spans=0).sum(axis=1)
        assert count.max() == masking.most_masked(length, 0.3, 1, 0)
