"""The quantizer against a NumPy reference: choice, straight-through gradient, perplexity."""

import jax
import jax.numpy as jnp
import numpy as np

from xlsr_jax.models.quantizer import Quantizer, perplexity

QUANTIZER = Quantizer(groups=2, codewords=5, dim=6)
FEATURES = jax.random.normal(jax.random.key(0), (3, 4, 7))
PARAMS = QUANTIZER.init(jax.random.key(1), FEATURES)
GUMBEL = jax.random.gumbel(jax.random.key(2), (3, 4, 2, 5))
UP = np.random.default_rng(0).normal(size=(3, 4, 6)).astype(np.float32)


def _softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def _logits():
    params = PARAMS["params"]["logits"]
    return (np.asarray(FEATURES) @ params["kernel"] + params["bias"]).reshape(3, 4, 2, 5)


def test_hard_choice_of_the_noisy_logits():
    codebook = np.asarray(PARAMS["params"]["codebook"])
    out = QUANTIZER.apply(PARAMS, FEATURES, GUMBEL, 2.0)
    codes = np.argmax(_logits() + GUMBEL, axis=-1)
    np.testing.assert_array_equal(out.codes, codes)
    np.testing.assert_array_equal(out.best, np.argmax(_logits(), axis=-1))
    assert (codes != np.asarray(out.best)).any()
    chosen = np.concatenate([codebook[0][codes[..., 0]], codebook[1][codes[..., 1]]], axis=-1)
    np.testing.assert_allclose(out.vectors, chosen, rtol=1e-6)
    np.testing.assert_allclose(out.probabilities, _softmax(_logits()), atol=1e-6)


def test_straight_through_gradient():
    """Codebook: of the hard choice. Logits: as if the soft sample had been used, by hand."""
    temperature = 1.3
    codebook = np.asarray(PARAMS["params"]["codebook"])

    def loss(params):
        return jnp.vdot(QUANTIZER.apply(params, FEATURES, GUMBEL, temperature).vectors, UP)

    grads = jax.grad(loss)(PARAMS)["params"]
    soft = _softmax((_logits() + GUMBEL) / temperature)
    up = UP.reshape(3, 4, 2, 3)
    dsoft = np.einsum("bmgd,gvd->bmgv", up, codebook)
    dlogits = soft * (dsoft - np.sum(soft * dsoft, -1, keepdims=True)) / temperature
    dlogits = dlogits.reshape(3, 4, 10)
    np.testing.assert_allclose(grads["logits"]["bias"], dlogits.sum((0, 1)), atol=1e-5)
    kernel = np.einsum("bmc,bmv->cv", FEATURES, dlogits)
    np.testing.assert_allclose(grads["logits"]["kernel"], kernel, atol=1e-5)
    hard = np.eye(5)[np.argmax(_logits() + GUMBEL, axis=-1)]
    expected = np.einsum("bmgv,bmgd->gvd", hard, up)
    np.testing.assert_allclose(grads["codebook"], expected, atol=1e-5)


def test_evaluation_takes_the_likeliest_and_gives_no_gradient():
    out = QUANTIZER.apply(PARAMS, FEATURES)
    np.testing.assert_array_equal(out.codes, np.argmax(_logits(), axis=-1))
    grads = jax.grad(lambda p: jnp.vdot(QUANTIZER.apply(p, FEATURES).vectors, UP))(PARAMS)
    assert not np.any(grads["params"]["logits"]["kernel"])


def test_perplexity():
    np.testing.assert_allclose(perplexity(jnp.full((2, 320), 1 / 320)), 640, rtol=1e-3)
    np.testing.assert_allclose(perplexity(jnp.eye(320)[:2]), 2, rtol=1e-3)
    p = np.array([0.5, 0.25, 0.25])
    expected = np.exp(-np.sum(p * np.log(p)))
    np.testing.assert_allclose(perplexity(jnp.array([p])), expected, rtol=1e-5)


def test_initial_distributions():
    """Codebook U(0, 1), logits' kernel N(0, 1), bias 0."""
    wide = Quantizer(groups=2, codewords=50, dim=40)
    params = wide.init(jax.random.key(0), jnp.zeros((1, 1, 30)))["params"]
    codebook, kernel = params["codebook"], params["logits"]["kernel"]
    assert codebook.min() >= 0 and 0.99 < codebook.max() <= 1
    np.testing.assert_allclose(codebook.mean(), 0.5, atol=0.02)
    np.testing.assert_allclose(kernel.std(), 1, rtol=0.03)
    assert not np.any(params["logits"]["bias"])
