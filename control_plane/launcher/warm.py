"""Run containers that have loaded their code and wait: the launcher hands a run to one of them.

The gap: a container needs a second to start and to import, each time, before a run does anything.
Here the daemon keeps a few for each code location that has had a run, as dagster.yaml says
(`warm_containers`). Each executes one run and ends. If it may execute more (`runs_per_container`),
it forks a process for each of its runs, one at a time. A run that has anything of its own, a limit
for example, and a run that finds none, gets a new container as before.

At most once: a run is handed over by a row in Postgres (postgres/warm_containers.sql). Either the
container takes its run, or the launcher or the run monitoring takes it back. A container that is
silent for two seconds loses its run to a new container. This module could be deleted if Dagster had
workers that wait for runs.
"""

import json
import logging
import threading
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, cast

import docker
from dagster import DagsterInstance, DagsterRunStatus
from dagster._core.storage.dagster_run import DagsterRun, RunsFilter
from dagster._core.storage.tags import DOCKER_IMAGE_TAG
from dagster_docker.docker_run_launcher import DOCKER_CONTAINER_ID_TAG
from dagster_postgres import PostgresRunStorage
from docker.errors import APIError, DockerException, NotFound
from requests.exceptions import RequestException

from control_plane.guard.policy import JOB_LABEL, RUN_LABEL, TOO_MANY, WAIT_FOR_RUN
from control_plane.launcher.shapes import JOB, Shape

# So long a container may need to answer.
ANSWER_SECONDS, POLL_SECONDS = 2, 0.01
# What code does when it is imported is at most so old.
MAX_AGE = "15 minutes"
# So long a container may need to load its code.
LOAD_TIME = "2 minutes"
# A container whose run has ended just now is free in so many seconds. Making one takes longer.
SOON_SECONDS = 1
# So long those stay that a burst has left over.
SURPLUS_TIME = "20 seconds"
# New ones are made while no run is launched, so that none has to wait for them.
INTERVAL_SECONDS, BUSY_SECONDS, QUIET_SECONDS = 10, 0.5, 1
LAUNCHED = RunsFilter(statuses=[DagsterRunStatus.STARTING])

# A container of another run ends soon.
SOON = """SELECT 1 FROM warm_containers JOIN runs USING (run_id)
  WHERE fits = %(fits)s AND taken_at IS NOT NULL AND runs_left > 0
    AND status IN ('SUCCESS', 'FAILURE', 'CANCELED')
    AND end_time > extract(epoch FROM now()) - %(seconds)s LIMIT 1"""
CLAIM = """UPDATE warm_containers SET run_id = %(run)s WHERE slot = (
    SELECT slot FROM warm_containers WHERE fits = %(fits)s AND run_id IS NULL
      AND created_at > now() - %(age)s::interval AND is_waiting(number)
    ORDER BY number LIMIT 1 FOR UPDATE SKIP LOCKED) AND run_id IS NULL
  RETURNING slot, container_id"""
# Code in a container can hold the lock of its row. Nothing here waits for it.
FREE = "slot IN (SELECT slot FROM warm_containers WHERE {} FOR UPDATE SKIP LOCKED)"
CALL = """SELECT fits, container_id, ready_at, pg_notify('warm_container_' || slot, '')
  FROM changed"""
GIVE = f"""WITH changed AS (UPDATE warm_containers SET arguments = %(arguments)s, given_at = now()
    WHERE {FREE.format("slot = %(slot)s AND run_id = %(run)s")} RETURNING *) {CALL}"""  # noqa: S608 # ours
ANSWER = """SELECT taken_at IS NOT NULL AS is_taken, is_waiting(number) AS is_waiting
  FROM warm_containers WHERE slot = %(slot)s"""
# A container that has no row ends.
DROP = f"""WITH changed AS (DELETE FROM warm_containers
    WHERE {FREE.format("taken_at IS NULL AND ({})")} RETURNING *) {CALL}"""  # noqa: S608 # ours
