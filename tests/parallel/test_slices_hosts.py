"""Real slices, as the TPU's compiler describes them: every host reads one part of a batch."""

import numpy as np
import pytest

from xlsr_jax.compilation import child
from xlsr_jax.parallel import mesh as meshes
from xlsr_jax.parallel import topology

CASES = (  # slice, how many, replica, tensor
    ("v4-8", 1, 1, 1), ("v4-32", 1, 1, 1), ("v4-64", 1, 1, 1), ("v4-64", 1, 8, 1),
    ("v4-64", 1, 4, 2), ("v4-512", 1, 1, 1), ("v4-512", 1, 1, 2), ("v4-1024", 1, 1, 4),
    ("v5e-64", 1, 1, 1), ("v5p-64", 1, 1, 1), ("v6e-64", 1, 1, 2), ("v4-64", 2, 2, 1),
    ("v4-64", 2, 4, 2), ("v5e-64", 2, 2, 2), ("v4-512", 2, 2, 2),
)  # fmt: skip


@pytest.mark.aot
def test_a_host_holds_one_part_of_the_rows(root, monkeypatch):
    pytest.importorskip("libtpu")
    monkeypatch.chdir(root)
    # Not in this process: the TPU's library would take its signals.
    child.call("tests.parallel.test_slices_hosts:check")


def check() -> None:
    for name, slices, replica, tensor in CASES:
        devices = topology.describe(topology.parse(name, slices))
        mesh = meshes.make_mesh(meshes.MeshConfig(replica, -1, tensor), devices)
        assert set(mesh.devices.flat) == set(devices)
        rows = meshes.data_parallel(mesh)
        places = meshes.batch_sharding(mesh).devices_indices_map((rows,))
        holders = np.zeros(rows, int)
        for process in {device.process_index for device in devices}:
            part, parts = meshes.host_rows(mesh, process)
            count = rows // parts
            mine = set(range(part * count, (part + 1) * count))
            theirs = {places[x][0].start or 0 for x in devices if x.process_index == process}
            assert theirs == mine, (name, process)
            holders[list(mine)] += 1
        # Hosts share rows where a tensor axis reaches across them, all of them equally many.
        assert holders.min() == holders.max() >= 1, name
        for group in mesh.devices.reshape(slices, -1) if slices > 1 else ():
            assert len({device.slice_index for device in group}) == 1
