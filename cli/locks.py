"""Lets a command do something with a stack once at a time."""

from __future__ import annotations

import fcntl
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from cli.errors import StackError
from cli.stack import Stack


@contextmanager
def alone(stack: Stack, what: str) -> Generator[None]:
    """Holds a lock, which goes with this process.

    Args:
        stack: The stack.
        what: What is done with it: deploy, for example.

    Raises:
        StackError: Another process holds it.
    """
    lock = Path(stack.root, ".dagster", f"{stack.name}.{what}")
    lock.parent.mkdir(exist_ok=True)
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StackError(
                f"another {what} of {stack.name} goes on: wait until it has ended"
            ) from None
        yield