IDLE = "SELECT count(*) FROM warm_containers WHERE fits = %(fits)s AND run_id IS NULL"
MADE = """INSERT INTO warm_containers
    (slot, proof_hash, fits, container_id, runs_left, run_id, arguments, given_at)
  VALUES (%(slot)s, sha256(%(proof)s::bytea), %(fits)s, %(container)s, %(runs)s, %(run)s,
    %(arguments)s, CASE WHEN %(run)s IS NOT NULL THEN now() END)
  RETURNING slot"""
LAST = f"""UPDATE warm_containers SET runs_left = 0
  WHERE {FREE.format("{}")} RETURNING slot"""  # noqa: S608 # ours
OTHER = """SELECT run_id IS DISTINCT FROM %(run)s FROM warm_containers
  WHERE container_id = %(container)s"""
WAITING, TAKEN = "given_at IS NULL", "taken_at IS NOT NULL"
# It did not get its run when it was made.
LOADED = "ready_at IS NOT NULL"
CHOSEN = "run_id = %(run)s AND container_id = %(container)s"
UNUSABLE = f"""run_id IS NULL AND (fits <> ALL (%(wanted)s)
    OR created_at < now() - interval '{MAX_AGE}'
    OR ready_at IS NULL AND created_at < now() - interval '{LOAD_TIME}'
    OR slot = ANY (%(dead)s) AND NOT is_waiting(number)
    OR free_since < now() - interval '{SURPLUS_TIME}' AND number NOT IN
      (SELECT number FROM warm_containers kept WHERE kept.fits = warm_containers.fits
       AND run_id IS NULL ORDER BY number LIMIT %(size)s))"""  # noqa: S608 # ours
# They load their code, or have died, or Postgres has restarted.
SILENT = """SELECT slot, container_id FROM warm_containers
  WHERE run_id IS NULL AND NOT is_waiting(number)"""

logger = logging.getLogger("dagster.daemon.WarmContainers")


