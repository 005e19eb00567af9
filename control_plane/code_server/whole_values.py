"""Values that the default I/O manager writes to a volume: replaced whole, or not at all.

The gap: Dagster opens the value's file and writes into it. A run that is killed meanwhile leaves
half a file in place of the earlier value, and readers fail with "EOFError: Ran out of input". This
module could be deleted if PickledObjectFilesystemIOManager wrote beside the file and renamed.
"""

import os
import re
import time
from contextlib import suppress
from pathlib import PosixPath
from typing import Any, cast
from uuid import uuid4

from dagster import OutputContext
from dagster._core.storage.fs_io_manager import PickledObjectFilesystemIOManager

LEFTOVER = re.compile(r"\.[0-9a-f]{32}\.new")
DAY_SECONDS = 24 * 3600


def write_whole_values() -> None:
    """Changes the I/O manager of this process. Paths that are no local files stay as they are."""
    upstream = PickledObjectFilesystemIOManager.dump_to_path

    def dump_to_path(
        self: PickledObjectFilesystemIOManager,
        context: OutputContext,
        obj: Any,  # noqa: ANN401 # any value
        path: Any,  # noqa: ANN401 # UPath has no types
    ) -> None:
        if not isinstance(path, PosixPath):
            upstream(self, context, obj, path)
            return
        _remove_leftovers(path.parent)
        beside = path.with_name(f".{uuid4().hex}.new")
        try:
            upstream(self, context, obj, cast("Any", beside))
            _sync(beside)
            beside.replace(path)
            _sync(path.parent)
        finally:
            beside.unlink(missing_ok=True)

    PickledObjectFilesystemIOManager.dump_to_path = dump_to_path


def _remove_leftovers(folder: PosixPath) -> None:
    """Removes what runs have left that were killed while they wrote."""
    for file in folder.glob(".*.new"):
        with suppress(FileNotFoundError):
            if LEFTOVER.fullmatch(file.name) and time.time() - file.stat().st_mtime > DAY_SECONDS:
                file.unlink()


def _sync(path: PosixPath) -> None:
    """Waits until the file, or the folder's list of files, is on the disk."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
