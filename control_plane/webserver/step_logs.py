"""Reads step logs from a volume that user code writes.

The gap: Dagster's LocalComputeLogManager checks the path of a log and then opens it by that path.
If user code replaces the file by a link in between, the web server reads one of its own files, for
example its database password. LocalComputeLogManager also reads a file of any size into memory, and
opens FIFOs and devices. StepLogs reads only beneath the folder of the logs, follows no link in any
part of the path, opens only regular files, and reads a limited part of them. It never writes. With
STORE=s3 it reads what the folder does not have from the object store. This module could be deleted
if LocalComputeLogManager did the same.
"""

import logging
import os
import stat
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, NoReturn, Self

from dagster import DagsterInstance
from dagster._core.storage.compute_log_manager import (
    MAX_BYTES_CHUNK_READ,
    CapturedLogContext,
    CapturedLogData,
    CapturedLogMetadata,
    CapturedLogSubscription,
    ComputeIOType,
    ComputeLogManager,
)
from dagster._core.storage.local_compute_log_manager import (
    IO_TYPE_EXTENSION,
    MAX_FILENAME_LENGTH,
    LocalComputeLogManager,
)
from dagster._utils.security import non_secure_md5_hash_str

from control_plane.code_server import object_store
from control_plane.code_server.object_store import ObjectStore

# The UI gets this much from the beginning of each stream. It shows 5 MiB and then offers the
# download.
MAX_SHOWN_BYTES = 6 * 2**20
# The most bytes in one response. Many clients can ask at once, and as JSON, NUL bytes take six
# times as much memory.
MAX_BYTES_AT_ONCE = MAX_BYTES_CHUNK_READ
# A download ends after this many bytes: a sparse file can have a size of exabytes.
MAX_DOWNLOAD_BYTES = 2**30
CHUNK_BYTES = 256 * 1024
# The interval at which a followed log is read. Upstream's is 2.5.
POLL_SECONDS = 1.0
# The most logs that all clients together follow. Each keeps MAX_SHOWN_BYTES of both streams in
# memory while its client does not read.
MAX_SUBSCRIPTIONS = 16
TOO_MANY = b"Too many logs are open in the web UI. Close some and reload this page.\n"
UNREADABLE = b"The object store with this log cannot be read now. `make doctor` says why.\n"
FOLLOW_NO_LINK = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
# O_NONBLOCK: without it, opening a FIFO would block.
FILE = FOLLOW_NO_LINK | os.O_NONBLOCK | os.O_NOCTTY

logger = logging.getLogger("dagster.webserver.StepLogs")


def open_beneath(folder: Path, parts: Sequence[str]) -> int:
    """Opens a regular file beneath a folder for reading, without following a link.

    Args:
        folder: The folder. It is trusted.
        parts: The folders beneath it and the name of the file.

    Returns:
        The file descriptor.

    Raises:
        OSError: The file does not exist or is not a regular file, or a part of the path is a link
            or not a plain name.
    """
    if not parts or not all(map(_is_plain_name, parts)):
        raise FileNotFoundError(f"no path beneath {folder}")
    here = os.open(folder, FOLLOW_NO_LINK | os.O_DIRECTORY)
    try:
        for part in parts[:-1]:
            below = os.open(part, FOLLOW_NO_LINK | os.O_DIRECTORY, dir_fd=here)
            os.close(here)
            here = below
        opened = os.open(parts[-1], FILE, dir_fd=here)
    finally:
        os.close(here)
    if not stat.S_ISREG(os.fstat(opened).st_mode):
        os.close(opened)
        raise FileNotFoundError("not a regular file")
    return opened


