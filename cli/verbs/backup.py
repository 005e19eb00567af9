"""Write a backup: one file with the database, stored outputs, logs, settings and passwords."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from cli import backup_files, backups, marks
from cli.output import say
from cli.stack import Stack
from cli.verbs import down


def add(parser: ArgumentParser) -> None:
    """The flags."""
    parser.add_argument("--to", metavar="FOLDER", help="where (default: BACKUP_FOLDER)")
    parser.add_argument(
        "--last", action="store_true",
        help="first let the runs in progress end, then stop the stack for ever: it moves",
    )  # fmt: skip
    parser.add_argument(
        "--keep", metavar="N", type=int, help="then delete the older ones of this stack, except N"
    )


def run(stack: Stack, flags: Namespace) -> None:
    """Raises StackError when there is no complete backup."""
    if not flags.last:
        make(stack, flags)
        return
    marks.refuse_down(stack, "postgres")
    down.let_runs_end(stack)
    stack.compose("stop", *sorted(set(stack.services()) - {"postgres"}))
    file = make(stack, flags)
    marks.put_moved(stack)
    down.stop(stack)
    say(
        f"{stack.name} is down and starts no more on this machine: ./stack cluster-up --restore"
        f" {file}, or to have it here again ./stack restore {file} --replace"
    )


def make(stack: Stack, flags: Namespace) -> Path:
    """Makes a backup; returns its file, or raises StackError."""
    marks.refuse_down(stack, "postgres")
    return backup_files.write_new(backups.Backups(stack), flags.to, flags.keep)
