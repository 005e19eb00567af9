"""What the web server reads of a volume that user code writes: regular files beneath it, no more.

The folder here is written by an attacker: any name in it can be a link, or anything else that has a
name, and can be swapped while it is read.
"""

import multiprocessing
import os
import random
import socket
import threading
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest
from dagster._core.storage.compute_log_manager import ComputeIOType
from dagster._core.storage.local_compute_log_manager import LocalComputeLogManager

from control_plane.code_server import object_store
from control_plane.code_server.object_store import ObjectStore, Settings
from control_plane.webserver import step_logs
from control_plane.webserver.step_logs import (
    MAX_BYTES_AT_ONCE,
    MAX_SHOWN_BYTES,
    StepLogs,
    open_beneath,
)

OUT = ComputeIOType.STDOUT
KEY = ["run", "compute_logs", "step"]
SECRET = b"the database password"
READS = 10_000


@pytest.fixture
def logs(tmp_path):
    (tmp_path / "logs/run/compute_logs").mkdir(parents=True)
    (tmp_path / "secret").write_bytes(SECRET)
    (tmp_path / "outside/compute_logs").mkdir(parents=True)
    (tmp_path / "outside/compute_logs/step.out").write_bytes(SECRET)
    return StepLogs(tmp_path / "logs")


def file_of(logs, extension="out"):
    return logs.folder.joinpath(*KEY[:-1], f"{KEY[-1]}.{extension}")


def everything(logs, key=KEY):
    """All that can be read of a log's output: as the UI shows it, and as it is downloaded."""
    shown, _ = logs.get_log_data_for_type(key, OUT)
    chunks = logs.open_chunks(key, OUT)
    return shown, None if chunks is None else b"".join(chunks)


@pytest.mark.parametrize(
    "key",
    [KEY, ["run", "compute_logs", "x" * 300], ["run", "compute_logs", "a.b [1] é"], ["one"]],
)
def test_it_reads_what_dagster_s_own_manager_writes(logs, key):
    with LocalComputeLogManager(str(logs.folder)).open_log_stream(key, OUT) as stream:
        stream.write("said\n")
    assert everything(logs, key) == (b"said\n", b"said\n")


def test_a_log_that_is_not_there_is_none(logs):
    assert everything(logs) == (None, None)
    assert not logs.is_capture_complete(KEY)
    file_of(logs, "complete").touch()
    assert logs.is_capture_complete(KEY)


@pytest.mark.parametrize(
    "key",
    [
        ["..", "secret"],
        ["run", "..", "..", "secret"],
        ["../secret"],
        ["/etc", "passwd"],
        ["/"],
        ["run", "", "x"],
        [".", "run"],
        ["run/compute_logs", "step"],
        ["run\0", "x"],
        [""],
        [],
    ],
)
def test_a_key_that_is_not_made_of_plain_names_reads_nothing(logs, key):
    file_of(logs).write_bytes(b"said")
    (logs.folder.parent / "secret.out").write_bytes(SECRET)
    assert everything(logs, key) == (None, None)
    assert not logs.is_capture_complete(key)


@pytest.mark.parametrize("target", ["../../../secret", "{outside}/secret", "/dev/zero", "step.err"])
def test_a_link_in_place_of_a_log_is_not_followed(logs, target):
    file_of(logs, "err").write_bytes(b"said")
    file_of(logs).symlink_to(target.format(outside=logs.folder.parent))
    file_of(logs, "complete").symlink_to(logs.folder.parent / "secret")
    assert everything(logs) == (None, None)
    assert not logs.is_capture_complete(KEY)


@pytest.mark.parametrize("depth", [1, 2])
def test_a_link_in_place_of_a_folder_is_not_followed(logs, depth):
    folder = logs.folder.joinpath(*KEY[:depth])
    folder.rename(logs.folder / "moved")
    outside = logs.folder.parent / "outside"
    folder.symlink_to(outside if depth == 1 else outside / "compute_logs")
    assert folder.exists()
    assert everything(logs) == (None, None)


