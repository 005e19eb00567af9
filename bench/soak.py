#!/usr/bin/env python3
"""Runs a job 600 times and measures what grows: memory of each service, and containers.

With --long 3,000 times, in shared containers. Needs a running stack with
KEEP_SUCCEEDED_CONTAINERS=1m.
"""

from __future__ import annotations

import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench import report
from bench.history import JOB, memory, sql
from cli.errors import StackError
from cli.stack import Stack

AT_ONCE = 8
SERVICES = ("webserver", "daemon", "code_location", "guard", "sign_in")
COUNT = "SELECT count(*) FROM runs WHERE status = 'SUCCESS'"
GOING_ON = "SELECT count(*) FROM runs WHERE status NOT IN ('SUCCESS', 'FAILURE', 'CANCELED')"


@dataclass(frozen=True)
class Form:
    """How much is measured.

    Attributes:
        runs: The number of runs.
        every: The memory is read after so many runs.
        warm: The slope is of the samples from this number of runs on: before, caches fill.
        tags: The runs' tags.
        title: The heading of the report.
        verb: What measures it.
    """

    runs: int
    every: int
    warm: int
    tags: dict[str, str]
    title: str
    verb: str


SHORT = Form(600, 50, 200, {}, "Six hundred runs", "make bench")
SHARED = {"dagster/isolation": "disabled"}
LONG = Form(3000, 250, 1000, SHARED, "Three thousand runs", "make bench-soak")


def run_all(stack: Stack, form: Form) -> list[list[float]]:
    """Runs the job; returns the memory of each service in MiB, each time that it is read."""
    samples: list[list[float]] = []
    begun, launched = int(sql(stack, COUNT)), 0
    while True:
        ended = int(sql(stack, COUNT)) - begun
        if ended >= form.every * (len(samples) + 1):
            samples.append([memory(stack, service) for service in SERVICES])
            print(f"{ended} runs: {', '.join(f'{one:.0f}' for one in samples[-1])} MiB", flush=True)
        if ended >= form.runs:
            return samples
        if launched < form.runs and int(sql(stack, GOING_ON)) < AT_ONCE:
            for _ in range(min(4, form.runs - launched)):
                stack.launch(JOB, tags=form.tags)
                launched += 1
        time.sleep(0.3)


def main() -> None:
    """Exits with status 1 when a run did not succeed."""
    stack, form = Stack(), LONG if "--long" in sys.argv else SHORT
    started = time.monotonic()
    try:
        samples = run_all(stack, form)
        minutes = (time.monotonic() - started) / 60
        highest = len(stack.run_containers())
        deadline = time.monotonic() + 300
        # One minute, and at most two rounds of the housekeeper.
        while stack.run_containers() and time.monotonic() < deadline:
            time.sleep(5)
        left = len(stack.run_containers())
    except StackError as error:
        sys.exit(f"bench: {error}")
    rows = [["service", f"MiB after {form.every} runs", "at the end", "per 1,000 runs"]]
    warm = [i for i in range(len(samples)) if form.every * (i + 1) >= form.warm]
    for number, service in enumerate(SERVICES):
        used = [samples[i][number] for i in warm]
        runs = [form.every * (i + 1) / 1000 for i in warm]
        slope = statistics.linear_regression(runs, used).slope
        rows.append([service, f"{samples[0][number]:.1f}", f"{used[-1]:.1f}", f"{slope:+.1f}"])
    tagged = "".join(f", tagged `{key}: {value}`" for key, value in form.tags.items())
    report.write(
        form.title,
        f"{form.runs} runs of `{JOB}`{tagged}, in {minutes:.0f} minutes, at most {AT_ONCE} at once"
        f" or waiting, with `KEEP_SUCCEEDED_CONTAINERS=1m`. {highest} containers were there at the"
        f" end, {left} some minutes later. Memory is without the page cache, first after"
        f" {form.every} runs. The slope is a linear regression over the samples from {form.warm}"
        " runs on.",
        rows,
        verb=form.verb,
    )


if __name__ == "__main__":
    main()
