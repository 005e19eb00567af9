"""Asks the instance database of a stack."""

from __future__ import annotations

import csv

from cli.stack import Stack


def rows(stack: Stack, query: str) -> list[dict[str, str]]:
    """The rows that a query finds, as its superuser: a value, as text, by column.

    Raises:
        StackError: Postgres does not run, or refuses the query.
    """
    client = "psql", "--username=postgres", "--dbname=dagster", "--csv", "--command", query
    found = stack.compose("exec", "--no-TTY", "postgres", *client).stdout
    return list(csv.DictReader(found.splitlines()))
