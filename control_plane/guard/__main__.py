"""Starts the guard: the policy from dagster.yaml, a door on each of its two networks.

Environment: STACK_NAME, the Compose project; GUARD_LOCATIONS, its services that are code locations,
separated by blanks; GUARD_MAX_RUNS, how many run containers may be alive at once; and what
dagster.yaml names.
"""

import asyncio
import os
import socket
import sys
from pathlib import Path

import yaml

from control_plane.guard.policy import Policy, PolicyError
from control_plane.guard.server import Runs, doors, listen

SOCKET = "/var/run/docker.sock"
PORT = 2375
# The guard's own names on the two networks: each door listens on that network's address only.
DAEMON_SIDE, WEBSERVER_SIDE = "guard-launch", "guard-stop"


async def serve(policy: Policy) -> None:
    """Serves until stopped."""
    project, locations = os.environ["STACK_NAME"], os.environ["GUARD_LOCATIONS"].split()
    runs = Runs(policy, project, locations, int(os.environ["GUARD_MAX_RUNS"]))
    for door, name in zip(doors(SOCKET, runs), (DAEMON_SIDE, WEBSERVER_SIDE), strict=True):
        await listen(door, socket.gethostbyname(name), PORT)
    await asyncio.Event().wait()


def main() -> None:
    """Exits with status 1 and one line when dagster.yaml cannot be enforced."""
    instance = yaml.safe_load(Path("dagster.yaml").read_text())
    try:
        policy = Policy.from_launcher(instance["run_launcher"]["config"], os.environ)
    except PolicyError as error:
        sys.exit(f"guard: refused to start: {error}")
    asyncio.run(serve(policy))


if __name__ == "__main__":
    main()
