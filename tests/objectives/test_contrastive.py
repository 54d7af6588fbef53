"""The contrastive task against plain loops over gathered distractors."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xlsr_jax.objectives import contrastive

# Compiling is what takes the time here.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
score = jit(contrastive.score, static_argnums=5)
draw = jit(contrastive.draw_distractors, static_argnums=2)
B, M, P, K, V = 4, 12, 6, 9, 2
COUNTS = np.array([12, 7, 2, 1])  # masked frames of each row; one has too few


@functools.cache
def problem(seed=0):
    rng = np.random.default_rng(seed)
    valid = np.arange(M) < COUNTS[:, None]
    codes = rng.integers(0, V, (B, M, 2)).astype(np.int32)
    # Equal codes have equal targets, as they come from the quantizer.
    targets = rng.normal(size=(V, V, P))[codes[..., 0], codes[..., 1]].astype(np.float32)
    contexts = (rng.normal(size=(B, M, P)) + 0.7 * targets).astype(np.float32)
    distractors = np.zeros((B, M, K), np.int32)
    for b, m in np.argwhere(valid):
        others = [n for n in range(COUNTS[b]) if n != m] or [0]
        distractors[b, m] = rng.choice(others, K)
    return contexts, targets, codes, valid, distractors


def loop(contexts, targets, codes, valid, distractors, temperature):
    """The same sums in float64, each distractor's vector gathered."""
    names = ("loss", "chance_loss", "correct", "chance", "equal", "frames")
    sums = {name: np.zeros(B) for name in names}
    for b, m in np.argwhere(valid):
        if valid[b].sum() < 2:
            continue
        drawn = distractors[b, m]
        equal = np.all(codes[b, drawn] == codes[b, m], axis=-1)
        vectors = np.concatenate([targets[b, m][None], targets[b, drawn[~equal]]]).astype(float)
        context = contexts[b, m].astype(float)
        norms = np.linalg.norm(vectors, axis=1) * np.linalg.norm(context)
        scores = vectors @ context / norms / temperature
        sums["loss"][b] += np.log(np.sum(np.exp(scores - scores[0])))
        sums["chance_loss"][b] += np.log(len(scores))
        sums["correct"][b] += np.all(scores[0] > scores[1:])
        sums["chance"][b] += 1 / (1 + len({tuple(c) for c in codes[b, drawn[~equal]]}))
        sums["equal"][b] += equal.sum()
        sums["frames"][b] += 1
    return sums


@pytest.mark.parametrize("temperature", [0.1, 1.0, 0.05])
def test_scores_against_a_loop(temperature):
    scores = score(*problem(), temperature)._asdict()
    expected = loop(*problem(), temperature)
    assert expected["equal"].sum() > 10 and 0 < expected["correct"].sum() < expected["frames"].sum()
    for name, value in expected.items():
        np.testing.assert_allclose(scores[name], value, rtol=2e-5, atol=1e-5, err_msg=name)
    np.testing.assert_array_equal(scores["frames"], [12, 7, 2, 0])


def test_opposite_vectors_stay_finite():
    contexts, targets, codes, valid, distractors = problem()
    inputs = -50 * targets, targets, codes, valid, distractors
    scores, expected = score(*inputs, 0.05), loop(*inputs, 0.05)
    np.testing.assert_allclose(scores.loss, expected["loss"], rtol=2e-5)


def test_chance_is_what_random_scores_of_codes_get():
    inputs = problem()
    _, _, codes, valid, distractors = inputs
    rng, draws, right = np.random.default_rng(1), 4000, np.zeros(B)
    for b, m in np.argwhere(valid & (COUNTS > 1)[:, None]):
        scores = rng.random((draws, V, V))  # equal codes score alike
        own = scores[:, codes[b, m, 0], codes[b, m, 1]]
        drawn = codes[b, distractors[b, m]]
        drawn = drawn[np.any(drawn != codes[b, m], axis=-1)]
        right[b] += np.all(own[:, None] > scores[:, drawn[:, 0], drawn[:, 1]], axis=1).mean()
    chance = score(*inputs, 0.1).chance
    np.testing.assert_allclose(chance / COUNTS, right / COUNTS, atol=0.015)


