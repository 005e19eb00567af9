"""Follows runs until they end, and finds their containers."""

from __future__ import annotations

import time
from typing import Any

from cli.client import FINAL, RUN
from cli.errors import StackError
from cli.output import say
from cli.stack import Stack

TIMEOUT_SECONDS = 180


def container_of(stack: Stack, start: str) -> tuple[str, str]:
    """A run's ID, and that of its container.

    Args:
        stack: The stack that launched it.
        start: The run ID, or its beginning.

    Raises:
        StackError: No container or several belong to such runs.
    """
    found = [one for one in stack.run_containers().items() if one[0].startswith(start)]
    if len(found) > 1:
        raise StackError(f"{start} is the beginning of {len(found)} runs: give more of the run ID")
    if not found:
        raise StackError(
            f"no containers on this machine belong to run {start}: see the run's"
            f" page, {stack.ui_url}/runs, whose events and step logs outlive its container"
        )
    return found[0]


def wait_for_all(stack: Stack) -> None:
    """Waits until no run container runs. Says how many there are whenever the number changes."""
    before = 0
    while running := stack.run_containers(running_only=True):
        if len(running) != before:
            before = len(running)
            say(f"waiting for {before} runs: {', '.join(run_id[:8] for run_id in running)}")
        time.sleep(1)


def follow(stack: Stack, job: str, run_id: str) -> dict[str, Any]:
    """Prints each change of a run's status until it has ended.

    Raises:
        StackError: The run has not ended in time.
    """
    deadline = time.monotonic() + TIMEOUT_SECONDS
    status = ""
    while time.monotonic() < deadline:
        run = stack.graphql(RUN, id=run_id)["runOrError"]
        if run["status"] != status:
            status = run["status"]
            say(f"  {job} {run_id[:8]}  {status}")
        if status in FINAL:
            return run
        time.sleep(0.3)
    raise StackError(
        f"{job} is still {status} after {TIMEOUT_SECONDS} s: {stack.ui_url}/runs/{run_id}"
    )
