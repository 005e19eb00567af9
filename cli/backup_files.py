"""The files of backups in a folder: their names, and which of them stay."""

from __future__ import annotations

import time
from pathlib import Path

from cli import locks
from cli.backups import Backups
from cli.backups import folder as folder_of
from cli.errors import StackError
from cli.output import note, say


def write_new(backup: Backups, to: str | None, keep: int | None) -> Path:
    """Writes a backup to a new file.

    Args:
        backup: What writes it.
        to: The folder. The default is BACKUP_FOLDER.
        keep: How many backups of the stack stay. By default all.

    Returns:
        The file.

    Raises:
        StackError: There is no complete backup.
    """
    if keep is not None and keep < 1:
        raise StackError("--keep: at least 1")
    stack = backup.stack
    folder = stack.root / (to or folder_of(stack))
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise StackError(f"{folder} cannot be used: {error.strerror}") from None
    with locks.alone(stack, "backup"):
        for interrupted in folder.glob(f".{backup.prefix}-*.partial"):
            interrupted.unlink()
        backup.build()
        kind = "backup.age" if backup.secrets else "backup"
        now = time.strftime("%Y-%m-%dT%H-%M-%SZ", time.gmtime())
        file = folder / f"{backup.prefix}-{now}.{kind}"
        say(f"writing {', '.join(['the database', *backup.there])}")
        backup.write(file)
        say(f"{file}: {file.stat().st_size / 2**20:.1f} MiB")
        for old in _older(backup.prefix, folder)[keep or 1 << 30 :]:
            old.unlink()
            say(f"deleted {old.name}")
    if not backup.secrets:
        note(
            "note: it contains passwords and is not encrypted, and no secrets of `make secret`: set"
            " BACKUP_PASSPHRASE or BACKUP_KEYS (docs/how-to/back-up.md)"
        )
    return file


def _older(prefix: str, folder: Path) -> list[Path]:
    """The backups of a stack, the newest first. Their names sort by time."""
    times = "[0-9]" * 4 + "-??-??T??-??-??Z"
    found = folder.glob(f"{prefix}-{times}.backup*")
    return sorted((one for one in found if one.suffix in (".backup", ".age")), reverse=True)
