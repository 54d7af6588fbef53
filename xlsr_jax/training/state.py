"""Everything that a run needs to go on: parameters, optimizer moments, counters."""

from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from xlsr_jax.parallel import rules

Params = dict[str, Any]


class TrainState(flax.struct.PyTreeNode):
    """The training state.

    Attributes:
      step: int32 scalar, updates made or skipped so far; batch number ``step`` comes next.
      params: nested dict of float32 arrays.
      opt_state: of the current phase's optimizer; its count starts anew with each phase.
      skipped: int32 scalar, updates left out because a loss or gradient was not finite.
      skipped_in_a_row: int32 scalar.
    """

    step: jax.Array
    params: Params
    opt_state: optax.OptState
    skipped: jax.Array
    skipped_in_a_row: jax.Array


def initial_state(
    init: Callable[[jax.Array], Params], optimizer: optax.GradientTransformation, key: jax.Array
) -> TrainState:
    """A fresh state; pure, so that it also runs under ``jax.eval_shape`` and ``jax.jit``."""
    params = init(key)
    counters = {  # an array each, because the state is donated leaf by leaf
        name: jnp.zeros((), jnp.int32) for name in ("step", "skipped", "skipped_in_a_row")
    }
    return TrainState(params=params, opt_state=optimizer.init(params), **counters)


def abstract_state(
    init: Callable[[jax.Array], Params], optimizer: optax.GradientTransformation, mesh: Mesh
) -> TrainState:
    """Shapes, dtypes and shardings: what init, restore and compilation share."""
    shapes = jax.eval_shape(lambda key: initial_state(init, optimizer, key), jax.random.key(0))
    places = rules.shardings(shapes, mesh)
    return jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
        shapes,
        places,
    )


def materialize(
    init: Callable[[jax.Array], Params],
    optimizer: optax.GradientTransformation,
    key: jax.Array,
    abstract: TrainState,
) -> TrainState:
    """A fresh state placed as ``abstract`` says; no device ever holds more than its share."""
    places = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    make = jax.jit(lambda key: initial_state(init, optimizer, key), out_shardings=places)
    return make(key)


def parameter_count(params: Params) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(params))