def gathered(contexts, targets, codes, valid, distractors, temperature):
    """Summed loss of the plain form: [B, M, K, P] distractors, a softmax over 1 + K scores."""
    take = jax.vmap(lambda rows, index: rows[index])
    candidates = jnp.concatenate([targets[:, :, None], take(targets, distractors)], axis=2)
    dot = jnp.einsum("bmp,bmkp->bmk", contexts, candidates)
    norms = jnp.linalg.norm(contexts, axis=-1)[..., None] * jnp.linalg.norm(candidates, axis=-1)
    equal = jnp.all(take(codes, distractors) == codes[:, :, None], axis=-1)
    scores = dot / norms / temperature
    scores = scores.at[:, :, 1:].set(jnp.where(equal, -jnp.inf, scores[:, :, 1:]))
    nats = jax.nn.logsumexp(scores, axis=-1) - scores[..., 0]
    return jnp.sum(jnp.where(valid & (jnp.sum(valid, 1, keepdims=True) > 1), nats, 0))


def test_gradients_are_those_of_the_gathered_form():
    contexts, targets, codes, valid, distractors = problem()
    given = codes, valid, distractors, 0.1
    ours = lambda c, t: jnp.sum(contrastive.score(c, t, *given).loss)  # noqa: E731
    plain = lambda c, t: gathered(c, t, *given)  # noqa: E731
    actual = jit(jax.grad(ours, (0, 1)))(contexts, targets)
    expected = jit(jax.grad(plain, (0, 1)))(contexts, targets)
    for a, e in zip(actual, expected, strict=True):
        assert np.abs(e).max() > 0.1
        np.testing.assert_allclose(a, e, rtol=1e-4, atol=1e-5 * np.abs(e).max())
    # What is not masked, or is alone in its row, gets none.
    unused = ~valid | (COUNTS < 2)[:, None]
    assert not np.any(actual[0][unused]) and not np.any(actual[1][unused])


def test_distractors_are_uniform_over_the_other_masked_frames():
    counts, number = np.array([2, 5, 12]), 6000
    keys = jax.random.split(jax.random.key(0), 3)
    drawn = np.asarray(draw(keys, np.arange(M) < counts[:, None], number))
    for row, count in zip(drawn, counts, strict=True):
        for m in range(count):
            share = np.bincount(row[m], minlength=M) / number
            expected = np.where((np.arange(M) < count) & (np.arange(M) != m), 1 / (count - 1), 0)
            np.testing.assert_array_equal(share[expected == 0], 0)
            deviation = np.sqrt(expected * (1 - expected) / number)
            assert np.all(np.abs(share - expected) <= 4.5 * deviation)


def test_distractors_are_drawn_independently_and_row_by_row():
    keys = jax.random.split(jax.random.key(1), 3)
    valid = np.arange(M) < np.array([9, 9, 4])[:, None]
    drawn = np.asarray(draw(keys, valid, 500))
    assert np.mean(drawn[0, :9] == drawn[1, :9]) < 0.2  # two rows, at random 1 / 8
    assert np.mean(drawn[0, 0] == drawn[0, 8]) < 0.2  # two frames
    assert np.mean(drawn[0, 0, 1:] == drawn[0, 0, :-1]) == pytest.approx(1 / 8, abs=0.06)
    alone = draw(keys[1:2], valid[1:2], 500)
    np.testing.assert_array_equal(alone[0], drawn[1])
    wider = draw(keys, np.pad(valid, ((0, 0), (0, 5))), 500)
    np.testing.assert_array_equal(wider[:, :M], drawn)
