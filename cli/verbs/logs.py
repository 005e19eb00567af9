"""Show the logs of the services, or of a run's container."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from cli import commands, runs
from cli.errors import StackError
from cli.output import show
from cli.stack import Stack


def add(parser: ArgumentParser) -> None:
    """The flags."""
    parser.add_argument("run", nargs="?", metavar="RUN", help="a run ID, or its beginning")
    parser.add_argument("--follow", action="store_true", help="continue until interrupted")


def run(stack: Stack, flags: Namespace) -> None:
    """Raises StackError when there is no such run container."""
    if not flags.run and not stack.services():
        raise StackError(f"the stack {stack.name} has no containers: make up")
    if not flags.run:
        services = stack.config["services"]
        command = stack.command(*commands.logs(services, follow=flags.follow))
    else:
        _, container = runs.container_of(stack, flags.run)
        follow = ["--follow"] if flags.follow else []
        command = ["docker", "logs", "--timestamps", *follow, container]
    show(command, stack.root, stack.environment)
