"""The object store that a stack keeps outputs and step logs in (STORE=s3)."""

from __future__ import annotations

import os
from collections.abc import Sequence

from cli.errors import StackError
from cli.stack import Stack

# In the daemon's container.
CHECK = "control_plane.code_server.object_store", "check"
MOVE = ("control_plane.move_to_store",)


def is_used(stack: Stack) -> bool:
    """Whether the settings name one."""
    return bool(stack.config["services"]["prepare"]["environment"]["STORE"])


def refuse_without_config(stack: Stack) -> None:
    """Raises StackError when the settings say nothing of where it is."""
    if is_used(stack) and stack.config["secrets"]["store_config"]["file"] == os.devnull:
        raise StackError("STORE=s3 needs STORE_CONFIG, the file with the bucket and its access key")


def ask(stack: Stack, module: Sequence[str]) -> str:
    """Does something with it: CHECK, or MOVE.

    Returns:
        What was printed.

    Raises:
        StackError: The daemon does not run, or something is wrong with the store.
    """
    if stack.services().get("daemon", {}).get("State") != "running":
        raise StackError(f"the stack {stack.name} is not up: make up")
    try:
        said = stack.compose("exec", "--no-TTY", "daemon", "python", "-m", *module)
    except StackError as error:
        raise StackError(str(error).partition("object store: ")[2] or str(error)) from None
    return said.stdout.strip()
