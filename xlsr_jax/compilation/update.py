"""The update that training runs, compiled ahead of time for devices that are not there."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from xlsr_jax.data.buckets import Shape
from xlsr_jax.parallel import mesh as meshes
from xlsr_jax.training import loop
from xlsr_jax.training.state import TrainState, abstract_state


def abstract_batch(shape: Shape, mesh: Mesh) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes, dtypes and shardings of a batch, as ``data.pipeline.Batch`` lists them."""
    place = meshes.batch_sharding(mesh)

    def array(dtype: Any, *columns: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((shape.rows, *columns), dtype, sharding=place)

    batch = {name: array(jnp.int32) for name in ("samples", "language", "row", "record")}
    batch |= {"waveform": array(jnp.float32, shape.samples), "weight": array(jnp.float32)}
    if shape.labels:
        batch |= {"labels": array(jnp.int32, shape.labels), "label_count": array(jnp.int32)}
    return batch


def compile_update(
    phase: loop.Phase, accumulation: int, mesh: Mesh, shape: Shape
) -> tuple[jax.stages.Compiled, TrainState]:
    """The compiled update, and the abstract state that it takes.

    Nothing is computed on the devices of ``mesh``; no mesh may be set by the caller.
    """
    state = abstract_state(phase.objective.init, phase.optimizer, mesh)
    key = jax.eval_shape(lambda: jax.random.key(0))
    key = jax.ShapeDtypeStruct(key.shape, key.dtype, sharding=meshes.replicated(mesh))
    update = loop.make_update(phase, accumulation)
    with jax.set_mesh(mesh):
        return update.lower(state, abstract_batch(shape, mesh), key).compile(), state


def bytes_per_device(arrays: Any) -> int:
    """Bytes that one device holds of a pytree of abstract arrays."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(arrays)
    )
