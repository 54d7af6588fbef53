"""The small pieces: values against SciPy, hand-written gradients against plain differentiation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import erf

from xlsr_jax.models import layers


def _normal(*shape, seed=0):
    return jax.random.normal(jax.random.key(seed), shape)


def test_gelu_is_the_exact_one():
    x = np.linspace(-6, 6, 1001)
    expected = 0.5 * x * (1 + erf(x / np.sqrt(2)))
    np.testing.assert_allclose(layers.gelu(jnp.float32(x)), expected, atol=1e-6)
    slope = jax.vmap(jax.grad(layers.gelu))(jnp.float32(x))
    density = np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi)
    np.testing.assert_allclose(slope, 0.5 * (1 + erf(x / np.sqrt(2))) + x * density, atol=1e-6)


def test_layer_norm_and_its_gradient():
    x, g = 3 + 2 * _normal(2, 5, 8), _normal(2, 5, 8, seed=1)
    params = {"scale": 1 + _normal(8, seed=2), "bias": _normal(8, seed=3)}

    def plain(x, params):
        mean, variance = jnp.mean(x, -1, keepdims=True), jnp.var(x, -1, keepdims=True)
        return (x - mean) / jnp.sqrt(variance + 1e-5) * params["scale"] + params["bias"]

    np.testing.assert_allclose(layers.layer_norm(x, params), plain(x, params), atol=1e-5)
    ours = jax.grad(lambda *a: jnp.vdot(layers.layer_norm(*a), g), argnums=(0, 1))(x, params)
    expected = jax.grad(lambda *a: jnp.vdot(plain(*a), g), argnums=(0, 1))(x, params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), ours, expected)


def test_matmul_gradient():
    x, kernel, g = _normal(3, 4, 5), _normal(5, 6, seed=1), _normal(3, 4, 6, seed=2)
    ours = jax.grad(lambda *a: jnp.vdot(layers.matmul(*a), g), argnums=(0, 1))(x, kernel)
    expected = jax.grad(lambda *a: jnp.vdot(jnp.matmul(*a), g), argnums=(0, 1))(x, kernel)
    for a, b in zip(ours, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("scale", [0.0, 0.1, 1.0])
def test_scale_gradient(scale):
    value, slope = jax.value_and_grad(lambda x: layers.scale_gradient(x, scale) ** 2)(3.0)
    assert value == 9.0
    np.testing.assert_allclose(slope, 6.0 * scale, rtol=1e-6)
