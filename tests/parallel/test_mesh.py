"""Mesh sizes and their errors."""

import pytest

from xlsr_jax.parallel.mesh import MeshConfig, make_mesh, mesh_shape
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


class Gpu:
    """As the CUDA client describes a device: a slice_index for each host."""

    platform, device_kind = "gpu", "stand-in"

    def __init__(self, number):
        self.id, self.process_index, self.slice_index = number, number // 4, number // 4


def test_hosts_of_gpus_are_not_slices_of_tpus():
    """Parameters are sharded over all of them, as the config says."""
    mesh = make_mesh(MeshConfig(), [Gpu(number) for number in range(8)])
    assert dict(mesh.shape) == {"replica": 1, "fsdp": 8, "tensor": 1}
    assert [device.id for device in mesh.devices.flat] == list(range(8))
