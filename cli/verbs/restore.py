"""Put a backup into an empty stack, of any name, on any machine, and start it."""

from __future__ import annotations

import subprocess
from argparse import ArgumentParser, Namespace
from typing import Any

from cli import backups, commands, locks, marks, reading, settings
from cli.errors import StackError
from cli.output import say
from cli.stack import Stack, docker
from cli.verbs import down, up


def add(parser: ArgumentParser) -> None:
    """The flags."""
    reading.add_flags(parser)
    parser.add_argument("--replace", action="store_true", help="delete the stack's data first")
    parser.add_argument("--no-start", action="store_true", help="do not start the stack")


def run(stack: Stack, flags: Namespace) -> None:
    """Raises StackError when the stack is not as in the backup. A refused one touches nothing."""
    file = reading.file_of(flags)
    if subprocess.run(["machine/setup.sh"], cwd=stack.root, check=False).returncode:
        raise StackError("this machine is not ready: the reason is above")
    marks.refuse_on_cluster(stack)
    with locks.alone(stack, "backup"):
        begun = marks.is_set(stack, marks.RESTORING)
        if not begun and not flags.replace:
            refuse_data(stack)
        backup = backups.Backups(stack, passphrase=flags.passphrase, key=flags.key)
        backup.build()
        say(f"reading {file}")
        found = backup.check(file)
        stack = settings.put_all(stack, backup.texts(file, "settings"))
        # Your files may define volumes of their own.
        backup = backups.Backups(stack, passphrase=flags.passphrase, key=flags.key)
        backup.refuse_unknown(file, found)
        marks.begin_restore(stack)
        if begun or flags.replace:
            say("deleting the data that is there")
            delete(stack, found)
        say("filling the stack")
        backup.fill(file, found)
        marks.end_restore(stack)
        marks.end_upgrade(stack)
    rows = sum(count for count, _ in found["tables"].values())
    say(
        f"{stack.name} has the data of {found['stack']}: {rows} rows, every table and file compared"
    )
    if flags.no_start:
        stack.compose(*commands.down())
        return
    up.run(stack, Namespace())


def delete(stack: Stack, found: dict[str, Any]) -> None:
    """Stops the stack, and deletes what a backup with this manifest replaces, but no mark."""
    # One of a cluster has no files of `data/`, for example, and one without encryption no secrets.
    down.stop_runs(stack)
    # And volumes without a name.
    stack.with_all_profiles.compose("rm", "--stop", "--force", "--volumes")
    stack.with_all_profiles.compose(*commands.down())
    there = stack.with_all_profiles.config["volumes"]
    secrets = {one for one in there if one.endswith("-settings")} - set(found["volumes"])
    marks.empty(stack, found["volumes"] if found.get("cluster") else None, except_for=secrets)


def refuse_data(stack: Stack) -> None:
    """Raises StackError when the stack has data or containers."""
    there = docker(*commands.volumes(stack.name)).split()
    if there or stack.services():
        raise StackError(
            f"the stack {stack.name} has data: restore into another one (STACK_NAME=..., and"
            " HTTP_PORT=...), or replace it (--replace). Nothing was touched"
        )
