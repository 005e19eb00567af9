"""Restore a backup into a stack for this purpose only, and compare every row and file."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from cli import backups, commands, locks, marks, reading
from cli.errors import StackError
from cli.output import say
from cli.stack import Stack, docker
from cli.verbs import down


def add(parser: ArgumentParser) -> None:
    """The flags."""
    reading.add_flags(parser)


def run(stack: Stack, flags: Namespace) -> None:
    """Raises StackError when the backup cannot be restored as it was."""
    file = reading.file_of(flags)
    # Of it, only Postgres ever runs: no schedule, no sensor, no port. Addresses of networks in
    # docker-compose.override.yml are in use by the stack itself.
    name = f"{stack.name}-verify"
    own = {"STACK_NAME": name, "COMPOSE_PROJECT_NAME": name, "COMPOSE_FILE": "docker-compose.yml"}
    copy = Stack(stack.root, {**stack.environment, **own})
    if copy.name != name:
        raise StackError(
            f"the copy would have the name {copy.name}: remove `name:` from your files"
        )
    with locks.alone(copy, "backup"):
        backup = backups.Backups(copy, passphrase=flags.passphrase, key=flags.key)
        known = backups.Backups(stack).volumes
        backup.volumes = {name: f"{copy.name}_{name}" for name in known}
        if docker(*commands.volumes(name)).split() and not marks.is_set(copy, marks.RESTORING):
            raise StackError(f"there is a stack {name}, which a verification would delete")
        backup.build()
        try:
            found = backup.check(file)
            backup.refuse_unknown(file, found)
            marks.put(copy, marks.RESTORING)
            try:
                down.stop(copy, volumes=True)
                marks.empty(copy)
                say(f"restoring into the stack {copy.name}")
                backup.fill(file, found)
            finally:
                down.stop(copy, volumes=True)
                marks.empty(copy)
                marks.remove(copy, marks.RESTORING)
        finally:
            docker("image", "rm", *backup.images())
    rows = sum(count for count, _ in found["tables"].values())
    tables, files = len(found["tables"]), found["files"]
    say(f"{file} is whole: {rows} rows of {tables} tables and {files} files are as they were")
