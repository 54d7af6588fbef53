"""Modified CPC's predictors: from contexts up to t, the encoder's output at t + k.

A causal Transformer layer each (arXiv 2002.02848, section 2.1), or a matrix each (the original CPC,
arXiv 1807.03748). Suffixes are those of ``cpc``.
"""

from typing import Protocol

import jax
import jax.numpy as jnp

from xlsr_jax.models import layers
from xlsr_jax.models.dropout import dropout

# Dropout sites of predictor k follow at SITES * k.
ATTENTION, ACTIVATION, PREDICTION = range(3)
SITES = 4


class Settings(Protocol):
    """What predictors read of ``cpc.ModelConfig``, where it is explained."""

    conv_dims: tuple[int, ...]
    dim: int
    predictors: str
    steps: int
    heads: int
    ffn: int
    distances: int
    dropout: float
    prediction_dropout: float


def init(key: jax.Array, config: Settings) -> layers.Params:
    """All K predictors; leaves have a leading [K] axis, matrices are uniform by fan-in."""
    return _init_linear(key, config) if config.predictors == "linear" else _init(key, config)


def predict(
    x_BPD: jax.Array,
    params: layers.Params,
    config: Settings,
    seeds_B2: jax.Array | None,
    number: jax.Array,
) -> jax.Array:
    """[B, P, C]: what one predictor foretells from contexts, the ones up to each.

    Args:
      params: of this predictor, without the [K] axis.
      seeds_B2: of dropout; None in evaluation.
      number: of the predictor from 0, which tells its dropout from the others'.
    """
    site = SITES * number
    if config.predictors == "linear":
        y = layers.matmul(x_BPD, params["kernel"].astype(x_BPD.dtype))
    else:
        y = _transformer(x_BPD, params, config, seeds_B2, site)
    return dropout(y, config.prediction_dropout, seeds_B2, site + PREDICTION)


def _init_linear(key, config):
    shape = (config.steps, config.dim, config.conv_dims[-1])
    return {"kernel": layers.uniform_fan_in(config.dim)(key, shape)}


def _init(key, config):
    k, dim, ffn, head = config.steps, config.dim, config.ffn, config.dim // config.heads
    keys = iter(jax.random.split(key, 9))
    draw = lambda fan_in, *shape: layers.uniform_fan_in(fan_in)(next(keys), (k, *shape))  # noqa: E731
    params = {name: {"kernel": draw(dim, dim, dim)} for name in ("query", "key", "value", "out")}
    params["distance"] = draw(head, config.distances, head)
    params["ffn_in"] = {"kernel": draw(dim, dim, ffn), "bias": draw(dim, ffn)}
    params["ffn_out"] = {"kernel": draw(ffn, ffn, dim), "bias": draw(ffn, dim)}
    for name in ("attention_norm", "ffn_norm"):
        params[name] = {"scale": jnp.ones((k, dim)), "bias": jnp.zeros((k, dim))}
    return params


def _transformer(x_BPD, params, config, seeds, site):
    """One post-norm layer; a frame attends to itself and to what came before."""
    mixed = _attention(x_BPD, params, config, seeds, site + ATTENTION)
    x = layers.layer_norm(x_BPD + mixed, params["attention_norm"])
    h = jax.nn.relu(layers.linear(x, params["ffn_in"]))
    h = dropout(h, config.dropout, seeds, site + ACTIVATION)
    return layers.layer_norm(x + layers.linear(h, params["ffn_out"]), params["ffn_norm"])


def _attention(x_BPD, params, config, seeds, site):
    """softmax_j(q_i (k_j + r_{i-j}) / sqrt(d)) v_j, j <= i; r is the same for all heads."""
    batch, length, width = x_BPD.shape
    project = lambda y, name: layers.matmul(y, params[name]["kernel"].astype(y.dtype))  # noqa: E731

    def heads(name):
        y = project(x_BPD, name).reshape(batch, length, config.heads, width // config.heads)
        return jnp.swapaxes(y, 1, 2)

    query, key, value = (heads(name) for name in ("query", "key", "value"))
    scores = jnp.einsum("bhtd,bhsd->bhts", query, key, preferred_element_type=jnp.float32)
    scores = (scores + _relative(query, params["distance"])) * query.shape[-1] ** -0.5
    causal = jnp.tril(jnp.ones((length, length), bool))
    weights = jax.nn.softmax(jnp.where(causal, scores, -jnp.inf)).astype(value.dtype)
    mixed = jnp.matmul(dropout(weights, config.dropout, seeds, site), value)
    return project(jnp.swapaxes(mixed, 1, 2).reshape(batch, length, width), "out")


def _relative(query_BHTd, distance_Nd):
    """[B, H, T, T] fp32: q_i r_{i-j} at (i, j) for j <= i; above the diagonal without meaning."""
    length, known = query_BHTd.shape[2], len(distance_Nd)
    table = distance_Nd[:length]
    if length > known:
        beyond = jnp.broadcast_to(distance_Nd[-1:], (length - known, distance_Nd.shape[1]))
        table = jnp.concatenate([table, beyond])
    scores = jnp.einsum(
        "bhtd,nd->bhtn", query_BHTd, table[::-1].astype(query_BHTd.dtype),
        preferred_element_type=jnp.float32,
    )  # fmt: skip
    # Row i holds distance T - 1 first and 0 last. One more column, and rows read one shorter,
    # move row i left by T - 1 - i: nothing is gathered.
    padded = jnp.pad(scores, ((0, 0), (0, 0), (0, 0), (1, 0)))
    return padded.reshape(*scores.shape[:2], length + 1, length)[:, :, 1:]
