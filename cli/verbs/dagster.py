"""Run Dagster's own command line in the control plane, e.g. `./stack dagster run list`."""

from __future__ import annotations

import subprocess
import sys
from argparse import REMAINDER, ArgumentParser, Namespace

from cli import commands, marks
from cli.output import can_ask
from cli.stack import Stack


def add(parser: ArgumentParser) -> None:
    """Takes all that follows."""
    parser.add_argument("arguments", nargs=REMAINDER, metavar="...", help="arguments for `dagster`")


def run(stack: Stack, flags: Namespace) -> None:
    """Raises StackError when the stack is not up; otherwise ends with Dagster's exit status."""
    marks.refuse_down(stack, "webserver")
    terminal = can_ask() and sys.stdout.isatty()
    arguments = flags.arguments[flags.arguments[:1] == ["--"] :]  # Python 3.12 leaves it in
    command = commands.in_web_server(["dagster", *arguments], stack.code.name, terminal=terminal)
    done = subprocess.run(
        stack.command(*command), cwd=stack.root, env=stack.environment, check=False
    )
    if done.returncode:
        sys.exit(done.returncode)