class WarmContainers:
    """The warm containers of this stack, for the daemon."""

    def __init__(self, instance: DagsterInstance, size: int) -> None:
        """Makes none yet.

        Args:
            instance: Where the runs are.
            size: How many wait for the next runs of each code location.
        """
        self.instance, self.size = instance, size
        # The last shape of each code location, by its name and the number of runs.
        self.wanted: dict[tuple[str, int], Shape] = {}
        self.launched_at = 0.0
        self.called = threading.Event()
        self.making, self.ended = threading.Lock(), False

    def start(self) -> None:
        """Makes containers in the background from now on. Those of an earlier daemon end."""
        threading.Thread(target=self._work, name="warm-containers", daemon=True).start()

    def end(self) -> None:
        """Makes no more. Those that wait end: they would keep Compose from removing the network."""
        with self.making, suppress(Exception):
            self.ended = True
            self._sql(LAST.format(TAKEN))
            for row in self._sql(DROP.format(WAITING)):
                if row.ready_at is None:  # it does not listen yet
                    cast("Any", docker.client.from_env()).api.stop(row.container_id, timeout=0)

    def launch(self, run: DagsterRun, shape: Shape) -> bool:
        """Hands a run to a waiting container, if there is one.

        Args:
            run: The run, in the state STARTING.
            shape: What it needs.

        Returns:
            Whether it has been handed over. If not, no container can take it any more.
        """
        self.launched_at = time.monotonic()
        self.wanted[shape.service, shape.runs] = shape
        container = None
        try:
            claimed = self._claim(run, shape)
            if claimed:
                slot, container = claimed[0]
                self._tell(run, shape, "the warm", container)
                if self._hand_over(run, slot, container, shape.like):
                    return True
                self.instance.report_engine_event(
                    "The warm container did not take the run, and cannot take it any more.", run
                )
            elif shape.runs > 1:
                return self._launch_in_new(run, shape)
        except Exception as error:  # whatever it is, a new container may do
            logger.warning("run %s gets a new container: %s", run.run_id, error)
            if container:
                self.take_back(run, container)
        finally:
            self.called.set()
        return False

    def _claim(self, run: DagsterRun, shape: Shape) -> list[Any]:
        deadline = time.monotonic() + SOON_SECONDS
        while True:
            claimed = self._sql(CLAIM, run=run.run_id, fits=shape.fits, age=MAX_AGE)
            may_wait = shape.runs > 1 and time.monotonic() < deadline
            if claimed or not may_wait:
                return claimed
            if not self._sql(SOON, fits=shape.fits, seconds=SOON_SECONDS):
                return []
            time.sleep(POLL_SECONDS)

    def _launch_in_new(self, run: DagsterRun, shape: Shape) -> bool:
        """Makes a container that has its first run when it starts, and stays for the next ones."""
        container = self._make(shape, run)
        try:
            self._tell(run, shape, "a new", container.id)
            container.start()
        except Exception:
            logger.exception("run %s may not have been launched", run.run_id)
            return not self.take_back(run, container.id)
        return True

    def _tell(self, run: DagsterRun, shape: Shape, which: str, container: str) -> None:
        self.instance.report_engine_event(
            f"Launching run in {which} container {container} with image {shape.image}", run
        )
        tags = {DOCKER_CONTAINER_ID_TAG: container, DOCKER_IMAGE_TAG: shape.image}
        self.instance.add_run_tags(run.run_id, tags)

    def _hand_over(self, run: DagsterRun, slot: str, container: str, arguments: str) -> bool:
        deadline = time.monotonic() + ANSWER_SECONDS
        try:
            if not self._sql(GIVE, slot=slot, run=run.run_id, arguments=arguments):
                return False
            while time.monotonic() < deadline:
                answer = self._sql(ANSWER, slot=slot)
                if not answer:
                    return False
                if answer[0].is_taken:
                    return True
                if not answer[0].is_waiting:
                    break
                time.sleep(POLL_SECONDS)
            return not self.take_back(run, container)
        except Exception:
            # It may have been taken. If not, the run monitoring takes it back.
            logger.exception("it cannot be said whether run %s has been taken", run.run_id)
            return True

    def end_waiting(self) -> None:
        """Ends those that wait for a run. The next launches make new ones."""
        self._sql(DROP.format("run_id IS NULL"))

    def take_back(self, run: DagsterRun, container: str, which: str = "true") -> bool:
        """Whether a container was chosen for a run, and had not taken it. It cannot any more."""
        chosen = f"{CHOSEN} AND {which}"
        return bool(self._sql(DROP.format(chosen), run=run.run_id, container=container))

    def has_left(self, run: DagsterRun, container: str) -> bool:
        """Whether a container that executed this run has gone on to wait for another one."""
        found = self._sql(OTHER, run=run.run_id, container=container)
        return bool(found and found[0][0])

    def keep(self, run_id: str, container: str) -> bool:
        """Whether a container executes this run. It will take no other: it can be stopped."""
        deadline = time.monotonic() + ANSWER_SECONDS
        while time.monotonic() < deadline:
            found = self._sql(OTHER, run=run_id, container=container)
            if not found or found[0][0]:
                return not found
            if self._sql(LAST.format(CHOSEN), run=run_id, container=container):
                return True
            time.sleep(POLL_SECONDS)
        return True

    def run_of(self) -> dict[str, str | None]:
        """The run of each warm container, by what is in the place of its label; or none yet."""
        return dict(self._sql("SELECT slot, run_id FROM warm_containers"))

    def forget(self, listed: Sequence[str]) -> None:
        """Removes rows of containers that do not exist any more."""
        gone = FREE.format("created_at < now() - interval '5 minutes' AND slot <> ALL (%(listed)s)")
        self._sql(f"DELETE FROM warm_containers WHERE {gone} RETURNING 1", listed=list(listed))  # noqa: S608 # ours

    def _sql(self, query: str, **parameters: object) -> list[Any]:
        storage = cast("PostgresRunStorage", self.instance.run_storage)
        with storage.connect() as connection:
            return list(connection.exec_driver_sql(query, parameters))

    def _work(self) -> None:
        begun, look_at = False, 0.0
        while self.size or not begun:
            is_full = True
            try:
                if not begun:
                    self._sql(DROP.format(WAITING))
                    begun = True
                if time.monotonic() >= look_at:
                    look_at = time.monotonic() + INTERVAL_SECONDS
                    self._drop_unusable()
                is_full = self._fill()
            except (DockerException, RequestException) as error:
                logger.warning("no warm container is made, next try soon: %s", error)
            except Exception:  # the database, for example: the daemon goes on
                logger.exception("next try soon")
            self.called.wait(INTERVAL_SECONDS if is_full else BUSY_SECONDS)
            self.called.clear()

    def _fill(self) -> bool:
        """Makes what is missing, one by one; returns whether nothing is missing."""
        for key, shape in list(self.wanted.items()):
            while self._sql(IDLE, fits=shape.fits)[0][0] < self.size:
                if self._is_busy():
                    return False
                with self.making:
                    if self.ended:
                        return True
                    try:
                        self._make(shape).start()
                    except (DockerException, RequestException) as error:
                        logger.warning("no warm container of %s: %s", shape.service, error)
                        if _is_refused(error):  # as its run was
                            self.wanted.pop(key, None)
                        break
        return True

    def _is_busy(self) -> bool:
        """Whether a run is being launched, or has been just now."""
        is_quiet = time.monotonic() - self.launched_at > QUIET_SECONDS
        return not is_quiet or self.instance.get_runs_count(LAUNCHED) > 0

    def _drop_unusable(self) -> None:
        """Ends those that no run can use, and forgets those that have died."""
        silent = self._sql(SILENT)
        images: set[str] = set()
        dead: list[str] = []
        if self.wanted or silent:
            engine = cast("Any", docker.client.from_env()).api
            images = {one["ImageID"] for one in engine.containers()}
            dead = [slot for slot, container in silent if not _is_running(engine, container)]
        for key, shape in list(self.wanted.items()):
            if shape.image not in images:
                self.wanted.pop(key, None)
        fits = [shape.fits for shape in list(self.wanted.values())]
        dropped = self._sql(DROP.format(UNUSABLE), wanted=fits, dead=dead, size=self.size)
        bad = {row.fits for row in dropped if row.ready_at is None}
        for key, shape in list(self.wanted.items()):
            if shape.fits in bad:
                reason = "a container of %s did not load its code: the next run tells"
                logger.warning(reason, shape.service)
                self.wanted.pop(key, None)

    def _make(self, shape: Shape, run: DagsterRun | None = None) -> Any:  # noqa: ANN401 # the SDK has no types
        slot, proof = str(uuid.uuid4()), str(uuid.uuid4())
        client = cast("Any", docker.client.from_env())
        kwargs = {**shape.kwargs}
        labels = {**kwargs.pop("labels", {}), RUN_LABEL: slot, JOB_LABEL: JOB}
        told = {"slot": slot, "proof": proof, "like": shape.like}
        told |= {"is_shared": shape.runs > 1, "has_run": run is not None}
        container = client.containers.create(
            image=shape.image,
            command=[*WAIT_FOR_RUN, json.dumps(told)],
            detach=True,
            environment=shape.environment,
            network=shape.network,
            labels=labels,
            **kwargs,
        )
        self._sql(
            MADE,
            slot=slot,
            proof=proof,
            fits=shape.fits,
            container=container.id,
            runs=shape.runs,
            run=run and run.run_id,
            arguments=run and shape.like,
        )
        return container


def _is_refused(error: Exception) -> bool:
    """Whether the same request would be answered in the same way, by guard or engine."""
    return isinstance(error, APIError) and error.is_client_error() and TOO_MANY not in str(error)


def _is_running(engine: Any, container: str) -> bool:  # noqa: ANN401 # the SDK has no types
    try:
        return engine.inspect_container(container)["State"]["Status"] == "running"
    except NotFound:
        return False
