"""A thread of the daemon that removes run containers and old runs some time after their end.

The gap: DockerRunLauncher leaves every container behind. A schedule of one minute leaves 1,440 a
day. This module could be deleted if Dagster removed the container of a run some time after its end.
It is a thread, because a service of its own would need 140 MB for the same imports.

Environment: KEEP_SUCCEEDED_CONTAINERS, KEEP_FAILED_CONTAINERS and KEEP_RUNS (old_runs.py): 10m,
12h, 7d or forever.
"""

import logging
import os
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import docker
from dagster import DagsterInstance, DagsterRunStatus
from dagster._core.storage.dagster_run import RunsFilter
from dagster._time import get_current_timestamp
from dagster_docker import DockerRunLauncher
from docker.errors import APIError, DockerException
from requests.exceptions import RequestException

from control_plane.guard.policy import ALIVE, RUN_LABEL
from control_plane.launcher.warm import WarmContainers
from control_plane.old_runs import OldRuns

INTERVAL_SECONDS = 60
HOUR_SECONDS, DAY_SECONDS = 3600, 24 * 3600
UNITS = {"m": 60, "h": HOUR_SECONDS, "d": DAY_SECONDS}
# A process may still work after it has reported the end of its run: hooks, a slow exit.
GRACE_SECONDS = 60
# In one round. After a long time without a housekeeper, the engine stays quick for launches.
BATCH = 100
# So many containers are on a page of the guard's list. The guard allows no other number.
PAGE = 200

logger = logging.getLogger("dagster.daemon.Housekeeper")


@dataclass(frozen=True)
class Ended:
    """A run that has ended: when, in seconds since 1970, and whether with success."""

    at: float
    is_success: bool


@dataclass(frozen=True)
class Keep:
    """How many seconds after the end of a run its container and it stay. None is forever."""

    succeeded: float | None
    failed: float | None
    runs: float | None

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> "Keep":
        """Reads the settings.

        Raises:
            SystemExit: One of them is not a duration.
        """
        return cls(
            _seconds("KEEP_SUCCEEDED_CONTAINERS", environment),
            _seconds("KEEP_FAILED_CONTAINERS", environment),
            _seconds("KEEP_RUNS", environment),
        )

    def is_over(self, run: Ended, now: float) -> bool:
        """Whether the container of a run is of no use any more.

        Args:
            run: The run.
            now: The time, in seconds since 1970.
        """
        limit = self.succeeded if run.is_success else self.failed
        return limit is not None and now - run.at >= limit


def _seconds(name: str, environment: Mapping[str, str]) -> float | None:
    value = environment[name]
    if value == "forever":
        return None
    match = re.fullmatch(r"(\d+)([mhd])", value)
    if not match:
        raise SystemExit(f"{name}={value!r} cannot be used: use 10m, 12h, 7d or forever")
    return int(match[1]) * UNITS[match[2]]


class Housekeeper:
    """Looks at the run containers of this stack, once a minute."""

    def __init__(self, instance: DagsterInstance, keep: Keep, warm: WarmContainers) -> None:
        """Does nothing yet."""
        self.instance = instance
        self.keep = keep
        # Each run is read once an hour after its end, and not once a minute. It may be deleted.
        self.ended: dict[str, Ended] = {}
        self.read_at = 0.0
        self.warm = warm
        self.old_runs = OldRuns(instance, keep.runs)
        self.removed = 0
        self.reported_at = get_current_timestamp()

    def start(self) -> None:
        """Works in the background until the process ends."""
        threading.Thread(target=self._work, name="housekeeper", daemon=True).start()

    def _work(self) -> None:
        # On a cluster, Kubernetes removes the Jobs of runs (cluster/run_pods.py).
        has_containers = isinstance(self.instance.run_launcher, DockerRunLauncher)
        while True:
            try:
                if has_containers:
                    self.tidy()
                self.old_runs.tidy(get_current_timestamp())
            except (DockerException, RequestException) as error:
                logger.warning("the guard does not answer, next try in a minute: %s", error)
            except Exception:  # the database, for example: the daemon goes on
                logger.exception("next try in a minute")
            threading.Event().wait(INTERVAL_SECONDS)

    def tidy(self) -> None:
        """One round: removes containers that are over, and stops those whose run is over."""
        client = cast("Any", docker.client.from_env()).api
        listed = _all_containers(client)
        now = get_current_timestamp()
        # A warm container that waits has no run yet.
        warm = self.warm.run_of()
        labels = [one["Labels"][RUN_LABEL] for one in listed]
        run_of = {label: warm.get(label, label) for label in labels}
        ended, going_on = self._runs({run for run in run_of.values() if run})
        left = BATCH
        for one, label in zip(listed, labels, strict=True):
            run = run_of[label]
            alive = one["State"] in ALIVE
            if run is None or run in going_on:
                continue
            if run not in ended:  # it has been deleted
                over = now - one["Created"] > GRACE_SECONDS
            elif alive:
                over = now - ended[run].at > GRACE_SECONDS
            else:
                over = self.keep.is_over(ended[run], now)
            if not over or left == 0:
                continue
            left -= 1
            try:
                if alive and not self.warm.keep(run, one["Id"]):
                    continue  # it executes another run by now
                if alive:
                    logger.warning("stopping container %s: its run is over", one["Id"][:12])
                    client.stop(one["Id"])
                else:
                    client.remove_container(one["Id"], v=True)
                    self.removed += 1
            except APIError as error:
                # Somebody else was quicker, or the engine is busy: the next round looks again.
                logger.info("container %s: %s", one["Id"][:12], error)
        self.warm.forget(labels)
        self._report(now)

    def _runs(self, runs: set[str]) -> tuple[dict[str, Ended], set[str]]:
        """Those that have ended, and those that have not. A deleted run is in neither."""
        now = get_current_timestamp()
        if now - self.read_at >= HOUR_SECONDS:
            self.ended, self.read_at = {}, now
        self.ended = {run: self.ended[run] for run in runs & self.ended.keys()}
        going_on: set[str] = set()
        unknown = sorted(runs - self.ended.keys())
        for start in range(0, len(unknown), PAGE):
            wanted = RunsFilter(run_ids=unknown[start : start + PAGE])
            for record in self.instance.get_run_records(wanted):
                run = record.dagster_run
                if run.is_finished and record.end_time is not None:
                    is_success = run.status == DagsterRunStatus.SUCCESS
                    self.ended[run.run_id] = Ended(record.end_time, is_success)
                else:
                    going_on.add(run.run_id)
        return self.ended, going_on

    def _report(self, now: float) -> None:
        if now - self.reported_at >= DAY_SECONDS:
            logger.info(
                "removed %d run containers and deleted %d old runs in the last day",
                self.removed,
                self.old_runs.deleted,
            )
            self.removed, self.old_runs.deleted, self.reported_at = 0, 0, now


def _all_containers(client: Any) -> list[dict[str, Any]]:  # noqa: ANN401 # the SDK has no types
    """This stack's run containers, newest first."""
    found: list[dict[str, Any]] = client.containers(all=True, limit=PAGE)
    page = found
    while len(page) == PAGE:
        page = client.containers(all=True, limit=PAGE, before=page[-1]["Id"])
        found = [*found, *page]
    return found


def keep_house(instance: DagsterInstance) -> None:
    """Starts the housekeeper of this process."""
    keep, warm = Keep.from_environment(os.environ), WarmContainers(instance, 0)
    Housekeeper(instance, keep, warm).start()
