"""Restore a backup into a stack for this purpose only, and compare every row and file."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from cli import backups, locks
from cli.errors import StackError
from cli.output import say
from cli.stack import Stack, docker
from cli.verbs import down


def add(parser: ArgumentParser) -> None:
    """The flags."""
    parser.add_argument("file", metavar="FILE", help="the backup")
    parser.add_argument("--key", metavar="FILE", help="a file with age's private key")
    parser.add_argument("--passphrase", metavar="FILE", help="a file with the passphrase")


def run(stack: Stack, flags: Namespace) -> None:
    """Raises StackError when the backup cannot be restored as it was."""
    file = Path(flags.file)
    if not file.is_file():
        raise StackError(f"{file}: there is no such file")
    # Of it, only Postgres ever runs: no schedule, no sensor, no port. Addresses of networks in
    # docker-compose.override.yml are in use by the stack itself.
    alone = {"STACK_NAME": f"{stack.name}-verify", "COMPOSE_FILE": "docker-compose.yml"}
    copy = Stack(stack.root, {**stack.environment, **alone})
    with locks.alone(copy, "backup"):
        backup = backups.Backups(copy, passphrase=flags.passphrase, key=flags.key)
        known = backups.Backups(stack).volumes
        backup.volumes = {name: f"{copy.name}_{name}" for name in known}
        backup.build()
        found = backup.check(file)
        try:
            down.stop(copy, volumes=True)
            backup.empty()
            say(f"restoring into the stack {copy.name}")
            backup.fill(file, found)
        finally:
            down.stop(copy, volumes=True)
            backup.empty()
            docker("image", "rm", *backup.images())
    rows = sum(count for count, _ in found["tables"].values())
    tables, files = len(found["tables"]), found["files"]
    say(f"{file} is whole: {rows} rows of {tables} tables and {files} files are as they were")
