"""Make a backup, get newer versions, build and start them, and check the stack."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from cli import marks, reading, upgrades
from cli.errors import StackError
from cli.output import say
from cli.stack import Stack
from cli.verbs import backup, down


def add(parser: ArgumentParser) -> None:
    """The flags."""
    backup.add(parser)
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--revision", metavar="REVISION", help="what to check out (default: `git pull`)"
    )
    what.add_argument(
        "--dagster", action="store_true", help="only Dagster, to the newest patch release"
    )
    what.add_argument(
        "--postgres", metavar="IMAGE", help="only Postgres, to the version of this image"
    )
    reading.add_keys(parser)


def run(stack: Stack, flags: Namespace) -> None:
    """Raises StackError with the command that goes back."""
    if flags.postgres:
        run_postgres(stack, flags)
        return
    before = "." if flags.dagster else upgrades.git(stack, "rev-parse", "HEAD")[:12]
    back = upgrades.interrupted(stack, before)
    if upgrades.git(stack, "status", "--porcelain", "--untracked-files=no"):
        raise StackError("there are changes without a commit: commit them first (git status)")
    if flags.revision:
        upgrades.git(stack, "rev-parse", "--verify", "--quiet", f"{flags.revision}^{{commit}}")
    if back:
        say("going on with an upgrade that was interrupted")
    else:
        # By the version that runs: it can restore this file.
        back = f"git checkout {before} && {' '.join(restore(stack, flags))}"
        marks.begin_upgrade(stack, back)
    say(f"to go back: {back}")
    try:
        if flags.dagster:
            upgrades.dagster(stack)
        else:
            upgrades.project(stack, flags.revision)
        marks.end_upgrade(stack)
    except upgrades.NotReplaced:
        marks.end_upgrade(stack)
        raise
    except StackError as error:
        raise StackError(f"{error}. To go back: {back}") from None


def run_postgres(stack: Stack, flags: Namespace) -> None:
    """Puts the database into another version of Postgres, or raises StackError."""
    say("stopping everything but the database: the backup then has the last event")
    try:
        down.stop_runs(stack)
        stack.compose("stop", *(name for name in stack.config["services"] if name != "postgres"))
        upgrades.postgres(stack, flags.postgres, restore(stack, flags))
    except BaseException:
        # Nothing has changed, or this says that a restore was interrupted, and how to repeat it.
        upgrades.start(stack)
        raise


def restore(stack: Stack, flags: Namespace) -> list[str]:
    """Makes the backup; returns the words of the command that restores it."""
    words = ["./stack", "restore", str(backup.make(stack, flags)), "--replace"]
    for flag in ("key", "passphrase"):
        words += [f"--{flag}", value] if (value := getattr(flags, flag)) else []
    return words
