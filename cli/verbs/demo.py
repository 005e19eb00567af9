"""Start the stack, run the two demonstration jobs, and show what ran where.

It launches each job through GraphQL, as the web UI does, and follows the run until it ends. Another
container then reads the computed value from the I/O storage.
"""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from dataclasses import dataclass

from cli import containers
from cli.errors import StackError
from cli.output import say, table
from cli.runs import follow
from cli.stack import Stack, docker
from cli.verbs import up

# What each job computes last, and where the default I/O manager keeps it: {run_id} for an op's
# output, nothing for an asset's.
JOBS = {
    "process_numbers": "{run_id}/sum_two_sums/result",
    "process_numbers_asset": "summed_two_sums",
}
EXPECTED = 55


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


def demonstrate(stack: Stack, job: str) -> Result:
    """Runs one job to its end."""
    run_id = stack.launch(job)
    run = follow(stack, job, run_id)
    container = stack.run_containers().get(run_id, "")
    image, value = "", None
    if container:
        image = docker("inspect", "--format", "{{.Image}}", container).strip()
    if run["status"] == "SUCCESS":
        path = JOBS[job].format(run_id=run_id)
        value = json.loads(docker(*containers.read_value(f"{stack.name}_io-storage", image, path)))
    seconds = run["endTime"] - run["creationTime"]
    return Result(job, run_id, run["status"], seconds, container, image, value)


def add(parser: ArgumentParser) -> None:
    """It has no flags."""


def run(stack: Stack, flags: Namespace) -> None:
    """Raises StackError unless both jobs succeeded with the right value."""
    if stack.code.name != "code_location":
        raise StackError(f"the jobs of the demonstration are not in CODE={stack.code}: make up")
    up.run(stack, flags)
    say("\nRunning the demonstration jobs, each in a container of its own:")
    results = [demonstrate(stack, job) for job in JOBS]
    rows = [["job", "run", "status", "launch to end", "container", "image", "value"]]
    rows += [
        [r.job, r.run_id[:8], r.status, f"{r.seconds:.1f} s", r.container[:12],
         r.image.removeprefix("sha256:")[:12], str(r.value)]
        for r in results
    ]  # fmt: skip
    say(f"\n{table(rows)}\n")
    for r in results:
        if r.status != "SUCCESS" or r.value != EXPECTED:
            raise StackError(f"{r.job} ended as {r.status} with {r.value}, not {EXPECTED}:"
                             f" {stack.ui_url}/runs/{r.run_id}")  # fmt: skip
    print(f"Web UI: {stack.ui_url}  (make credentials says how to sign in)")