def test_what_is_no_regular_file_is_not_opened_and_not_waited_for(logs, monkeypatch):
    os.mkfifo(file_of(logs))
    assert everything(logs) == (None, None)
    file_of(logs).unlink()
    file_of(logs).mkdir()
    assert everything(logs) == (None, None)
    file_of(logs).rmdir()
    with socket.socket(socket.AF_UNIX) as listener:
        monkeypatch.chdir(file_of(logs).parent)  # a socket's path is short
        listener.bind("step.out")
    assert everything(logs) == (None, None)
    with pytest.raises(OSError, match="not a regular file"):
        open_beneath(file_of(logs).parents[3] / "/dev", ["null"])


def test_of_a_large_log_the_beginning_is_shown(logs):
    """Also of one that claims to have exabytes and has none of them on the disk."""
    with file_of(logs).open("wb") as file:
        file.truncate(2**42)
    shown = offset = 0
    while part := logs.get_log_data_for_type(KEY, OUT, offset, 2**40)[0]:
        assert len(part) <= MAX_BYTES_AT_ONCE
        shown, offset = shown + len(part), offset + len(part)
    assert shown == MAX_SHOWN_BYTES
    assert len(logs.get_log_data_for_type(KEY, OUT)[0]) == MAX_BYTES_AT_ONCE
    assert logs.get_log_data_for_type(KEY, OUT, 2**41) == (b"", 2**41)
    assert len(logs.get_log_data_for_type(KEY, OUT, 10, 100)[0]) == 100
    assert logs.get_log_data_for_type(KEY, OUT, -(10**30), 1) == (b"\0", 1)


def test_a_download_of_an_endless_log_ends(logs, monkeypatch):
    monkeypatch.setattr(step_logs, "MAX_DOWNLOAD_BYTES", 3_000_000)
    with file_of(logs).open("wb") as file:
        file.truncate(2**42)
    _, sent = everything(logs)
    assert len(sent) < 3_000_100
    assert sent.endswith(b"[cut off after 3000000 bytes]\n")


def test_a_log_that_grows_while_it_is_downloaded_ends_where_it_ended_then(logs):
    file_of(logs).write_bytes(b"first")
    chunks = logs.open_chunks(KEY, OUT)
    sent = next(chunks)
    with file_of(logs).open("ab") as file:
        file.write(b"second")
    assert sent + b"".join(chunks) == b"first"


def swap(folder, outside, stop):
    """Swaps the log, and the folders that it is in, for links, for as long as it may."""
    log = folder / "run/compute_logs/step.out"
    while not stop.is_set():
        spare = folder / f"spare-{random.random()}"  # noqa: S311 # a name
        if random.random() < 0.8:  # noqa: S311
            spare.symlink_to(outside / "compute_logs/step.out")
            spare.replace(log)
            spare.write_bytes(b"said")
            spare.replace(log)
        else:
            run = folder / "run"
            run.rename(spare)
            run.symlink_to(outside)
            run.unlink()
            spare.rename(run)


