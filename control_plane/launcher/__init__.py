"""The run launcher of this stack: Dagster's DockerRunLauncher, configured with variables.

The gap: dagster.yaml cannot use variables in `container_kwargs` (instance_file.py). Dagster notices
an unset name in `env_vars` only when it launches a run, after the UI has reported "launched"
(dagster-io/dagster#4190). It creates a container even when one of its networks is refused. It does
not say why a container died (deaths.py), nor which image a run will use (images.py), has no limits
for one run (limits.py), and starts a container for each run (warm.py). This module could be deleted
if `container_kwargs` accepted variables, if the instance checked `env_vars` at start, and if the
create request contained all networks.
"""

import os
import re
import signal
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any, ClassVar, Self, cast

import docker
from dagster import (
    DagsterInstance,
    DagsterInvariantViolationError,
    DagsterRunStatus,
    Field,
    IntSource,
)
from dagster._core.launcher import CheckRunHealthResult, WorkerStatus
from dagster._core.storage.dagster_run import DagsterRun
from dagster._core.storage.tags import DOCKER_IMAGE_TAG
from dagster._serdes import ConfigurableClassData
from dagster_docker import DockerRunLauncher
from dagster_docker.container_context import DockerContainerContext
from dagster_docker.docker_run_launcher import DOCKER_CONTAINER_ID_TAG
from docker.errors import DockerException
from sqlalchemy.exc import OperationalError

from control_plane.code_server.usage import MEMORY_TAG, of_limit
from control_plane.guard.policy import ALIVE, TOO_MANY, byte_count
from control_plane.instance_file import LOCATION, Unset, fill, unset_message
from control_plane.launcher.deaths import cause, is_out_of_memory, last_lines
from control_plane.launcher.limits import BadLimit, limits_of, runs_of
from control_plane.launcher.shapes import shape_of
from control_plane.launcher.warm import LOADED, WarmContainers
from control_plane.launcher.watched import WatchedLauncher

# A run whose image is not known uses that of its code server, by name.
UNKNOWN = "unknown"
# The launcher notes the ID of a container before it starts the container.
MAY_REPORT = ("created", *ALIVE)
NOT_TAKEN = "The daemon ended while it handed the run to a container, which had not taken it."
HAS_LEFT = (
    "Its process ended with exit code 0 before it reported the run's end, for example by"
    " os._exit(0). The container {} waits for another run."
)
KILLED = 128 + signal.SIGKILL
OUTLASTED = "It did not end within {} s (stop_timeout in dagster.yaml), and was killed."
GONE = (
    "The container {} is not on this machine any more: it was removed, for example by `make down`."
)
LOST = "The connection to Postgres was lost while the run was launched."
# A guard that is killed is back within seconds.
GUARD_SECONDS = 30
# The housekeeper ends a container whose run is over after two minutes. Dagster waits for three.
ROOM_SECONDS = 150
START = re.compile(r"/containers/(\w+)/start")
NO_ROOM = "Waiting until another run container has ended: {}"
NO_GUARD = "Error while fetching server API version"
# Between the creation of a container and its start there are milliseconds.
LAUNCH_TIME = timedelta(seconds=15)
# So many lines of a dead container's output go to the run's event log. The guard allows no other.
LINES = 50


