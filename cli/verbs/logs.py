"""Show the logs of the services, or of a run's container."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from cli import commands
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
        found = [c for run_id, c in stack.run_containers().items() if run_id.startswith(flags.run)]
        if len(found) != 1:
            raise StackError(
                f"{len(found) or 'no'} containers on this machine belong to run {flags.run}:"
                f" see the run's page, {stack.ui_url}/runs, whose events and step logs outlive its"
                " container"
            )
        follow = ["--follow"] if flags.follow else []
        command = ["docker", "logs", "--timestamps", *follow, found[0]]
    show(command, stack.root, stack.environment)
