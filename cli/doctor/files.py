"""Checks of the operator's files: settings, the files that they name, the port."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from cli import checks, dotenv, marks
from cli.doctor import Finding
from cli.errors import StackError
from cli.stack import Stack


def restore(stack: Stack) -> Iterator[Finding]:
    """No restore was interrupted."""
    yield from _refused("restore", marks.refuse_half_restored, stack, "nothing else before that")


def upgrade(stack: Stack) -> Iterator[Finding]:
    """No upgrade was interrupted."""
    if found := marks.unfinished_upgrade(stack):
        what, _, remedy = found.partition(": ")
        yield Finding("upgrade", what, remedy)


def settings(stack: Stack) -> Iterator[Finding]:
    """No setting is misspelled or has a value that cannot work."""
    yield from _refused("settings", checks.refuse_bad_settings, stack, "correct it in .env")
    for name in dotenv.twice(stack.root):
        yield Finding(
            "settings", f".env sets {name} twice", "the last one counts: remove the other"
        )


def files(stack: Stack) -> Iterator[Finding]:
    """The files that settings name are there."""
    yield from _refused("files", checks.refuse_missing_files, stack, "correct it in .env")


def port(stack: Stack) -> Iterator[Finding]:
    """The port is free, or ours."""
    yield from _refused("port", checks.refuse_taken_port, stack, "then make up")


def _refused(
    part: str, refuse: Callable[[Stack], None], stack: Stack, remedy: str
) -> Iterator[Finding]:
    try:
        refuse(stack)
    except StackError as error:
        yield Finding(part, str(error), remedy)


# The others are not asked when one finds something.
CHECKS = (settings, files, restore, port)
