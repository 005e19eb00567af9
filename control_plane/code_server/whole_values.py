"""Values that the default I/O manager writes to a volume: replaced whole, or not at all.

The gap: Dagster opens the value's file and writes into it. A run that is killed meanwhile leaves
half a file in place of the earlier value, and readers fail with "EOFError: Ran out of input". This
module could be deleted if PickledObjectFilesystemIOManager wrote beside the file and renamed.
"""

import os
from pathlib import PosixPath
from typing import Any, cast
from uuid import uuid4

from dagster import OutputContext
from dagster._core.storage.fs_io_manager import PickledObjectFilesystemIOManager


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
        beside = path.with_name(f".{path.name}.{uuid4().hex}")
        try:
            upstream(self, context, obj, cast("Any", beside))
            _sync(beside)
            beside.replace(path)
            _sync(path.parent)
        finally:
            beside.unlink(missing_ok=True)

    PickledObjectFilesystemIOManager.dump_to_path = dump_to_path


def _sync(path: PosixPath) -> None:
    """Waits until the file, or the folder's list of files, is on the disk."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
