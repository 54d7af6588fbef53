"""The positional convolution in the frequency domain, and in pairs, against the plain one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xlsr_jax.models import positional_convolution as position


@pytest.mark.parametrize("form", [position.in_frequency, position.in_pairs])
@pytest.mark.parametrize(("length", "kernel"), [(1, 8), (5, 8), (20, 8), (21, 8), (20, 7)])
def test_another_form_is_the_convolution(length, kernel, form):
    x = jax.random.normal(jax.random.key(0), (2, length, 12))
    weight = jax.random.normal(jax.random.key(1), (kernel, 3, 12))
    g = jax.random.normal(jax.random.key(2), (2, length, 12))

    def run(convolve):
        loss = lambda x, w: jnp.vdot(convolve(x, w, 4), g)  # noqa: E731
        return convolve(x, weight, 4), jax.grad(loss, argnums=(0, 1))(x, weight)

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=5e-5),
        run(form),
        run(position.directly),
    )


def test_the_plain_form_is_the_sum_it_says():
    """y[t] = sum_j w[j] x[t + j - k // 2], each group by itself."""
    x, weight = np.random.default_rng(0).normal(size=(1, 9, 4)), np.zeros((6, 2, 4))
    weight[:] = np.random.default_rng(1).normal(size=weight.shape)
    expected = np.zeros((9, 4))
    for t in range(9):
        for j in range(6):
            if 0 <= t + j - 3 < 9:
                for group in range(2):
                    part = slice(2 * group, 2 * group + 2)
                    expected[t, part] += x[0, t + j - 3, part] @ weight[j, :, part]
    y = position.directly(jnp.float32(x), jnp.float32(weight), 2)[0]
    np.testing.assert_allclose(y, expected, atol=1e-5)


def test_weight_norm_is_taken_per_tap():
    params = position.init(jax.random.key(0), 5, 6, 2)
    params["weight_g"] = jnp.arange(1.0, 6.0).reshape(5, 1, 1)
    norms = np.sqrt(np.sum(np.square(position.weight(params)), axis=(1, 2)))
    np.testing.assert_allclose(norms, np.arange(1, 6), rtol=1e-6)


def test_initial_distribution():
    """v ~ N(0, sqrt(4 / (k D))), and g is the norm of v: the weight starts as v."""
    params = position.init(jax.random.key(0), 32, 64, 4)
    np.testing.assert_allclose(params["weight_v"].std(), np.sqrt(4 / (32 * 64)), rtol=0.02)
    np.testing.assert_allclose(position.weight(params), params["weight_v"], rtol=1e-5)
