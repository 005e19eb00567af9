"""Asks the instance database of a stack."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from typing import TYPE_CHECKING

from cli.errors import StackError

if TYPE_CHECKING:
    from cli.stack import Stack


def rows(stack: Stack, query: str) -> list[dict[str, str]]:
    """The rows that a query finds, as its superuser: a value, as text, by column.

    Raises:
        StackError: Postgres does not run, or refuses the query.
    """
    client = (
        "psql",
        "--username=postgres",
        "--dbname=dagster",
        "--csv",
        "--quiet",
        "--command",
        query,
    )
    found = stack.compose("exec", "--no-TTY", "postgres", *client).stdout
    return list(csv.DictReader(found.splitlines()))


def runs_in(stack: Stack, containers: Sequence[str]) -> dict[str, list[tuple[str, bool]]]:
    """The runs of containers that were made before their runs, and whether each has ended.

    It is empty when Postgres does not run.
    """
    ids = ", ".join(f"'{one}'" for one in containers)
    query = f"""SELECT value, run_id, end_time IS NOT NULL AS is_over FROM run_tags
        JOIN runs USING (run_id) WHERE key = 'docker/container_id' AND value IN ({ids})"""  # noqa: S608 # from the engine
    try:
        found = rows(stack, query)
    except StackError:  # the labels must do
        return {}
    runs: dict[str, list[tuple[str, bool]]] = {one: [] for one in containers}
    for row in found:
        runs[row["value"]].append((row["run_id"], row["is_over"] == "t"))
    return runs
