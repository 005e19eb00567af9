#!/usr/bin/env python3
"""Measures memory, CPU time and duration of runs of several kinds.

Needs a running stack with the profile `warehouse`. The engine reports once a second what a
container uses. Memory is that of its processes and of the files in /tmp, without the disk cache.
"""

from __future__ import annotations

import json
import statistics
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench import report
from bench.engine import Engine
from cli.errors import StackError
from cli.runs import follow
from cli.stack import Stack

TIMES = 3
WAREHOUSE = "warehouse_location"
# Label, code location, job, assets. A run that writes data comes before the one that reads it.
KINDS = (
    ("six ops, nothing heavy imported", "code_location", "process_numbers", ()),
    ("a pickle to S3", WAREHOUSE, "__ASSET_JOB", ("s3_numbers",)),
    ("pandas, writes to BigQuery", WAREHOUSE, "__ASSET_JOB", ("pandas_numbers",)),
    ("pandas, reads and writes", WAREHOUSE, "__ASSET_JOB", ("pandas_sum",)),
    ("pandas, both, a process each", WAREHOUSE, "pandas_in_several_processes", ()),
    ("Spark, writes to BigQuery", WAREHOUSE, "__ASSET_JOB", ("pyspark_numbers",)),
    ("Spark, reads and writes", WAREHOUSE, "__ASSET_JOB", ("pyspark_sum",)),
    ("Spark, both, a process each", WAREHOUSE, "pyspark_in_several_processes", ()),
)


@dataclass
class Use:
    """What a container has used so far."""

    peak_mib: float = 0
    cpu_seconds: float = 0

    def watch(self, container: str) -> None:
        """Records the use of a container until it has ended."""
        engine = Engine()
        engine.request("GET", f"/containers/{container}/stats?stream=true")
        for line in engine.getresponse():
            sample = json.loads(line)
            cpu = sample["cpu_stats"]["cpu_usage"]["total_usage"] / 1e9
            if self.cpu_seconds and not cpu:
                return  # the container has ended, and the engine continues to report zeros
            details = sample.get("memory_stats", {}).get("stats", {})
            # The names in control groups version 1 and version 2.
            held = details.get("total_rss", details.get("anon", 0))
            files = details.get("total_shmem", details.get("shmem", 0))
            self.peak_mib = max(self.peak_mib, (held + files) / 2**20)
            self.cpu_seconds = max(self.cpu_seconds, cpu)


def measure(stack: Stack, location: str, job: str, assets: tuple[str, ...]) -> tuple[Use, float]:
    """Runs a job to success.

    Returns:
        What its container used, and the seconds from launch to end.

    Raises:
        StackError: The run did not succeed.
    """
    run_id = stack.launch(job, assets, location=location)
    while not (container := stack.run_containers().get(run_id)):
        time.sleep(0.1)
    use = Use()
    watcher = threading.Thread(target=use.watch, args=(container,))
    watcher.start()
    run = follow(stack, job, run_id)
    watcher.join()
    if run["status"] != "SUCCESS":
        raise StackError(f"{job} failed: {stack.url}/runs/{run_id}")
    return use, run["endTime"] - run["creationTime"]


def main() -> None:
    """Exits with status 1 when a run did not succeed."""
    stack = Stack()
    lines = [["run", "memory MiB", "CPU s", "launch to end s"]]
    try:
        for label, location, job, assets in KINDS:
            results = [measure(stack, location, job, assets) for _ in range(TIMES)]
            memory = max(use.peak_mib for use, _ in results)
            cpu = statistics.median(use.cpu_seconds for use, _ in results)
            seconds = statistics.median(seconds for _, seconds in results)
            lines.append([label, f"{memory:.0f}", f"{cpu:.0f}", f"{seconds:.0f}"])
    except StackError as error:
        sys.exit(f"bench: {error}")
    report.write(
        "What runs use",
        f"A run has one core and 1 GiB (`dagster.yaml`). {TIMES} runs of each kind: the highest"
        " memory, the median CPU time and the median duration. Memory is that of the container's"
        " processes and of the files in its /tmp, sampled once a second, without the disk cache.",
        lines,
    )


if __name__ == "__main__":
    main()
