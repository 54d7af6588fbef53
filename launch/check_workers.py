"""Do all workers see their devices, and each other? Run on every host of a slice at once."""

import argparse
import socket
import sys


def main() -> None:
    """Joins the hosts, lets each device add one, and says what was seen.

    Exits with 1 and one line where devices or hosts are missing, or the sum is another.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hosts", type=int, required=True, help="hosts that there must be")
    parser.add_argument("--devices", type=int, required=True, help="devices on all of them")
    parser.add_argument("--coordinator", default="", help="host:port, to join by hand")
    parser.add_argument("--process_id", type=int, default=-1)
    arguments = parser.parse_args()

    from xlsr_jax import runtime

    by_hand = arguments.hosts if arguments.coordinator else 0
    runtime.start(arguments.coordinator, by_hand, arguments.process_id, distributed=True)

    import jax
    import numpy as np
    from jax.experimental import multihost_utils

    # Each host adds its number of devices and its own number: a host seen twice does not go by.
    mine = np.array([jax.local_device_count(), jax.process_index() + 1])
    devices, numbers = multihost_utils.process_allgather(mine).reshape(-1, 2).sum(axis=0)
    hosts = arguments.hosts
    where = f"{socket.gethostname()}, host {jax.process_index()} of {jax.process_count()}"
    if (devices, numbers) != (arguments.devices, hosts * (hosts + 1) // 2):
        sys.exit(
            f"{where}: {devices} devices on {jax.process_count()} host(s) answer, the table says "
            f"{arguments.devices} on {hosts}; is XLSR_ACCELERATOR what was created?"
        )
    print(f"{where}: {jax.local_device_count()} of {devices} devices, the sum agrees")


if __name__ == "__main__":
    main()
