"""Values that the default I/O manager writes to a volume: replaced whole, or not at all.

The gap: Dagster opens the value's file and writes into it. A run that is killed meanwhile leaves
half a file in place of the earlier value, and readers fail with "EOFError: Ran out of input". This
module could be deleted if PickledObjectFilesystemIOManager wrote beside the file and renamed.
"""

import os
import shutil
import time
from contextlib import suppress
from pathlib import PosixPath
from typing import Any, cast
from uuid import uuid4

from dagster import OutputContext
from dagster._core.storage.fs_io_manager import PickledObjectFilesystemIOManager

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
        new = folder_of_new(PosixPath(str(self._base_path))) / uuid4().hex  # pyright: ignore[reportPrivateUsage] # as subclasses do
        try:
            upstream(self, context, obj, cast("Any", new))
            _sync(new)
            # A rename, or a copy if the base folder is on another disk.
            shutil.move(new, path)
            _sync(path.parent)
        finally:
            new.unlink(missing_ok=True)

    PickledObjectFilesystemIOManager.dump_to_path = dump_to_path


def folder_of_new(base: PosixPath) -> PosixPath:
    """Where values are written at first. Removes what runs left there that were killed."""
    folder = base / ".new"
    folder.mkdir(parents=True, exist_ok=True)
    for file in folder.iterdir():
        with suppress(FileNotFoundError):
            if time.time() - file.stat().st_mtime > DAY_SECONDS:
                file.unlink()
    return folder


def _sync(path: PosixPath) -> None:
    """Waits until the file, or the folder's list of files, is on the disk."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
