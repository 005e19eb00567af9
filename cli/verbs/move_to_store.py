"""Move outputs and step logs from the volumes to the object store of STORE=s3."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from cli import locks, store
from cli.errors import StackError
from cli.output import say
from cli.stack import Stack


def add(parser: ArgumentParser) -> None:
    """There are no flags."""
    del parser


def run(stack: Stack, flags: Namespace) -> None:
    """Raises StackError when there is no store, or not all is moved: the same command goes on."""
    del flags
    if not store.is_used(stack):
        raise StackError("STORE in .env is not s3: docs/how-to/keep-outputs-in-s3.md")
    with locks.alone(stack, "move-to-store"):
        say(store.ask(stack, store.MOVE))