def test_no_read_of_10_000_sees_beyond_a_link_that_is_swapped_in_while_it_reads(logs):
    file_of(logs).write_bytes(b"said")
    stop = multiprocessing.Event()
    outside = logs.folder.parent / "outside"
    swapper = multiprocessing.Process(target=swap, args=(logs.folder, outside, stop))
    swapper.start()
    try:
        seen = {read for _ in range(READS // 2) for read in everything(logs)}
    finally:
        stop.set()
        swapper.join()
    assert swapper.exitcode == 0
    assert seen == {b"said", None}, "both were met, and nothing else"


def test_dagster_s_own_log_manager_follows_a_link_out_of_the_folder(logs):
    """Else the test above would show nothing."""
    file_of(logs).write_bytes(b"said")
    manager = LocalComputeLogManager(str(logs.folder))
    path = manager.get_captured_local_path(KEY, "out")
    file_of(logs).unlink()
    file_of(logs).symlink_to(logs.folder.parent / "secret")
    assert manager.read_path(path)[0] == SECRET


# --- following a log ---


@pytest.fixture
def follow(logs, monkeypatch):
    """Follows the log; gives what was seen so far, and waits for more."""
    monkeypatch.setattr(step_logs, "POLL_SECONDS", 0.01)
    seen, came = [], threading.Event()

    def observe(data):
        seen.append(data.stdout or b"")
        came.set()

    def wait():
        assert came.wait(10)
        came.clear()
        return b"".join(seen)

    subscription = logs.subscribe(KEY)(observe)
    yield wait, subscription
    subscription.dispose()


def test_a_log_is_followed_until_its_step_has_ended(logs, follow):
    wait, subscription = follow
    wait()
    file_of(logs).write_bytes(b"first ")
    assert wait() == b"first "
    with file_of(logs).open("ab") as file:
        file.write(b"second")
    assert wait() == b"first second"
    file_of(logs, "complete").touch()
    deadline = threading.Event()
    while not subscription.is_complete:
        assert not deadline.wait(0.01)
    subscription.dispose()
    assert not logs.subscriptions


def test_following_a_sparse_log_ends(logs, follow):
    wait, _ = follow
    wait()
    with file_of(logs).open("wb") as file:
        file.truncate(2**42)
    while len(wait()) < MAX_SHOWN_BYTES:
        pass
    assert len(logs.subscriptions) == 1


def test_one_followed_log_too_many_says_so_and_ends(logs, monkeypatch):
    """What is held for a client that does not read is bounded."""
    monkeypatch.setattr(step_logs, "MAX_SUBSCRIPTIONS", 3)
    heard = []
    made = [logs.subscribe(KEY)(heard.append) for _ in range(4)]
    assert [one.is_complete for one in made] == [False, False, False, True]
    assert b"Close some" in heard[-1].stdout
    # Also while it has ended and its client has not gone.
    made[0].complete()
    assert logs.subscribe(KEY)(heard.append).is_complete
    made[0].dispose()
    made.append(logs.subscribe(KEY)(heard.append))
    assert not made[-1].is_complete
    for one in made:
        one.dispose()
    assert not logs.subscriptions


@pytest.mark.parametrize("name", ["capture_logs", "open_log_stream"])
def test_step_logs_are_never_written(logs, name):
    arguments = (KEY, OUT)[: 1 if name == "capture_logs" else 2]
    with pytest.raises(PermissionError), getattr(logs, name)(*arguments):
        pass
    with pytest.raises(PermissionError):
        logs.delete_logs(KEY)


class OneObject(ObjectStore):
    """A store whose bucket has the same for each key, and that notes what it is asked for."""

    def __init__(self, content=b"", error=None):
        super().__init__(Settings("bucket", "", "id", "key", "region", None))
        self.content, self.error, self.asked = content, error, []

    def _unless_missing(self, operation, **arguments):
        self.asked.append(arguments["Key"])
        if self.error:
            raise self.error
        body = SimpleNamespace(
            read=lambda: self.content,
            iter_chunks=lambda size: iter([self.content[:size]] * 10),
        )
        return {"Body": body, "LastModified": datetime.now(UTC)}


@pytest.fixture
def kept_in(monkeypatch):
    def use(store):
        monkeypatch.setattr(object_store, "configured", lambda **_: store)
        return store

    return use


def test_what_has_left_the_volume_is_read_from_the_store_up_to_the_same_limits(
    logs, kept_in, monkeypatch
):
    store = kept_in(OneObject(b"x" * object_store.CHUNK_BYTES))
    monkeypatch.setattr(step_logs, "MAX_DOWNLOAD_BYTES", 3 * object_store.CHUNK_BYTES)
    shown, downloaded = everything(logs)
    assert shown == store.content
    assert len(downloaded) == step_logs.MAX_DOWNLOAD_BYTES
    assert logs.is_capture_complete(KEY)
    assert {*store.asked} == {f"compute-logs/{'/'.join(KEY)}.{end}" for end in ("out", "err")}


def test_the_store_is_not_asked_for_what_is_in_the_volume_or_leads_out_of_the_logs(logs, kept_in):
    store = kept_in(OneObject(b"other"))
    file_of(logs).write_text("said")
    file_of(logs, "err").touch()
    assert everything(logs) == (b"said", b"said")
    assert not logs.is_capture_complete(KEY)
    assert everything(logs, ["..", "outputs", "value"]) == (None, None)
    assert store.asked == []


def test_a_store_that_cannot_be_read_is_said_once_in_the_place_of_the_log(logs, kept_in):
    kept_in(OneObject(error=OSError("no route")))
    said, offset = logs.get_log_data_for_type(KEY, OUT)
    assert said == step_logs.UNREADABLE
    assert logs.get_log_data_for_type(KEY, OUT, offset) == (b"", MAX_SHOWN_BYTES)
    assert not logs.is_capture_complete(KEY)
