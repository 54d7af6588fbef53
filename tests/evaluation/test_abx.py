import itertools
import math
import time
from statistics import fmean

import numpy as np
import pytest

from xlsr_jax.evaluation import abx as module
from xlsr_jax.evaluation.abx import Item, abx, frame_distances, items_of, warp


def cheapest_path(costs):
    """Mean cost of the least (cost, cells) of all paths, each of them walked."""
    rows, columns = costs.shape

    def paths(i, j):
        if (i, j) == (rows - 1, columns - 1):
            yield costs[i, j], 1
        for down, right in ((1, 0), (0, 1), (1, 1)):
            if i + down < rows and j + right < columns:
                for cost, cells in paths(i + down, j + right):
                    yield cost + costs[i, j], cells + 1

    cost, cells = min(paths(0, 0))
    return cost / cells


def angle(one, other):
    norms = math.sqrt(sum(v * v for v in one) * sum(v * v for v in other))
    cosine = sum(v * w for v, w in zip(one, other, strict=True)) / norms
    return math.acos(max(-1.0, min(1.0, cosine))) / math.pi


def slow_abx(items, features, across):
    """Error by the words of the protocol, one triplet after another."""

    def distance(one, other):
        frames = [features[item.utterance][item.start : item.end].tolist() for item in (one, other)]
        return cheapest_path(np.array([[angle(x, y) for y in frames[1]] for x in frames[0]]))

    cells = {}
    for a, b, x in itertools.permutations(items, 3):
        contexts = {(item.previous, item.following) for item in (a, b, x)}
        fits = len(contexts) == 1 and a.phone == x.phone != b.phone and a.speaker == b.speaker
        if fits and across == (x.speaker != a.speaker):
            score = np.sign(round(distance(a, x) - distance(b, x), 9)) / 2 + 0.5
            pair, speakers = (a.phone, b.phone), (a.speaker, x.speaker)
            by_speakers = cells.setdefault(pair, {}).setdefault(speakers, {})
            by_speakers.setdefault(contexts.pop(), []).append(score)
    return fmean(
        fmean(fmean(fmean(scores) for scores in contexts.values()) for contexts in pair.values())
        for pair in cells.values()
    )


def made(rows, seed=0, width=3):
    """Items (speaker, phone, previous, following, frames) of random features, one after another."""
    rng = np.random.default_rng(seed)
    items, at = [], 0
    for speaker, phone, previous, following, frames in rows:
        items.append(Item("u", speaker, phone, previous, following, at, at + frames))
        at += frames
    return items, {"u": rng.normal(size=(at, width)).astype(np.float32)}


def points(rows):
    """One-frame items (speaker, phone, context, angle in degrees)."""
    items = [
        Item("u", speaker, phone, context, "t", number, number + 1)
        for number, (speaker, phone, context, _) in enumerate(rows)
    ]
    angles = np.radians([row[-1] for row in rows])
    return items, {"u": np.stack([np.cos(angles), np.sin(angles)], axis=1)}


def test_frame_distances_are_angles_in_half_turns():
    one = np.array([[1.0, 0], [0, 3], [0, 0]])
    other = np.array([[2.0, 0], [-1, 0], [1, 1]])
    expected = [[0, 1, 0.25], [0.5, 0.5, 0.25], [0.5, 0.5, 0.5]]
    np.testing.assert_allclose(frame_distances(one, other), expected, atol=1e-8)


@pytest.mark.parametrize("levels", [3, 1000])  # few levels make many equal paths
def test_warp_is_the_least_of_all_paths(levels):
    rng = np.random.default_rng(levels)
    rows, columns = rng.integers(1, 6, (2, 40))
    costs = rng.integers(0, levels, (40, 5, 5)) / 8
    expected = [
        cheapest_path(cost[:n, :m]) for cost, n, m in zip(costs, rows, columns, strict=True)
    ]
    np.testing.assert_allclose(warp(costs, rows, columns), expected, rtol=1e-12)
    swapped = warp(np.swapaxes(costs, 1, 2), columns, rows)
    np.testing.assert_allclose(swapped, expected, rtol=1e-12)


def test_known_errors():
    # Two phones at 0 and 90 degrees, 10 apart within each: no error.
    apart = [("s", "a", "c", 0), ("s", "a", "c", 10), ("s", "b", "c", 80), ("s", "b", "c", 90)]
    result = abx(*points(apart), across=False)
    assert (result.error, result.pairs, result.triplets) == (0.0, 2, 8)
    # All alike: every triplet is a tie.
    alike = [("s", phone, "c", 30) for phone in "aabb"]
    assert abx(*points(alike), across=False).error == 0.5
    # Each token nearest to those of the other phone.
    crossed = [
        ("s", phone, "c", turn) for phone, turn in zip("aabb", (0, 180, 90, 270), strict=True)
    ]
    assert abx(*points(crossed), across=False).error == 1.0
    # A phone moves with the speaker: to the place of the other phone.
    moved = [("s", "a", "c", 0), ("s", "b", "c", 90), ("t", "a", "c", 90), ("t", "b", "c", 0)]
    result = abx(*points(moved), across=True)
    assert (result.error, result.pairs, result.triplets) == (1.0, 2, 4)
    # No two tokens of a phone by one speaker; no two phones in one context.
    assert math.isnan(abx(*points(moved), across=False).error)
    lone = [("s", "a", "c", 0), ("s", "a", "c", 1), ("s", "b", "d", 90)]
    assert abx(*points(lone), across=False).triplets == 0


