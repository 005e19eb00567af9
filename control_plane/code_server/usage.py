"""A run notes what it uses as tags: the peak of its memory, its CPU time and its wall time.

The gap: Dagster on Docker has no such figures. A limit is then a guess, and the first sign of a
wrong one is a killed run. The run reads its own control group, five times a second: the engine has
no peak of the memory without the page cache, and its figures are gone with the container. `make
sizes` shows those of each job. The control group also counts processes that the kernel killed
for memory, which the engine reports only when the container ends. This module could be deleted if a
run launcher reported all that.
"""

import logging
import os
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from dagster import DagsterEvent, DagsterEventType, DagsterInstance, DagsterRun
from dagster._core.executor.child_process_executor import ChildProcessCrashException
from dagster._core.storage.tags import MAX_RETRIES_TAG
from dagster_postgres.run_storage import PostgresRunStorage

INTERVAL_SECONDS = 0.2
# A run that is killed keeps the figures that it noted last.
FIRST_NOTE_SECONDS, NOTE_SECONDS = 2, 15
ENDS = {
    DagsterEventType.RUN_SUCCESS,
    DagsterEventType.RUN_FAILURE,
    DagsterEventType.RUN_CANCELED,
}
MEMORY_TAG, CPU_TAG, WALL_TAG = "docker/memory_peak", "docker/cpu_time", "docker/wall_time"
# On a run that must not be retried: its former max_retries. A re-execution by a user gets that
# number again (launcher/images.py).
RETRIES_BEFORE_TAG = "docker/max_retries_before"
TOO_MUCH_MEMORY = (
    "The {} used more memory than its limit of {}, and {} killed. It is not launched again, because"
    " the same would happen. Raise the limit (docs/how-to/limit-a-run.md), or use less memory"
    " (docs/how-to/large-data.md)."
)
PROCESS_KILLED = (
    "While the run went on, the kernel killed one of its processes, because the run used more"
    " memory than its limit of {}. That may be why it failed."
)
# In the output of a container that executes many runs (warm_run.py).
RUN_BEGINS = "the run begins: "
MIB = 2**20
# Version 1 of the control groups has a number for "no limit", which no machine reaches.
NO_LIMIT = 2**60
LOGS, LEAST_FREE_BYTES = Path("/var/lib/dagster/compute-logs"), MIB
CGROUP = Path("/sys/fs/cgroup")
# By version of the control groups, the names in memory.stat of what the kernel cannot take back.
# Files in /tmp are shared memory.
V1, V2 = ("total_rss", "total_shmem"), ("anon", "shmem")

logger = logging.getLogger("dagster")


@dataclass
class Before:
    """What this container had used when its run began (warm_run.py)."""

    wall: float = 0
    cpu: float = 0
    killed: int = 0


before = Before()


def begin() -> None:
    """Counts from now on, and not from the container's start."""
    before.wall = _wall_seconds()
    with suppress(OSError, KeyError):  # control groups of another kind
        usage = Usage()
        before.cpu, before.killed = usage.cpu_seconds(), usage.killed()


class Usage:
    """What this container has used so far."""

    def __init__(self, group: Path = CGROUP) -> None:
        """Reads nothing yet.

        Args:
            group: The control group of this container, mounted.
        """
        self.is_v2 = (group / "memory.stat").is_file()
        self.memory = group / "memory.stat" if self.is_v2 else group / "memory/memory.stat"
        self.cpu = group / "cpu.stat" if self.is_v2 else group / "cpuacct/cpuacct.usage"
        limit = "memory.max" if self.is_v2 else "memory/memory.limit_in_bytes"
        self.limit = group / limit
        self.kills = group / ("memory.events" if self.is_v2 else "memory/memory.oom_control")
        self.peak = 0

    def sample(self) -> None:
        """Reads the memory that is used now.

        Raises:
            OSError: This machine has control groups of another kind.
        """
        found = dict(line.split() for line in self.memory.read_text().splitlines())
        used = sum(int(found[name]) for name in (V2 if self.is_v2 else V1))
        self.peak = max(self.peak, used)

    def cpu_seconds(self) -> float:
        """The CPU time of all its processes."""
        text = self.cpu.read_text()
        seconds = int(text.split()[1]) / 1e6 if self.is_v2 else int(text) / 1e9
        return seconds - before.cpu

    def killed(self) -> int:
        """How many processes of this container the kernel has killed for their memory."""
        found = dict(line.split() for line in self.kills.read_text().splitlines())
        return int(found["oom_kill"]) - before.killed

    def tags(self) -> dict[str, str]:
        """The figures until now, as the run's page shows them."""
        self.sample()
        limit = self.limit.read_text().strip()
        return {
            MEMORY_TAG: of_limit(self.peak, int(limit) if limit.isdecimal() else NO_LIMIT),
            CPU_TAG: f"{self.cpu_seconds():.1f} s",
            WALL_TAG: f"{_wall_seconds() - before.wall:.1f} s",
        }


def of_limit(used: int, limit: int) -> str:
    """An amount of memory in bytes, and what it is part of, as the run's page shows them."""
    shown = f"{used / MIB:.0f} MiB"
    return shown if limit >= NO_LIMIT else f"{shown} of {limit / MIB:.0f} MiB"


