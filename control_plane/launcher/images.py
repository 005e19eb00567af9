"""What web server and daemon do when a run is launched: they note the image that it will use.

The gap: a run names its image by a tag of the engine, `dagster-code:current`, and the name moves
with the next build. A run that waits in the queue meanwhile, or is launched again, executes other
code than its page shows. Here each run gets the ID of the image that its code server runs at the
moment of the launch. Not by a run coordinator in dagster.yaml: run containers load that class, too.
This module could be deleted if a code server could report the ID of its own image.
"""

import os
from contextlib import suppress
from typing import Any, cast

import docker
from dagster import DagsterInstance, DagsterInvariantViolationError
from dagster._core.run_coordinator import QueuedRunCoordinator, SubmitRunContext
from dagster._core.storage.dagster_run import DagsterRun, DagsterRunStatus
from dagster._core.storage.tags import DOCKER_IMAGE_TAG, MAX_RETRIES_TAG
from dagster_docker.docker_run_launcher import DOCKER_CONTAINER_ID_TAG
from docker.errors import DockerException
from requests.exceptions import RequestException
from sqlalchemy.exc import OperationalError

from control_plane.code_server.usage import (
    CPU_TAG,
    MEMORY_TAG,
    RETRIES_BEFORE_TAG,
    WALL_TAG,
    do_not_retry,
)
from control_plane.launcher import UNKNOWN, ComposeRunLauncher, code_server_of

SERVICE_LABEL = "com.docker.compose.service"
# The tags of a run, by the label of its image.
TAGS = {
    "org.opencontainers.image.version": "dagster/image_version",
    "org.opencontainers.image.revision": "dagster/image_revision",
}

LOST = "The connection to Postgres was lost while the run was put into the queue."
# Tags about the container of a run. A run that repeats it has another container.
OF_A_CONTAINER = (DOCKER_CONTAINER_ID_TAG, MEMORY_TAG, CPU_TAG, WALL_TAG)


def note_images(*, for_clients: bool = False) -> None:
    """Makes this process tag each run with its image before it puts the run into the queue.

    Args:
        for_clients: Whether a client waits for the answer. If it gets an error, it may ask again:
            the daemon must not launch the run as well.
    """
    submit_run = QueuedRunCoordinator.submit_run

    def submit(
        self: QueuedRunCoordinator[DagsterInstance], context: SubmitRunContext
    ) -> DagsterRun:
        run, instance = context.dagster_run, self._instance  # pyright: ignore[reportPrivateUsage] # as subclasses do
        try:
            if run.status == DagsterRunStatus.NOT_STARTED:
                noted = {} if _keeps_image(run) else _tags(instance, run)
                instance.add_run_tags(run.run_id, {**noted, **_not_inherited(run)})
            return submit_run(self, context)
        except OperationalError as error:
            if for_clients:
                with suppress(OperationalError):
                    instance.add_run_tags(run.run_id, do_not_retry(instance, run))
            raise DagsterInvariantViolationError(LOST) from error

    QueuedRunCoordinator.submit_run = submit


def _keeps_image(run: DagsterRun) -> bool:
    """Whether a run uses the image of the run that it repeats, if that is known by its ID."""
    is_known = run.tags.get(DOCKER_IMAGE_TAG, "").startswith("sha256:")
    return bool(run.parent_run_id) and is_known and os.environ.get("RETRY_WITH") == "old-code"


def _not_inherited(run: DagsterRun) -> dict[str, str]:
    """What a run must not have from the run that it repeats: Dagster copies all its tags."""
    tags = dict.fromkeys((tag for tag in OF_A_CONTAINER if run.tags.get(tag)), "")
    if run.tags.get(RETRIES_BEFORE_TAG):
        tags[MAX_RETRIES_TAG] = run.tags[RETRIES_BEFORE_TAG]
        tags[RETRIES_BEFORE_TAG] = ""
    return tags


def _tags(instance: DagsterInstance, run: DagsterRun) -> dict[str, str]:
    """The tags for the image that the run's code server runs now.

    On a cluster an image has one name for ever, which the run has from its code server.
    """
    if not isinstance(instance.run_launcher, ComposeRunLauncher):
        return {}
    try:
        client = cast("Any", docker.client.from_env())
        listed = cast("list[dict[str, Any]]", client.api.containers())
        found = {one["Labels"].get(SERVICE_LABEL): one for one in listed}
        reason = "no code server of its code location has a container"
    except (DockerException, RequestException) as error:
        found, reason = {}, f"the guard does not answer: {error}"
    server = found.get(code_server_of(run))
    if server:
        noted = {tag: server["Labels"].get(label, UNKNOWN) for label, tag in TAGS.items()}
        return {DOCKER_IMAGE_TAG: server["ImageID"], **noted}
    instance.report_engine_event(
        f"The image is not known yet ({reason}). The run uses the one that its code server runs"
        " when it starts.",
        run,
    )
    # Not those of a run that it repeats.
    return dict.fromkeys([DOCKER_IMAGE_TAG, *TAGS.values()], UNKNOWN)
