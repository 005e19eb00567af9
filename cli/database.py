"""Asks the instance database of a stack."""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING

from cli.errors import StackError

if TYPE_CHECKING:
    from cli.stack import Stack


def rows(stack: Stack, query: str) -> list[dict[str, str]]:
    """The rows that a query finds, as its superuser: a value, as text, by column.

    Raises:
        StackError: Postgres does not run, or refuses the query.
    """
    client = "psql", "--username=postgres", "--dbname=dagster", "--csv", "--command", query
    found = stack.compose("exec", "--no-TTY", "postgres", *client).stdout
    return list(csv.DictReader(found.splitlines()))


def runs_of_warm_containers(stack: Stack) -> dict[str, str] | None:
    """The run of each container that was made before its run, or '' if it waits, by its label."""
    try:
        found = rows(stack, "SELECT slot, run_id FROM warm_containers")
    except StackError:  # Postgres does not run: the labels must do
        return None
    return {row["slot"]: row["run_id"] for row in found}
