"""Show what the runs of each job used, and propose memory limits."""

from __future__ import annotations

import math
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping

from cli import database
from cli.errors import StackError
from cli.output import say, table
from cli.stack import Stack

HEADING = ("job", "code location", "runs", "memory", "highest", "limit", "proposed", "CPU",
           "highest", "wall", "highest")  # fmt: skip
# By what runs note of themselves (control_plane/code_server/usage.py).
QUERY = r"""
WITH noted AS (
  SELECT runs.id, pipeline_name AS job, jsonb_object_agg(key, value) AS tags
  FROM runs JOIN run_tags USING (run_id)
  WHERE key IN ('.dagster/repository', 'docker/memory_peak', 'docker/cpu_time', 'docker/wall_time')
  GROUP BY 1, 2
), used AS (
  SELECT id, job, split_part(tags->>'.dagster/repository', '@', 2) AS location,
    substring(tags->>'docker/memory_peak' FROM '^(\d+) MiB')::float AS memory,
    substring(tags->>'docker/memory_peak' FROM 'of (\d+) MiB$')::float AS most,
    substring(tags->>'docker/cpu_time' FROM '^(\d+\.\d+) s$')::float AS cpu,
    substring(tags->>'docker/wall_time' FROM '^(\d+\.\d+) s$')::float AS wall
  FROM noted
)
SELECT job, location, count(*) AS runs,
  percentile_disc(0.5) WITHIN GROUP (ORDER BY memory) AS memory_median, max(memory) AS memory,
  (array_agg(most ORDER BY id DESC))[1] AS most,
  percentile_disc(0.5) WITHIN GROUP (ORDER BY cpu) AS cpu_median, max(cpu) AS cpu,
  percentile_disc(0.5) WITHIN GROUP (ORDER BY wall) AS wall_median, max(wall) AS wall
FROM used WHERE memory IS NOT NULL GROUP BY 1, 2 ORDER BY max(memory) DESC, 1, 2
"""
# A proposal leaves room for what a sample every 0.2 s misses, and for larger inputs.
ROOM, STEP, LEAST = 1.5, 64, 128
TIMES = ("cpu_median", "cpu", "wall_median", "wall")


def add(parser: ArgumentParser) -> None:
    """There are no flags."""
    del parser


def run(stack: Stack, flags: Namespace) -> None:
    """Raises StackError when Postgres does not run, or no run has noted anything yet."""
    del flags
    rows = [shown(row) for row in database.rows(stack, QUERY)]
    if not rows:
        raise StackError("no run has ended yet since runs note what they use")
    say(table([HEADING, *rows]))
    say(
        "\nThe median of the runs, and the highest. Memory is in MiB, without the page cache."
        " To set a limit: docs/how-to/limit-a-run.md"
    )


def proposed(memory: float, limit: float | None) -> int:
    """A limit in MiB for a job, by the most that one of its runs used and the limit that it had."""
    # A run that used all that it may would have used more.
    wanted = 2 * memory if memory == limit else ROOM * memory
    return max(LEAST, math.ceil(wanted / STEP) * STEP)


def shown(row: Mapping[str, str]) -> list[str]:
    """A line of the table."""
    memory, limit = float(row["memory"]), float(row["most"]) if row["most"] else None
    # A run that was killed for its memory in its first seconds has noted no times.
    times = [f"{float(row[column]):.1f} s" if row[column] else "-" for column in TIMES]
    amounts = row["memory_median"], row["memory"], row["most"] or "none"
    own = row["job"], row["location"], row["runs"]
    return [*own, *amounts, f"{proposed(memory, limit)}m", *times]
