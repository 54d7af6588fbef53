"""CTC against PyTorch, and greedy errors against a plain edit distance."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xlsr_jax.objectives import ctc

CLASSES = 6


def case(seed: int, length: int = 12, width: int = 5, rows: int = 8):
    random = np.random.default_rng(seed)
    logits = random.normal(0, 3, (rows, length, CLASSES)).astype(np.float32)
    frames = random.integers(1, length + 1, rows).astype(np.int32)
    # Few symbols, so that repeats are common; empty rows and infeasible ones among them.
    labels = random.integers(1, 4, (rows, width)).astype(np.int32)
    counts = random.integers(0, width + 1, rows).astype(np.int32)
    frames[0], counts[0] = 1, 1
    frames[1], counts[1] = 1, 0
    frames[2], counts[2] = 2, width
    return logits, frames, labels, counts


@pytest.mark.parametrize("seed", range(6))
def test_loss_and_gradient_equal_pytorch(seed):
    torch = pytest.importorskip("torch")
    logits, frames, labels, counts = case(seed)
    theirs = torch.tensor(logits, requires_grad=True)
    scores = torch.nn.functional.log_softmax(theirs, dim=-1).transpose(0, 1)
    expected = torch.nn.functional.ctc_loss(
        scores, torch.tensor(labels), torch.tensor(frames), torch.tensor(counts),
        reduction="none", zero_infinity=True,
    )  # fmt: skip
    weight = np.arange(1, len(logits) + 1, dtype=np.float32)
    (expected * torch.tensor(weight)).sum().backward()

    def total(logits):
        loss, _ = ctc.ctc_loss(logits, frames, labels, counts)
        return jnp.sum(loss * weight), loss

    gradient, loss = jax.jit(jax.grad(total, has_aux=True))(logits)
    np.testing.assert_allclose(loss, expected.detach().numpy(), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(gradient, theirs.grad.numpy(), rtol=1e-4, atol=1e-4)


def test_infeasible_rows_are_found_and_masked():
    labels = np.array([[1, 1, 2], [1, 2, 3], [1, 1, 1], [2, 2, 0]], np.int32)
    counts = np.array([3, 3, 3, 1], np.int32)
    assert ctc.frames_needed(labels, counts).tolist() == [4, 3, 5, 1]
    logits = np.zeros((4, 4, CLASSES), np.float32)
    logits[2] = np.nan  # what an infeasible row holds does not matter
    frames = np.array([4, 2, 4, 4], np.int32)
    loss, feasible = ctc.ctc_loss(logits, frames, labels, counts)
    assert feasible.tolist() == [True, False, False, True]
    # One path of four frames, each with probability 1/6.
    np.testing.assert_allclose(loss[0], 4 * np.log(6), rtol=1e-5)
    assert loss[1] == loss[2] == 0
    gradient = jax.grad(lambda x: ctc.ctc_loss(x, frames, labels, counts)[0].sum())(logits)
    assert np.isfinite(gradient).all() and not np.asarray(gradient)[1:3].any()


def test_a_certain_row_costs_nothing_and_never_less():
    logits = np.full((1, 3, CLASSES), -40.0, np.float32)
    for frame, symbol in enumerate((1, 0, 2)):
        logits[0, frame, symbol] = 40.0
    loss, _ = ctc.ctc_loss(logits, np.array([3]), np.array([[1, 2]]), np.array([2]))
    assert 0 <= loss[0] < 1e-5


def levenshtein(a, b):
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        before, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (x != y))
    return row[-1]


@pytest.mark.parametrize("seed", range(4))
def test_greedy_errors_equal_an_edit_distance(seed):
    logits, frames, labels, counts = case(seed, length=20, width=9, rows=16)
    errors, decoded = ctc.greedy_errors(logits, frames, labels, counts)
    for row in range(len(logits)):
        best = logits[row, : frames[row]].argmax(-1)
        kept = [s for s, t in zip(best, [0, *best[:-1]], strict=True) if s and s != t]
        assert decoded[row] == len(kept)
        assert errors[row] == levenshtein(kept, labels[row, : counts[row]].tolist())


def test_head_is_a_convolution():
    random = np.random.default_rng(0)
    x = random.normal(size=(2, 19, 3)).astype(np.float32)
    head = ctc.init_head(3, CLASSES, kernel=8)
    assert head["kernel"].shape == (8 * 3, CLASSES) and not head["kernel"].any()
    head["kernel"] = jnp.asarray(random.normal(size=(8 * 3, CLASSES)), jnp.float32)
    head["bias"] = jnp.arange(CLASSES, dtype=jnp.float32)
    logits, frames = ctc.apply_head(x, np.array([19, 11]), head, kernel=8, stride=4)
    kernel = head["kernel"].reshape(8, 3, CLASSES)
    expected = jax.lax.conv_general_dilated(
        x, kernel, (4,), "VALID", dimension_numbers=("NTC", "TIO", "NTC")
    )
    np.testing.assert_allclose(logits, expected + head["bias"], rtol=1e-5, atol=1e-5)
    assert frames.tolist() == [3, 1]
