"""Write a backup: one file with the database, stored outputs, logs, settings and passwords."""

from __future__ import annotations

import time
from argparse import ArgumentParser, Namespace
from pathlib import Path

from cli import backups, locks, marks
from cli.errors import StackError
from cli.output import note, say
from cli.stack import Stack


def add(parser: ArgumentParser) -> None:
    """The flags."""
    parser.add_argument("--to", metavar="FOLDER", help="where (default: BACKUP_FOLDER)")
    parser.add_argument(
        "--keep", metavar="N", type=int, help="then delete the older ones of this stack, except N"
    )


def run(stack: Stack, flags: Namespace) -> None:
    """Raises StackError when there is no complete backup."""
    make(stack, flags)


def make(stack: Stack, flags: Namespace) -> Path:
    """Makes a backup; returns its file, or raises StackError."""
    marks.refuse_half_restored(stack)
    if stack.services().get("postgres", {}).get("State") != "running":
        raise StackError(f"the stack {stack.name} is not up: make up")
    return write(backups.Backups(stack), flags)


def write(backup: backups.Backups, flags: Namespace) -> Path:
    """Writes a new file for `make`, or for a stack on a cluster."""
    if flags.keep is not None and flags.keep < 1:
        raise StackError("--keep: at least 1")
    stack = backup.stack
    folder = stack.root / (flags.to or backups.folder(stack))
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise StackError(f"{folder} cannot be used: {error.strerror}") from None
    with locks.alone(stack, "backup"):
        for interrupted in folder.glob(f".{stack.name}-*.partial"):
            interrupted.unlink()
        backup.build()
        kind = "backup.age" if backup.secrets else "backup"
        file = folder / f"{stack.name}-{time.strftime('%Y-%m-%dT%H-%M-%SZ', time.gmtime())}.{kind}"
        say(f"writing {', '.join(['the database', *backup.there])}")
        backup.write(file)
        say(f"{file}: {file.stat().st_size / 2**20:.1f} MiB")
        for old in _older(stack, folder)[flags.keep or 1 << 30 :]:
            old.unlink()
            say(f"deleted {old.name}")
    if not backup.secrets:
        note(
            "note: it contains passwords and is not encrypted, and no secrets of `make secret`: set"
            " BACKUP_PASSPHRASE or BACKUP_KEYS (docs/how-to/back-up.md)"
        )
    return file


def _older(stack: Stack, folder: Path) -> list[Path]:
    """The backups of a stack, the newest first. Their names sort by time."""
    times = "[0-9]" * 4 + "-??-??T??-??-??Z"
    found = folder.glob(f"{stack.name}-{times}.backup*")
    return sorted((one for one in found if one.suffix in (".backup", ".age")), reverse=True)
