"""Watch your code: each saved file is served, and used by the next run, within seconds."""

from __future__ import annotations

import subprocess
from argparse import ArgumentParser, Namespace
from tempfile import TemporaryDirectory

from cli import locks, marks
from cli.errors import StackError
from cli.output import say
from cli.stack import Stack


def add(parser: ArgumentParser) -> None:
    """It has no flags."""


def run(stack: Stack, flags: Namespace) -> None:
    """Goes on until Ctrl-C.

    Raises:
        StackError: The stack is not up, is being watched already, or Compose failed.
    """
    marks.refuse_down(stack, "code_location")
    # Compose notes its process here, leaves the note behind, and later takes whatever process has
    # that number for itself (docker/compose#11069): so each watch has a folder of its own.
    with locks.alone(stack, "watch"), TemporaryDirectory() as notes:
        folders = ", ".join(str(folder) for folder in stack.projects.values())
        say(f"watching {folders}: Ctrl-C ends this. Runs in progress keep their code.")
        command = stack.command("watch", "--no-up", *stack.projects)
        environment = {**stack.environment, "XDG_RUNTIME_DIR": notes}
        done = subprocess.run(command, cwd=stack.root, env=environment, check=False)
    if done.returncode:
        raise StackError("docker compose watch has ended; its reason is above")
