import itertools

import numpy as np
import pytest

from xlsr_jax.data import buckets
from xlsr_jax.data.index import DataConfig, Index
from xlsr_jax.data.plan import plan_training
from xlsr_jax.schema import ConfigError


def common_voice_lengths(count: int, seed: int = 0) -> np.ndarray:
    """[count] samples: lognormal with mean 5 s, within 1 and 11 s."""
    spread = 0.4
    drawn = np.random.default_rng(seed).lognormal(np.log(5) - spread**2 / 2, spread, 4 * count)
    return (drawn[(drawn >= 1) & (drawn <= 11)][:count] * 16_000).astype(np.int32)


def plan_of(lengths, **settings):
    settings = {"batch_seconds": 1600.0} | settings
    hours = np.array([lengths.sum() / 16_000 / 3600])
    index = Index("", (), ("xx",), hours, lengths, np.zeros(len(lengths), np.int16))
    return plan_training(DataConfig(**settings), 8, index=index)


def lost(lengths, weights, chosen):
    below = np.searchsorted(chosen, lengths, side="right") - 1
    return np.sum(weights * (lengths - np.take(chosen, below)))


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_crops_discard_the_least_of_all_choices(count):
    rng = np.random.default_rng(count)
    lengths, weights = rng.integers(2300, 6500, 60), rng.random(60)
    points = [2000, *range(2320, 5500, 320), 5500]  # 400 + 320 k inside the ends
    capped = np.minimum(lengths, 5500)
    best = min(
        lost(capped, weights, np.array(choice))
        for choice in itertools.combinations(points, count)
        if choice[0] <= lengths.min()
    )
    chosen = buckets.choose_crops(lengths, weights, count, shortest=2000, longest=5500)
    assert len(chosen) <= count and set(chosen) <= set(points)
    assert lost(capped, weights, chosen) == pytest.approx(best)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_ceilings_pad_the_least_of_all_choices(count):
    lengths = np.random.default_rng(count).integers(500, 5000, 60)
    points = [*range(400, 4500, 320), 4500]
    capped = np.minimum(lengths, 4500)

    def padding(chosen):
        return np.sum(np.take(chosen, np.searchsorted(chosen, capped)) - capped)

    choices = itertools.combinations(points, count)
    best = min(padding(choice) for choice in choices if choice[-1] >= capped.max())
    chosen = buckets.choose_ceilings(lengths, count, longest=4500)
    assert len(chosen) <= count and padding(chosen) == best


def test_no_bucket_stays_empty_where_fewer_lose_nothing():
    lengths = np.array([40_080, 40_080, 80_080])
    chosen = buckets.choose_crops(lengths, np.ones(3), 6, shortest=32_000, longest=250_000)
    assert chosen == (40_080, 80_080)


def test_a_longest_crop_that_most_utterances_fill_stays_as_configured():
    lengths = np.full(100, 300_000)
    chosen = buckets.choose_crops(lengths, np.ones(100), 6, shortest=32_000, longest=250_000)
    assert chosen == (250_000,)


def test_common_voice_lengths_have_no_padding_and_little_is_discarded():
    lengths = common_voice_lengths(20_000)
    plan = plan_of(lengths)
    assert len(plan.shapes) <= 6
    kept = np.concatenate([np.concatenate(row) for row in plan.cells])
    assert sorted(kept) == list(np.flatnonzero(lengths >= 32_000))
    assert plan.left_out.tolist() == [np.sum(lengths < 32_000)]
    for length, (cell,) in zip(plan.lengths, plan.cells, strict=True):
        assert (lengths[cell] >= length).all()  # a crop fills its row: no padding at all
    cells = [cell for (cell,) in plan.cells]
    read = np.dot([len(cell) for cell in cells], plan.lengths)
    by_bucket, in_all = plan.discarded
    assert by_bucket == in_all == pytest.approx(1 - read / lengths[kept].sum())
    # Six steps from 2 to 11 s cannot lose much less; equal steps lose more.
    equal = np.linspace(32_000, lengths.max(), 7)[:6]
    assert in_all < 0.125
    assert in_all < 0.95 * lost(lengths[kept], 1, equal) / lengths[kept].sum()
    whole_frames = [(length - 400) % 320 == 0 for length in plan.lengths[1:]]
    assert all(whole_frames) and plan.lengths[0] >= 32_000
    # Rounding to whole rows costs little of the batch.
    assert plan.seconds_per_update > 0.97 * 1600


def test_rows_are_multiples_and_none_is_an_error():
    assert buckets.rows_per_batch([32_000, 250_000], 100, 4) == (48, 4)
    with pytest.raises(ConfigError, match="holds 6 crops of 15.62 s.*multiples of 8.*at least 125"):
        buckets.rows_per_batch([32_000, 250_000], 100, 8)


def test_crops_shorter_than_a_frame_are_an_error():
    lengths = np.full(10, 40_000, np.int32)
    with pytest.raises(ConfigError, match="399 is shorter than one frame"):
        plan_of(lengths, max_crop_samples=399, min_samples=399)
    with pytest.raises(ConfigError, match="min_samples 32000 must lie between"):
        plan_of(lengths, max_crop_samples=16_000)
