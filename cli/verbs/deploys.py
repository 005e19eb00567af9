"""List which code was live when, from which revision, and who put it there."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from cli import history
from cli.errors import StackError
from cli.output import say, table
from cli.stack import Stack

COLUMNS = ("at", "service", "image", "version", "revision", "verb", "who")


def add(parser: ArgumentParser) -> None:
    """There are no flags."""
    del parser


def run(stack: Stack, flags: Namespace) -> None:
    """Raises StackError when Postgres does not run, or nothing is noted yet."""
    del flags
    rows = history.rows(stack)
    if not rows:
        raise StackError("nothing is noted yet: make up, or make deploy")
    images = {row["image"]: row["image"][7:19] for row in rows}
    shown = [{**row, "at": row["at"][:19], "image": images[row["image"]]} for row in rows]
    say(table([COLUMNS, *([row[name] for name in COLUMNS] for row in shown)]))
