"""Follows a run until it ends."""

from __future__ import annotations

import time
from typing import Any

from cli.client import FINAL, RUN
from cli.errors import StackError
from cli.output import say
from cli.stack import Stack

TIMEOUT_SECONDS = 180


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
