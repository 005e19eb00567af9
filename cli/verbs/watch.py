"""Watch your code: each saved file is served, and used by the next run, within seconds."""

from __future__ import annotations

import subprocess
from argparse import ArgumentParser, Namespace

from cli.errors import StackError
from cli.output import say
from cli.stack import Stack


def add(parser: ArgumentParser) -> None:
    """It has no flags."""


def run(stack: Stack, flags: Namespace) -> None:
    """Raises StackError when the stack is not up; otherwise goes on until Ctrl-C."""
    if stack.services().get("code_location", {}).get("State") != "running":
        raise StackError(f"the stack {stack.name} is not up: make up")
    folders = ", ".join(str(folder) for folder in stack.projects.values())
    say(f"watching {folders}: Ctrl-C ends this. Runs in progress keep their code.")
    command = stack.command("watch", "--no-up", *stack.projects)
    subprocess.run(command, cwd=stack.root, env=stack.environment, check=False)
