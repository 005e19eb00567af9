#!/usr/bin/env python3
"""Runs a job 600 times and measures what grows: memory of each service, and containers.

Needs a running stack with KEEP_SUCCEEDED_CONTAINERS=1m.
"""

from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench import report
from bench.history import JOB, memory, sql
from cli.errors import StackError
from cli.stack import Stack

RUNS, EVERY, AT_ONCE = 600, 50, 8
# Caches fill in the first runs.
WARM = 200
SERVICES = ("webserver", "daemon", "code_location", "guard", "sign_in")
COUNT = "SELECT count(*) FROM runs WHERE status = 'SUCCESS'"
GOING_ON = "SELECT count(*) FROM runs WHERE status NOT IN ('SUCCESS', 'FAILURE', 'CANCELED')"


def run_all(stack: Stack) -> list[list[float]]:
    """Runs the job; returns the memory of each service in MiB, after every EVERY runs."""
    samples: list[list[float]] = []
    begun, launched = int(sql(stack, COUNT)), 0
    while True:
        ended = int(sql(stack, COUNT)) - begun
        if ended >= EVERY * (len(samples) + 1):
            samples.append([memory(stack, service) for service in SERVICES])
            print(f"{ended} runs: {', '.join(f'{one:.0f}' for one in samples[-1])} MiB", flush=True)
        if ended >= RUNS:
            return samples
        if launched < RUNS and int(sql(stack, GOING_ON)) < AT_ONCE:
            for _ in range(min(4, RUNS - launched)):
                stack.launch(JOB)
                launched += 1
        time.sleep(1)


def main() -> None:
    """Exits with status 1 when a run did not succeed."""
    stack = Stack()
    started = time.monotonic()
    try:
        samples = run_all(stack)
        minutes = (time.monotonic() - started) / 60
        highest = len(stack.run_containers())
        deadline = time.monotonic() + 300
        # One minute, and at most two rounds of the housekeeper.
        while stack.run_containers() and time.monotonic() < deadline:
            time.sleep(5)
        left = len(stack.run_containers())
    except StackError as error:
        sys.exit(f"bench: {error}")
    rows = [["service", f"MiB after {EVERY} runs", "at the end", "per 1,000 runs"]]
    warm = [i for i in range(len(samples)) if EVERY * (i + 1) >= WARM]
    for number, service in enumerate(SERVICES):
        used = [samples[i][number] for i in warm]
        slope = statistics.linear_regression([EVERY * (i + 1) / 1000 for i in warm], used).slope
        rows.append([service, f"{samples[0][number]:.1f}", f"{used[-1]:.1f}", f"{slope:+.1f}"])
    report.write(
        "Six hundred runs",
        f"{RUNS} runs of `{JOB}` in {minutes:.0f} minutes, at most {AT_ONCE} at once or waiting,"
        f" with `KEEP_SUCCEEDED_CONTAINERS=1m`. {highest} containers were there at the end, {left}"
        f" some minutes later. Memory is without the page cache, first after {EVERY} runs. The"
        f" slope is a linear regression over the samples from {WARM} runs on.",
        rows,
    )


if __name__ == "__main__":
    main()