class StepLogs(ComputeLogManager[DagsterInstance]):
    """Shows the logs that a log manager in other containers writes."""

    def __init__(self, folder: Path) -> None:
        """Takes the folder of the logs, `base_dir` in dagster.yaml."""
        self.folder = folder
        self.subscriptions: list[CapturedLogSubscription] = []
        self.lock = threading.Lock()
        self.follower: threading.Thread | None = None

    @classmethod
    def replacing(cls, instance: DagsterInstance) -> Self:
        """Replaces the instance's log manager, in this process only.

        dagster.yaml cannot name this class: user images read that file too, and do not contain it.
        """
        configured = instance.compute_log_manager
        if not isinstance(configured, _supported()):
            raise TypeError(f"compute_logs in dagster.yaml: {type(configured)} is not supported")
        data = instance.get_ref().compute_logs_data
        folder: str = data.config_dict["base_dir"] if data else ""
        logs = cls(Path(folder))
        logs.register_instance(instance)
        instance._compute_log_manager = logs  # pyright: ignore[reportPrivateUsage]
        return logs

    def open(self, log_key: Sequence[str], extension: str) -> int:
        """Opens one file of a log. Raises OSError if no such file may be read."""
        return open_beneath(self.folder, _parts(log_key, extension))

    def open_chunks(self, log_key: Sequence[str], io_type: ComputeIOType) -> Iterator[bytes] | None:
        """Opens a stream for download.

        Returns:
            The file's present content in chunks, cut off after MAX_DOWNLOAD_BYTES. None if there is
            no such stream.
        """
        extension = IO_TYPE_EXTENSION[io_type]
        try:
            return _chunks(self.open(log_key, extension))
        except OSError:
            return self._of_store(
                None, lambda store, key: store.chunks(key, MAX_DOWNLOAD_BYTES), log_key, extension
            )

    def is_capture_complete(self, log_key: Sequence[str]) -> bool:
        """Whether the step has ended."""
        for extension, is_complete in (("complete", True), ("err", False)):
            with suppress(OSError):
                os.close(self.open(log_key, extension))
                return is_complete
        # It is asked only for what has left the volume: this is called each second.
        when = self._of_store(None, lambda store, key: store.modified(key), log_key, "err")
        return when is not None

    def get_log_data_for_type(
        self,
        log_key: Sequence[str],
        io_type: ComputeIOType,
        offset: int = 0,
        max_bytes: int | None = None,
    ) -> tuple[bytes | None, int]:
        """Reads at most MAX_BYTES_AT_ONCE of a stream, within its first MAX_SHOWN_BYTES.

        Returns:
            The bytes, or None if there is no such log, and the offset after them.
        """
        offset = max(offset, 0)
        most = min(max_bytes or MAX_BYTES_AT_ONCE, MAX_BYTES_AT_ONCE, MAX_SHOWN_BYTES - offset)
        extension = IO_TYPE_EXTENSION[io_type]
        try:
            opened = self.open(log_key, extension)
        except OSError:
            found = self._of_store(
                UNREADABLE, lambda store, key: store.read(key, offset, most), log_key, extension
            )
            # Whoever follows this log does not get the message again.
            return found, MAX_SHOWN_BYTES if found is UNREADABLE else offset + len(found or b"")
        with os.fdopen(opened, "rb", buffering=0) as file:
            data = os.pread(file.fileno(), most, offset) if most > 0 else b""
        return data, offset + len(data)

    def _of_store(
        self,
        without: Any,  # noqa: ANN401 # what `read` returns
        read: Callable[[ObjectStore, str], Any],
        log_key: Sequence[str],
        extension: str,
    ) -> Any:  # noqa: ANN401 # what `read` returns
        """What the object store has, if there is one; `without` if it cannot be read."""
        try:
            parts = _parts(log_key, extension)
            store = object_store.configured(soon=True)
            if not store or not all(map(_is_plain_name, parts)):
                return None
            return read(store, store.key(object_store.LOGS, *parts))
        except FileNotFoundError:
            return None
        except Exception:
            logger.exception("the log %s cannot be read from the object store", log_key)
            return without

    def get_log_metadata(self, log_key: Sequence[str]) -> CapturedLogMetadata:
        """The paths of the streams of a log, and the URLs where the UI downloads them."""
        where = "/".join(log_key)
        path = self.folder / where
        return CapturedLogMetadata(
            stdout_location=f"{path}.out",
            stderr_location=f"{path}.err",
            stdout_download_url=f"/logs/{where}/out",
            stderr_download_url=f"/logs/{where}/err",
        )

    def get_log_keys_for_log_key_prefix(
        self, log_key_prefix: Sequence[str], io_type: ComputeIOType
    ) -> Sequence[list[str]]:
        """Returns no keys: Dagster needs them only for logs of backfills, which are off."""
        return []

    def subscribe(
        self, log_key: Sequence[str], cursor: str | None = None
    ) -> CapturedLogSubscription:
        """Follows a log until its step has ended."""
        with self.lock:
            if len(self.subscriptions) >= MAX_SUBSCRIPTIONS:
                return _OneTooMany(self, log_key, cursor)
            subscription = CapturedLogSubscription(self, log_key, cursor)
            self.subscriptions.append(subscription)
            if not self.follower:
                self.follower = threading.Thread(target=self._follow, daemon=True)
                self.follower.start()
        return subscription

    def unsubscribe(self, subscription: CapturedLogSubscription) -> None:
        """Stops following. Until then the subscription counts, even if its log has ended."""
        with self.lock, suppress(ValueError):
            self.subscriptions.remove(subscription)
        subscription.complete()

    def _follow(self) -> None:
        while True:
            time.sleep(POLL_SECONDS)
            with self.lock:
                followed = list(self.subscriptions)
                if not followed:
                    self.follower = None
                    return
            for subscription in followed:
                if not subscription.is_complete:
                    is_complete = self.is_capture_complete(subscription.log_key)
                    subscription.fetch()
                    if is_complete:
                        subscription.complete()

    @contextmanager
    def capture_logs(self, log_key: Sequence[str]) -> Generator[CapturedLogContext, None, None]:
        """Refuses: only run containers capture logs."""
        _refuse_to_write(log_key)
        yield

    @contextmanager
    def open_log_stream(
        self, log_key: Sequence[str], io_type: ComputeIOType
    ) -> Generator[IO[bytes] | None, None, None]:
        """Refuses: only code servers write log streams."""
        _refuse_to_write(log_key)
        yield

    def delete_logs(
        self, log_key: Sequence[str] | None = None, prefix: Sequence[str] | None = None
    ) -> None:
        """Refuses: the volume is mounted read-only."""
        _refuse_to_write(log_key or prefix)


