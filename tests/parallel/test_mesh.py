"""Mesh sizes and their errors."""

import pytest

from xlsr_jax.parallel.mesh import MeshConfig, mesh_shape
from xlsr_jax.schema import ConfigError


@pytest.mark.parametrize(
    ("config", "devices", "shape"),
    [
        (MeshConfig(), 8, (1, 8, 1)),
        (MeshConfig(tensor=2), 8, (1, 4, 2)),
        (MeshConfig(replica=2, tensor=2), 16, (2, 4, 2)),
        (MeshConfig(replica=-1, fsdp=4), 16, (4, 4, 1)),
        (MeshConfig(replica=1, fsdp=1, tensor=1), 1, (1, 1, 1)),
    ],
)
def test_the_free_axis_takes_what_is_left(config, devices, shape):
    assert mesh_shape(config, devices) == shape


@pytest.mark.parametrize(
    "config",
    [
        MeshConfig(tensor=3),
        MeshConfig(fsdp=4),
        MeshConfig(replica=-1),
        MeshConfig(tensor=0),
    ],
)
def test_what_does_not_fit_is_said(config):
    with pytest.raises(ConfigError, match="config.mesh"):
        mesh_shape(config, 8)
