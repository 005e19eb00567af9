"""The object store that a stack keeps outputs and step logs in (STORE=s3)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from cli import marks
from cli.errors import StackError
from cli.stack import Stack
from control_plane.code_server.object_store import BadStore, read_settings

# In the daemon's container.
CHECK = "control_plane.code_server.object_store", "check"
MOVE = ("control_plane.move_to_store",)


def is_used(stack: Stack) -> bool:
    """Whether the settings name one."""
    return bool(stack.config["services"]["prepare"]["environment"]["STORE"])


def refuse_wrong(stack: Stack) -> None:
    """Raises StackError when the settings, or the file, do not say where it is."""
    if not is_used(stack):
        return
    file: str = stack.config["secrets"]["store_config"]["file"]
    if file == os.devnull:
        raise StackError("STORE=s3 needs STORE_CONFIG, the file with the bucket and its access key")
    try:
        read_settings(Path(file).read_text("utf-8", "replace"))
    except (BadStore, OSError) as error:
        raise StackError(f"{error} ({file})") from None


def ask(stack: Stack, module: Sequence[str]) -> str:
    """Does something with it: CHECK, or MOVE.

    Returns:
        What was printed.

    Raises:
        StackError: The daemon does not run, or something is wrong with the store.
    """
    marks.refuse_down(stack, "daemon")
    try:
        said = stack.compose("exec", "--no-TTY", "daemon", "python", "-m", *module)
    except StackError as error:
        raise StackError(str(error).partition("object store: ")[2] or str(error)) from None
    return said.stdout.strip()