class _OneTooMany(CapturedLogSubscription):
    """A subscription that reports the limit and ends."""

    def __call__(self, observer: Callable[[CapturedLogData], None] | None) -> Self:
        self.complete()
        if observer:
            observer(CapturedLogData(log_key=self.log_key, stdout=TOO_MANY, stderr=TOO_MANY))
        return self


def _supported() -> type[ComputeLogManager[DagsterInstance]]:
    """The log manager that the instance has, by the settings."""
    if not object_store.configured():
        return LocalComputeLogManager
    from control_plane.code_server.kept_in_store import ObjectStoreLogs

    return ObjectStoreLogs


def _parts(log_key: Sequence[str], extension: str) -> list[str]:
    """The folders and the name of a log's file. Raises FileNotFoundError if the key is empty."""
    if not log_key:
        raise FileNotFoundError("no log key")
    *folders, base = log_key
    name = f"{base}.{extension}"
    if len(name) > MAX_FILENAME_LENGTH:
        name = f"{non_secure_md5_hash_str(base.encode())}.{extension}"
    return [*folders, name]


def _chunks(opened: int) -> Iterator[bytes]:
    with os.fdopen(opened, "rb", buffering=0) as file:
        left = min(os.fstat(opened).st_size, MAX_DOWNLOAD_BYTES)
        is_cut = left == MAX_DOWNLOAD_BYTES
        while left and (chunk := file.read(min(CHUNK_BYTES, left))):
            left -= len(chunk)
            yield chunk
    if is_cut:
        yield f"\n[cut off after {MAX_DOWNLOAD_BYTES} bytes]\n".encode()


def _is_plain_name(part: str) -> bool:
    return part not in ("", ".", "..") and "/" not in part and "\0" not in part


def _refuse_to_write(what: object) -> NoReturn:
    raise PermissionError(f"the web server only reads step logs: {what}")
