"""A port and a block of addresses for each test stack, which no other test stack has.

By default Docker has addresses for about thirty networks on a machine. A test stack's networks are
small instead: a block of 1024 addresses holds all of them.
"""

import fcntl
import ipaddress
import socket
import struct
import tempfile
from pathlib import Path

FOLDER = Path(tempfile.gettempdir()) / "dagster-test-leases"
RANGE = ipaddress.ip_network("10.213.0.0/16")
BLOCKS = list(RANGE.subnets(new_prefix=22))
# The largest network is the run containers', which at most 25 are on at once.
NETWORK_PREFIX = 26
# Below the ports that the kernel gives to outgoing connections.
FIRST_PORT = 4100


class Lease:
    """One block and one port, held until it is released or this process ends."""

    def __init__(self):
        """Takes the first block that neither another lease nor a route of this machine has.

        Raises:
            RuntimeError: All are taken.
        """
        FOLDER.mkdir(exist_ok=True)
        routes = list(routed_networks())
        for number, block in enumerate(BLOCKS):
            port = FIRST_PORT + number
            file = (FOLDER / str(number)).open("w")
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.close()
                continue
            if not any(block.overlaps(route) for route in routes) and is_free(port):
                self.file, self.block, self.port = file, block, port
                return
            file.close()
        raise RuntimeError(f"no block of {RANGE} is free: docker network ls shows what uses them")

    def subnets(self, networks):
        """The part of a Compose file that gives networks their addresses."""
        small = self.block.subnets(new_prefix=NETWORK_PREFIX)
        return {
            name: {"ipam": {"config": [{"subnet": str(subnet), "gateway": str(subnet[1])}]}}
            for name, subnet in zip(networks, small, strict=False)
        }

    def release(self):
        """Lets the next stack have it."""
        self.file.close()


def routed_networks():
    """The networks that this machine has a route to, the default route left out."""
    for line in Path("/proc/net/route").read_text().splitlines()[1:]:
        fields = line.split()
        address, mask = (struct.pack("<L", int(fields[n], 16)) for n in (1, 7))
        if any(mask):
            yield ipaddress.ip_network((address, socket.inet_ntoa(mask)))


def is_free(port):
    """Whether nothing listens on a port of this machine."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
