"""Starts the guard: reads the policy and the code locations, and opens the two listeners.

The policy comes from dagster.yaml, the code locations from the workspace files.

Environment: STACK_NAME (the Compose project), COMPOSE_PROFILES (the active profiles, workspace.py),
GUARD_MAX_RUNS (the most run containers that may be alive at once), and the variables that the
section run_launcher of dagster.yaml uses.
"""

import asyncio
import os
import sys
from pathlib import Path

import yaml

from control_plane.guard.policy import Policy, PolicyError
from control_plane.guard.server import Runs, listen, listeners
from control_plane.workspace import code_servers

ENGINE = "/var/run/docker.sock"
# The launch listener and the stop listener, each on its own volume. The daemon mounts the first
# volume, the web server the second.
LAUNCH = Path("/run/guard/launch/docker.sock")
STOP = Path("/run/guard/stop/docker.sock")


async def serve(policy: Policy) -> None:
    """Serves until it is stopped."""
    project, limit = os.environ["STACK_NAME"], int(os.environ["GUARD_MAX_RUNS"])
    runs = Runs(policy, project, code_servers(), limit)
    for listener, path in zip(listeners(ENGINE, runs), (LAUNCH, STOP), strict=True):
        await listen(listener, path)
    await asyncio.Event().wait()


def main() -> None:
    """Exits with status 1 and one line when dagster.yaml cannot be enforced."""
    instance = yaml.safe_load(Path("dagster.yaml").read_text())
    try:
        policy = Policy.from_launcher(instance["run_launcher"]["config"], os.environ)
        policy.refuse_other_stacks(os.environ["STACK_NAME"])
    except PolicyError as error:
        sys.exit(f"guard: refused to start: {error}")
    asyncio.run(serve(policy))


if __name__ == "__main__":
    main()
