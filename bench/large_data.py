#!/usr/bin/env python3
"""Measures the memory of runs that write or read large data by reference, for two sizes.

Needs a running stack with the profile `warehouse`. For each size, one run writes the data and
another run reads it. Each run reports the most memory that its process has used.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench import report
from cli.errors import StackError
from cli.runs import follow
from cli.stack import Stack

ROWS = (5_000_000, 50_000_000)
BYTES_PER_ROW = 8

PEAK = """query Peak($id: ID!) { logsForRun(runId: $id) { ... on EventConnection {
  events { ... on MaterializationEvent { metadataEntries {
    label ... on FloatMetadataEntry { floatValue } } } } } } }"""


def peak_mib(stack: Stack, job: str, config: dict[str, Any]) -> float:
    """Runs a job to success.

    Returns:
        The most memory that its process has used, in MiB, as the run itself reports it.

    Raises:
        StackError: The run did not succeed.
    """
    run = stack.launch(job, config=config, location="warehouse_location")
    if follow(stack, job, run)["status"] != "SUCCESS":
        raise StackError(f"{job} failed: {stack.url}/runs/{run}")
    events = stack.graphql(PEAK, id=run)["logsForRun"]["events"]
    entries = [entry for event in events for entry in event.get("metadataEntries", [])]
    return next(entry["floatValue"] for entry in entries if entry["label"] == "peak_mib")


def main() -> None:
    """Exits with status 1 when a run did not succeed."""
    stack = Stack()
    lines = [["rows", "data MiB", "writer peak MiB", "reader peak MiB"]]
    peaks: list[tuple[float, float]] = []
    try:
        for rows in ROWS:
            config = {"ops": {"large_table": {"config": {"rows": rows}}}}
            written = peak_mib(stack, "large_write", config)
            read = peak_mib(stack, "large_read", {})
            peaks.append((written, read))
            size = rows * BYTES_PER_ROW / 2**20
            lines.append([f"{rows:,}", f"{size:.0f}", f"{written:.0f}", f"{read:.0f}"])
    except StackError as error:
        sys.exit(f"bench: {error}")
    (small_write, small_read), (large_write, large_read) = peaks
    growth = f"{large_write / small_write:.2f}", f"{large_read / small_read:.2f}"
    lines.append(["ratio", f"{ROWS[1] / ROWS[0]:.0f}", *growth])
    report.write(
        "Large data by reference: memory of a run while the data grows tenfold",
        "MiB of the process of the run, with its imports (pandas, Spark)."
        " A batch has 100,000 rows.",
        lines,
    )


if __name__ == "__main__":
    main()
