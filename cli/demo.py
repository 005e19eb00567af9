#!/usr/bin/env python3
"""Runs the two demonstration jobs and prints what ran where. Standard library only.

Each job is launched through GraphQL, as the web UI does it, and followed until it ends. The value
it computed is read back from the I/O storage, by a container that did not compute it.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass
from typing import Any

from stack import Stack, StackError, docker, printable, say, table

# What each job computes last, and where the default I/O manager keeps it: {run_id} for an op's
# output, nothing for an asset's.
JOBS = {
    "process_numbers": "{run_id}/sum_two_sums/result",
    "process_numbers_asset": "summed_two_sums",
}
EXPECTED = 55
TIMEOUT_SECONDS = 180
FINAL = ("SUCCESS", "FAILURE", "CANCELED")

RUN = """
query Run($id: ID!) {
  runOrError(runId: $id) { ... on Run {
    status creationTime startTime endTime tags { key value }
  } }
}
"""


@dataclass
class Result:
    """A finished run."""

    job: str
    run_id: str
    status: str
    seconds: float
    container: str
    image: str
    value: object


def follow(stack: Stack, job: str, run_id: str) -> dict[str, Any]:
    """Prints each change of a run's status until it has ended.

    Raises:
        StackError: It has not ended in time.
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


def read_value(stack: Stack, image: str, path: str) -> object:
    """Reads a pickled value from the I/O storage, in a container of the run's own image."""
    program = f"import json, pickle; print(json.dumps(pickle.load(open('/storage/{path}', 'rb'))))"
    volume = f"{stack.name}_io-storage:/storage:ro"
    return json.loads(
        docker(
            "run", "--rm", "--network=none", f"--volume={volume}", image, "python", "-c", program
        )
    )


def demonstrate(stack: Stack, job: str) -> Result:
    """Runs one job to its end."""
    run_id = stack.launch(job)
    run = follow(stack, job, run_id)
    container = stack.run_containers().get(run_id, "")
    image, value = "", None
    if container:
        image = docker("inspect", "--format", "{{.Image}}", container).strip()
    if run["status"] == "SUCCESS":
        value = read_value(stack, image, JOBS[job].format(run_id=run_id))
    seconds = run["endTime"] - run["creationTime"]
    return Result(job, run_id, run["status"], seconds, container, image, value)


def main() -> None:
    """Exits with status 0 only if both jobs succeeded with the right value."""
    stack = Stack()
    try:
        say("\nRunning the demonstration jobs, each in a container of its own:")
        results = [demonstrate(stack, job) for job in JOBS]
    except StackError as error:
        sys.exit(printable(f"demo: {error}"))
    rows = [["job", "run", "status", "launch to end", "container", "image", "value"]]
    rows += [
        [r.job, r.run_id[:8], r.status, f"{r.seconds:.1f} s", r.container[:12],
         r.image.removeprefix("sha256:")[:12], str(r.value)]
        for r in results
    ]  # fmt: skip
    say(f"\n{table(rows)}\n")
    wrong = [r for r in results if r.status != "SUCCESS" or r.value != EXPECTED]
    if wrong:
        sys.exit(f"demo: {wrong[0].job} ended as {wrong[0].status} with {wrong[0].value}, not"
                 f" {EXPECTED}: {stack.ui_url}/runs/{wrong[0].run_id}")  # fmt: skip
    print(f"Web UI: {stack.ui_url}  (make credentials says how to sign in)")


if __name__ == "__main__":
    main()
