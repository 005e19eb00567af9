"""Moves outputs and step logs from the volumes to the object store: `make move-to-store`.

The gap: Dagster has managers for both, and nothing that takes data from one to the other. User code
writes the volumes, also while this goes on, so no link is followed.

    python -m control_plane.move_to_store
"""

import os
import stat
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from dagster import DagsterInstance

from control_plane.code_server.object_store import (
    LOGS,
    VOLUMES,
    BadStore,
    ObjectStore,
    required,
)
from control_plane.guard.policy import RUN_ID

# What is no regular file cannot block, and a link is refused.
READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
# Values that are being written (code_server/whole_values.py).
UNFINISHED = ".new"
# Dagster's mark that a step has ended. The store has logs of ended steps only.
MARK = ".complete"
NO_KEY, NO_FILE = "no object can have the name", "no files that can be read"
# So many names of each reason.
SHOWN = 10
# A tick is over in this time: the limit of Dagster's for the answer of a code server is a minute.
TICK_SECONDS = 300


@dataclass
class Moved:
    """What has been moved.

    Attributes:
        files: How many files.
        size: How many bytes they have.
        going: How many files stay, because a run or tick goes on.
        left: What stays for another reason, by the reason.
    """

    files: int = 0
    size: int = 0
    going: int = 0
    left: dict[str, list[str]] = field(default_factory=lambda: defaultdict[str, list[str]](list))


def move(store: ObjectStore, has_ended: Callable[[str], bool | None]) -> Moved:
    """Moves files to the store. What the store has newer stays there.

    Args:
        store: The store.
        has_ended: Whether a run has ended, by its ID; None for what is no run.

    Raises:
        Exception: The store cannot be reached any more.
    """
    moved = Moved()
    for name, volume in VOLUMES.items():
        # From below, by descriptors: a folder that becomes a link meanwhile leads nowhere.
        for folder, below, files, here in os.fwalk(volume, topdown=False, follow_symlinks=False):
            parts = Path(folder).relative_to(volume).parts
            if parts[:1] == (UNFINISHED,):
                continue
            is_over = has_ended(parts[0]) if parts else None
            # A log of no run is of a tick, which says nowhere that it has ended.
            before = time.time() - TICK_SECONDS if name == LOGS and is_over is None else None
            for file in files:
                if is_over is False:
                    moved.going += 1
                elif not _is_key(*parts, file):
                    moved.left[NO_KEY].append(ascii(file))
                elif name == LOGS and file.endswith(MARK):
                    os.unlink(file, dir_fd=here)
                else:
                    key = store.key(name, *parts, file)
                    _move_one(store, key, file, here, moved, before)
            for empty in below:
                with suppress(OSError):  # it is not empty, or is a link
                    os.rmdir(empty, dir_fd=here)
    return moved


def _is_key(*parts: str) -> bool:
    """Whether these names can be in the key of an object. Names of files can have any bytes."""
    try:
        "/".join(parts).encode()
    except UnicodeEncodeError:
        return False
    return True


def _move_one(
    store: ObjectStore, key: str, file: str, folder: int, moved: Moved, before: float | None
) -> None:
    try:
        opened = os.open(file, READ, dir_fd=folder)
    except OSError:
        moved.left[NO_FILE].append(ascii(key))
        return
    with os.fdopen(opened, "rb") as source:
        found = os.fstat(opened)
        if not stat.S_ISREG(found.st_mode):
            moved.left[NO_FILE].append(ascii(key))
            return
        if before and found.st_mtime > before:
            moved.going += 1
            return
        try:
            there_since = store.modified(key)
            if there_since is None or there_since < found.st_mtime:
                store.client.upload_fileobj(source, store.settings.bucket, key)
                moved.files, moved.size = moved.files + 1, moved.size + found.st_size
        except store.client.exceptions.ClientError as error:  # not one of the network
            moved.left[f"the store refuses: {error}"].append(ascii(key))
            return
    os.unlink(file, dir_fd=folder)


def main() -> None:
    """Ends with status 1 and one line when the store cannot be used."""
    try:
        store = required()
        store.check()
        with DagsterInstance.get() as instance:

            def has_ended(name: str) -> bool | None:
                run = instance.get_run_by_id(name) if RUN_ID.fullmatch(name) else None
                return run and run.is_finished

            moved = move(store, has_ended)
    except BadStore as error:
        sys.exit(f"object store: {error}")
    except Exception as error:  # of the network, of the server
        said = " ".join(str(error).split())
        sys.exit(f"object store: not all is moved, the same command goes on: {said}")
    bucket, mib = store.settings.bucket, moved.size / 2**20
    print(f"moved {moved.files} files, {mib:.1f} MiB, to the bucket {bucket}")
    if moved.going:
        print(f"{moved.going} files of runs or ticks in progress stay: the same command, later")
    for reason, names in moved.left.items():
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        print(f"{len(names)} stay, {' '.join(reason.split())}: {', '.join(names[:SHOWN])}{more}")


if __name__ == "__main__":
    main()