def _wall_seconds() -> float:
    """The time since the container was started (proc(5): uptime; stat, field 22)."""
    started = int(Path("/proc/1/stat").read_text().rpartition(")")[2].split()[19])
    now = float(Path("/proc/uptime").read_text().split()[0])
    return now - started / os.sysconf("SC_CLK_TCK")


def note_usage() -> None:
    """Makes this process note its usage while its run is in progress, and before the run ends."""
    handle, add_tags = PostgresRunStorage.handle_run_event, PostgresRunStorage.add_run_tags
    # It reads all tags of a run and writes them back. User code adds tags, too.
    one_at_a_time = threading.Lock()

    def add_run_tags(self: PostgresRunStorage, run_id: str, new_tags: Mapping[str, str]) -> None:
        with one_at_a_time:
            add_tags(self, run_id, new_tags)

    usage = Usage()
    try:
        usage.sample()
    except (OSError, KeyError):  # the figures are missing, and the run goes on
        return
    notes: list[Notes] = []

    def handle_run_event(
        self: PostgresRunStorage,
        run_id: str,
        event: DagsterEvent,
        update_timestamp: datetime | None = None,
    ) -> None:
        if not notes:
            notes.append(Notes(usage, lambda: self.add_run_tags(run_id, usage.tags())))
            notes[0].start()
        if event.event_type in ENDS:
            notes[0].end()
            _warn_of_lost_logs(self, run_id, event.job_name)
        if event.event_type == DagsterEventType.RUN_FAILURE:
            _name_killed_processes(usage, self, run_id, event)
        handle(self, run_id, event, update_timestamp)

    PostgresRunStorage.handle_run_event = handle_run_event
    PostgresRunStorage.add_run_tags = add_run_tags


def _warn_of_lost_logs(storage: PostgresRunStorage, run_id: str, job: str) -> None:
    """Dagster loses the output of steps without a word when their disk is full."""
    try:
        disk = os.statvfs(LOGS)
        if disk.f_bavail * disk.f_frsize < LEAST_FREE_BYTES:
            message = f"The disk of {LOGS} is full. Step logs of this run may be incomplete."
            instance = storage._instance  # pyright: ignore[reportPrivateUsage] # as subclasses do
            instance.report_engine_event(message, job_name=job, run_id=run_id)
    except Exception:  # an image without that folder, or Postgres has no space either
        logger.exception("it cannot be said whether the disk is full")


def _name_killed_processes(
    usage: Usage, storage: PostgresRunStorage, run_id: str, event: DagsterEvent
) -> None:
    """The executor knows that the process of a step was killed, but not why."""
    try:
        if not usage.killed():
            return
        instance = storage._instance  # pyright: ignore[reportPrivateUsage] # as subclasses do
        limit = of_limit(int(usage.limit.read_text()), NO_LIMIT)
        is_why = _crashed(event)
        message = (
            TOO_MUCH_MEMORY.format("run", limit, "one of its processes was")
            if is_why
            else PROCESS_KILLED.format(limit)
        )
        instance.report_engine_event(message, job_name=event.job_name, run_id=run_id)
        run = instance.get_run_by_id(run_id)
        tags = do_not_retry(instance, run) if run and is_why else {}
        if tags:
            storage.add_run_tags(run_id, tags)
    except Exception:  # the run has failed all the same
        logger.exception("it cannot be said whether a process was killed for its memory")


def _crashed(event: DagsterEvent) -> bool:
    """Whether a run failed because the process of a step was killed."""
    error = event.job_failure_data.error
    # The executor collects the errors of its processes in one message.
    return bool(error and ChildProcessCrashException.__name__ in error.message)


def do_not_retry(instance: DagsterInstance, run: DagsterRun) -> dict[str, str]:
    """The tags of a run that would fail again in the same way."""
    if run.tags.get(RETRIES_BEFORE_TAG):
        return {}
    before = run.tags.get(MAX_RETRIES_TAG, str(instance.run_retries_max_retries))
    return {MAX_RETRIES_TAG: "0", RETRIES_BEFORE_TAG: before}


class Notes(threading.Thread):
    """Samples the usage, and notes it now and then. A note that fails is not the run's failure."""

    def __init__(self, usage: Usage, note: Callable[[], None]) -> None:
        """Does not start yet."""
        super().__init__(name="usage", daemon=True)
        self.usage, self.note = usage, note
        self.ended = threading.Event()

    def run(self) -> None:
        """Until the run ends."""
        rounds, due = 0, FIRST_NOTE_SECONDS
        while not self.ended.wait(INTERVAL_SECONDS):
            self.usage.sample()
            rounds += 1
            seconds = rounds * INTERVAL_SECONDS
            if seconds >= due:
                due = max(due + NOTE_SECONDS, seconds)
                self._try()

    def end(self) -> None:
        """Notes the last figures, once."""
        if not self.ended.is_set():
            self.ended.set()
            self.join()
            self._try()

    def _try(self) -> None:
        try:
            self.note()
        except Exception:  # Postgres did not come back, or the run was deleted
            logger.exception("the run's usage could not be noted")