class ComposeRunLauncher(WatchedLauncher, DockerRunLauncher):
    """DockerRunLauncher that accepts ${NAME} in every string of its configuration."""

    WORKER_TAG: ClassVar[str] = DOCKER_CONTAINER_ID_TAG
    launching: ClassVar[set[str]] = set()

    def __init__(
        self,
        *,
        warm_containers: int = 0,
        runs_per_container: int = 1,
        **config: Any,  # noqa: ANN401 # upstream's
    ) -> None:
        """Makes no container.

        Args:
            warm_containers: How many wait for the next runs of each code location.
            runs_per_container: How many runs each of them executes, one after the other.
            config: The other settings, for DockerRunLauncher.
        """
        super().__init__(**config)  # pyright: ignore[reportUnknownMemberType] # upstream's
        self.size, self.runs_per_container = warm_containers, runs_per_container

    @cached_property
    def warm(self) -> WarmContainers:
        """The containers that wait for runs."""
        return WarmContainers(self._instance, self.size)

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        """DockerRunLauncher's settings, and two more."""
        size = Field(IntSource, is_required=False, description="How many containers wait for runs")
        runs = Field(IntSource, is_required=False, description="How many runs each may execute")
        return {**super().config_type(), "warm_containers": size, "runs_per_container": runs}

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData, config_value: Mapping[str, Any]
    ) -> Self:
        """Builds the launcher from its section of dagster.yaml.

        Raises:
            DagsterInvariantViolationError: A variable that the section uses is not set.
        """
        names: list[str] = config_value.get("env_vars") or []
        for name in names:
            if "=" not in name and name not in os.environ:
                raise DagsterInvariantViolationError(unset_message(name, "env_vars"))
        try:
            # Filled in for each run, in get_container_context.
            later = {LOCATION: f"${{{LOCATION}}}"}
            filled = fill(config_value, {**os.environ, **later})
        except Unset as unset:
            raise DagsterInvariantViolationError(str(unset)) from None
        # The instance page shows this, to viewers too. It shows no other variable's value.
        text = inst_data.config_yaml.replace("${STACK_NAME}", os.environ.get("STACK_NAME", ""))
        shown = inst_data._replace(config_yaml=text)
        return super().from_config_value(shown, cast("Mapping[str, Any]", filled))

    def get_container_context(self, dagster_run: DagsterRun) -> DockerContainerContext:
        """The settings of the run's container, with the volumes of its code location.

        Refuses networks that dagster.yaml does not list.

        DockerRunLauncher connects further networks after it has created the container. A refusal
        by the guard would then leave the container behind. The guard checks everything else,
        because it is in the create request.

        Raises:
            DagsterInvariantViolationError: The run or its code location adds a network.
        """
        context = super().get_container_context(dagster_run)
        configured = cast("list[str]", self.networks)  # pyright: ignore[reportUnknownMemberType] # upstream's
        added = context.networks[len(configured) :]
        if added:
            raise DagsterInvariantViolationError(
                f"refused: the container context adds the networks {', '.join(added)};"
                f" dagster.yaml has {', '.join(configured)}"
            )
        kwargs = dict(context.container_kwargs)
        # DockerRunLauncher adds labels of the run to them.
        if "labels" in kwargs:
            kwargs["labels"] = dict(kwargs["labels"])
        # A run in progress is watched and stopped, whatever its tags have become.
        with suppress(BadLimit):
            kwargs |= limits_of(dagster_run.tags, self._most())
        if "volumes" in kwargs:
            service = code_server_of(dagster_run)
            volumes = cast("list[str]", kwargs["volumes"])
            kwargs["volumes"] = [one.replace(f"${{{LOCATION}}}", service) for one in volumes]
        return context._replace(container_kwargs=kwargs)

    def _launch_container_with_command(
        self, run: DagsterRun, docker_image: str, command: list[str]
    ) -> None:
        """Uses the image that was noted when the run was put into the queue (images.py).

        Raises:
            DagsterInvariantViolationError: A tag of the run asks for more than it may have, or
                Postgres has ended.
        """
        try:
            own = limits_of(run.tags, self._most())
            runs = runs_of(run.tags, self.runs_per_container)
        except BadLimit as bad:
            self.do_not_retry(run)
            raise DagsterInvariantViolationError(str(bad)) from None
        noted = run.tags.get(DOCKER_IMAGE_TAG, UNKNOWN)
        image = docker_image if noted == UNKNOWN else noted
        self.launching.add(run.run_id)
        try:
            # Code with state of its own loads it for its run. A known image has an ID.
            may_be_warm = self.size and not own and not run.has_repository_load_data
            is_known = image.startswith("sha256:")
            if not (may_be_warm and is_known and self._launch_warm(run, image, command, runs)):
                self._launch_when_the_guard_lets(run, image, command)
        except OperationalError as error:
            raise DagsterInvariantViolationError(LOST) from error
        finally:
            self.launching.discard(run.run_id)

    def _launch_warm(self, run: DagsterRun, image: str, command: list[str], runs: int) -> bool:
        context = self.get_container_context(run)
        shape = shape_of(code_server_of(run), image, command, context, runs)
        return bool(shape and self.warm.launch(run, shape))

    def _launch_when_the_guard_lets(self, run: DagsterRun, image: str, command: list[str]) -> None:
        """Waits while the guard is away, or while there are as many containers as there may be."""
        begun, is_told = time.monotonic(), False
        created = None
        while True:
            try:
                if created:  # and the guard refused to start it
                    cast("Any", docker.client.from_env()).api.start(created)
                else:
                    super()._launch_container_with_command(run, image, command)  # pyright: ignore[reportUnknownMemberType] # upstream's
            except DockerException as error:
                waited = time.monotonic() - begun
                if TOO_MANY in str(error) and waited < ROOM_SECONDS:
                    refused = START.search(str(error))
                    created = refused[1] if refused else created
                    if not is_told:
                        self._instance.report_engine_event(NO_ROOM.format(error), run)
                        # Those that wait for a run take room as well.
                        self.warm.end_waiting()
                    is_told = True
                # Nothing has been created yet: it is the first question of a new client.
                elif NO_GUARD not in str(error) or waited > GUARD_SECONDS:
                    raise
            else:
                return
            time.sleep(1)

    def check_run_worker_health(self, run: DagsterRun) -> CheckRunHealthResult:
        """Whether the run's container lives; otherwise why it does not, in words.

        A run that was killed for its memory is not launched again.
        """
        if run.run_id in self.launching:
            # Its container may be a warm one that has died, and a new one is made.
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        identifier = run.tags.get(DOCKER_CONTAINER_ID_TAG)
        if not identifier:
            return CheckRunHealthResult(WorkerStatus.NOT_FOUND, "The run has no container yet.")
        container = self._container_of(run)
        if container is None:
            return CheckRunHealthResult(WorkerStatus.NOT_FOUND, GONE.format(identifier[:12]))
        state = container.attrs["State"]
        if run.status == DagsterRunStatus.STARTING and self.warm.take_back(run, identifier, LOADED):
            return CheckRunHealthResult(WorkerStatus.FAILED, NOT_TAKEN)
        if container.status in MAY_REPORT and not _is_left_behind(container.attrs):
            if self.warm.has_left(run, identifier):
                return CheckRunHealthResult(WorkerStatus.FAILED, HAS_LEFT.format(identifier[:12]))
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        limit = self.get_container_context(run).container_kwargs.get("mem_limit")
        if is_out_of_memory(state):
            self.do_not_retry(run)
            if limit:
                peak = of_limit(byte_count(limit), byte_count(limit))
                self._instance.add_run_tags(run.run_id, {MEMORY_TAG: peak})
        wait = self.get_container_context(run).container_kwargs.get("stop_timeout")
        is_killed = state["ExitCode"] == KILLED and run.status == DagsterRunStatus.CANCELING
        why = OUTLASTED.format(wait) if is_killed else cause(state, limit)
        return CheckRunHealthResult(WorkerStatus.FAILED, why)

    def get_run_worker_debug_info(
        self, run: DagsterRun, include_container_logs: bool | None = True
    ) -> str | None:
        """The last lines of the run's container. Dagster adds them to the run's failure."""
        del include_container_logs  # the daemon passes False for a run in progress
        container = self._container_of(run)
        if container is None:
            return None
        if container.status == "created":
            return cause(container.attrs["State"], None)
        return last_lines(container.logs(tail=LINES), LINES, run.run_id)

    def terminate(self, run_id: str) -> bool:
        """Stops a run's container, and says in the event log that this can take a while."""
        run = self._instance.get_run_by_id(run_id)
        container = run and not run.is_finished and self._container_of(run)
        if run and container:
            if not self.warm.keep(run_id, container.id):
                return False
            wait = self.get_container_context(run).container_kwargs.get("stop_timeout")
            self._instance.report_engine_event(
                f"Asking the container to end (SIGTERM). After {wait} s it is killed (stop_timeout"
                " in dagster.yaml).",
                run,
                cls=self.__class__,
            )
        return super().terminate(run_id)

    def stop(self, run: DagsterRun) -> None:
        """Ends a run's container, unless it executes another run by now."""
        container = self._container_of(run)
        if container and self.warm.keep(run.run_id, container.id):
            container.stop()

    def _most(self) -> Mapping[str, Any]:
        """The upper limits of every run: dagster.yaml's container_kwargs."""
        return cast("Mapping[str, Any]", self.container_kwargs)  # pyright: ignore[reportUnknownMemberType] # upstream's

    def _container_of(self, run: DagsterRun) -> Any:  # noqa: ANN401 # the SDK has no types
        return super()._get_container(run)  # pyright: ignore[reportUnknownMemberType] # upstream's


@contextmanager
def warm_containers(instance: DagsterInstance) -> Generator[None]:
    """Keeps containers that wait for runs, as long as the block lasts."""
    launcher = instance.run_launcher
    warm = launcher.warm if isinstance(launcher, ComposeRunLauncher) else None
    if warm:
        warm.start()
    try:
        yield
    finally:
        if warm:
            warm.end()


def _is_left_behind(container: Mapping[str, Any]) -> bool:
    """Whether the launch ended after it had created the container."""
    if container["State"]["Status"] != "created":
        return False
    return datetime.now(UTC) - datetime.fromisoformat(container["Created"]) > LAUNCH_TIME


def code_server_of(dagster_run: DagsterRun) -> str:
    """The service that serves the run's code location. The guard compares it with the image."""
    origin = dagster_run.remote_job_origin
    location = origin and origin.repository_origin.code_location_origin
    return str(getattr(location, "host", ""))