def test_contexts_then_speakers_then_pairs_are_averaged():
    rows = [
        # s, c: A and X of a at 0, 10, 30; B at 35. Wrong are (0, X 30), (10, X 30): 2 of 6.
        *[("s", "a", "c", degrees) for degrees in (0, 10, 30)], ("s", "b", "c", 35),
        # s, d: a at 0 and 10, b at 90: 0 of 2.
        *[("s", "a", "d", degrees) for degrees in (0, 10)], ("s", "b", "d", 90),
        # t, c: a at 0 and 60, b at 30: d(A, X) = 60 > 30 both times: 2 of 2.
        *[("t", "a", "c", degrees) for degrees in (0, 60)], ("t", "b", "c", 30),
        # t, c, and phone e against b: b has one token, so there is (e, b) but no (b, e); (a, e)
        # has X 0: 60 < 150, X 60: 60 < 90, no error; (e, a): d 0, no error; (e, b): no error.
        *[("t", "e", "c", degrees) for degrees in (150, 150)],
    ]  # fmt: skip
    result = abx(*points(rows), across=False)
    a_b = ((2 / 6 + 0) / 2 + 1) / 2
    a_e, e_a, e_b = 0, 0, 0
    assert result.error == pytest.approx((a_b + a_e + e_a + e_b) / 4, abs=1e-12)
    assert (result.pairs, result.triplets) == (4, 6 + 2 + 2 + 4 + 4 + 2)


@pytest.mark.parametrize("across", [False, True])
def test_against_the_protocol_in_words(across):
    rng = np.random.default_rng(2)
    rows = [
        ("sstu"[rng.integers(4)], "abe"[rng.integers(3)], "pq"[rng.integers(2)], "k", n)
        for n in rng.integers(1, 5, 44)
    ]
    items, features = made(rows)
    result = abx(items, features, across, max_per_cell=0)
    assert result.error == pytest.approx(slow_abx(items, features, across), abs=1e-9)
    order = rng.permutation(len(items))
    shuffled = abx([items[n] for n in order], features, across, max_per_cell=0)
    assert shuffled.error == pytest.approx(result.error, abs=1e-12)


def test_blocks_change_nothing(monkeypatch):
    rng = np.random.default_rng(4)
    rows = [
        ("s", "ab"[n % 2], "p", "k", frames) for n, frames in enumerate(rng.integers(1, 30, 30))
    ]
    items, features = made(rows, width=7)
    whole = abx(items, features, False)
    monkeypatch.setattr(module, "_CELLS", 1000)
    monkeypatch.setattr(module, "_VALUES", 500)
    assert abx(items, features, False) == whole


def random_items(tokens, seed, width=8):
    rng = np.random.default_rng(seed)
    rows = [
        ("stu"[rng.integers(3)], "abe"[rng.integers(3)], "pq"[rng.integers(2)], "k", frames)
        for frames in rng.integers(3, 9, tokens)
    ]
    return made(rows, seed, width)


@pytest.mark.parametrize("across", [False, True])
def test_random_features_are_at_chance(across):
    result = abx(*random_items(400, 3), across)
    assert result.triplets == 100 * result.pairs * 2 * (6 if across else 3)  # all cells are cut
    assert abs(result.error - 0.5) < 0.03


def test_the_seed_fixes_the_triplets():
    items, features = random_items(200, 5)
    results = [abx(items, features, False, 20, seed) for seed in (0, 0, 1)]
    assert results[0] == results[1] != results[2]
    assert results[0].triplets == 20 * 6 * 6 == results[2].triplets
    whole = abx(items, features, False, 0).error
    assert all(abs(result.error - whole) < 0.05 for result in results)


def test_items_are_frames_by_their_centres():
    # Frames of 400 samples every 320: centres 200, 520, 840, ...
    phones = [
        *[("p", 0, 1000), ("a", 1000, 2120), ("t", 2120, 3000), ("sil", 3000, 4000)],
        *[("k", 4000, 5000), ("e", 5000, 6000), ("s", 6000, 6900), ("o", 7300, 8300)],
    ]
    names = {"utterance": "u", "speaker": "s"}
    items = items_of(phones, **names, frames=25)
    assert items == [
        Item("u", "s", "a", "p", "t", 0, 9),  # centres 200 to 2760
        Item("u", "s", "e", "k", "s", 12, 21),  # 4040 to 6600; o comes after a pause
    ]
    alone = items_of(phones, **names, frames=25, with_context=False)
    assert [(item.start, item.end) for item in alone] == [(3, 6), (15, 19)]
    # As m-CPC: centres 192.5 - 153, and every 160.
    padded = items_of(phones, **names, frames=50, window=465, hop=160, pad=3 + 10 + 20 + 40 + 80)
    assert (padded[0].start, padded[0].end) == (0, 19)
    # Samples after the last centre are no reason to lose the last token; lost frames are.
    assert items_of(phones, **names, frames=20)[-1].end == 20
    assert [item.phone for item in items_of(phones, **names, frames=19)] == ["a"]


def test_errors():
    items, features = random_items(60, 0)
    with pytest.raises(ValueError, match="'u' has items but no features"):
        abx(items, {}, False)
    with pytest.raises(ValueError, match="frames .* are wanted; there are 50"):
        abx(items, {"u": features["u"][:50]}, False)
    with pytest.raises(ValueError, match="not finite"):
        abx(items, {"u": features["u"] * np.nan}, False)


def test_ten_thousand_triplets_take_seconds():
    items, features = random_items(2000, 1, width=256)
    began = time.process_time()
    assert abx(items, features, False, 600).triplets >= 10_000
    assert time.process_time() - began < 20
