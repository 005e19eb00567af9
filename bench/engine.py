"""The Docker engine's API, and what it says of a container's use."""

from __future__ import annotations

import http.client
import json
import socket
from dataclasses import dataclass

SOCKET = "/var/run/docker.sock"


class Engine(http.client.HTTPConnection):
    """The Docker engine's API."""

    def __init__(self) -> None:
        super().__init__("localhost")

    def connect(self) -> None:
        """Connects to the engine's socket."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(SOCKET)


@dataclass(frozen=True)
class Use:
    """What a container uses.

    Attributes:
        cpu_seconds: Since it was started.
        mib: Of memory, without the page cache that the kernel can take back.
    """

    cpu_seconds: float
    mib: float


def use_of(container: str) -> Use:
    """Asks the engine once."""
    engine = Engine()
    engine.request("GET", f"/containers/{container}/stats?stream=false&one-shot=true")
    sample = json.loads(engine.getresponse().read())
    memory = sample["memory_stats"]
    # The names in control groups version 1 and version 2.
    cache = memory["stats"].get("total_inactive_file", memory["stats"].get("inactive_file", 0))
    cpu = sample["cpu_stats"]["cpu_usage"]["total_usage"] / 1e9
    return Use(cpu, (memory["usage"] - cache) / 2**20)
