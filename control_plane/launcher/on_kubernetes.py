"""The run launcher of this stack on a cluster: Dagster's own for Kubernetes, watched more closely.

The gap: K8sRunLauncher reports a run whose node does not answer as running, for as long as the node
is away: it reads the Job's status, which counts the pod until the node has confirmed its end. It
says "K8s job failed" where the pod's status has the cause. A Job that cannot be placed stays after
its run has timed out, and starts one day. It has one set of volumes for all code locations, and
a tag of a run may change every field of its pod. This module could be deleted if it read pods.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, cast

from dagster import DagsterInvariantViolationError
from dagster._core.launcher import CheckRunHealthResult, LaunchRunContext, WorkerStatus
from dagster._core.storage.dagster_run import DagsterRun
from dagster_k8s.container_context import K8sContainerContext
from dagster_k8s.job import (
    UserDefinedDagsterK8sConfig,
    get_job_name_from_run_id,  # pyright: ignore[reportUnknownVariableType] # upstream's
)
from dagster_k8s.launcher import K8sRunLauncher
from dagster_shared.record import (
    replace,  # pyright: ignore[reportUnknownVariableType] # upstream's
)
from kubernetes.client.exceptions import (  # pyright: ignore[reportMissingTypeStubs] # upstream's
    ApiException,
)
from urllib3.exceptions import HTTPError

from control_plane.cluster.run_pods import LOCATION_LABEL, resources, volumes_of
from control_plane.guard.policy import byte_count
from control_plane.launcher import LINES, code_server_of
from control_plane.launcher.deaths import cause, is_out_of_memory, last_lines
from control_plane.launcher.limits import BadLimit, limits_of
from control_plane.launcher.watched import WatchedLauncher

GONE = "The Job {} is not on the cluster any more: somebody deleted it."
# Conditions of a pod, set by Kubernetes when it takes a pod away.
DISRUPTED = "DisruptionTarget"
LEFT = (
    "The pod was taken from the node {node}: {why}. If the node has only lost its network, the"
    " process may still work."
)
FAILED = "Its pod was taken from its node, or deleted: {}"
NO_PLACE = "No node takes the pod: {}"
OUT_OF_MEMORY = "OOMKilled"
# What docker-compose.yml calls its images. Those on a cluster have a digest or an ID.
OF_ONE_MACHINE = ":current"


class KubernetesRunLauncher(WatchedLauncher, K8sRunLauncher):
    """K8sRunLauncher that knows code locations, limits by tag, and why a pod ended."""

    WORKER_TAG: ClassVar[str] = "kubernetes/job"
    launching: ClassVar[set[str]] = set()

    def get_container_context_for_run(self, dagster_run: DagsterRun) -> K8sContainerContext:
        """The pod of a run: dagster.yaml's, with its code location's volumes and its own limits.

        Raises:
            Exception: A tag or the code location sets a field that dagster.yaml does not allow.
        """
        location = code_server_of(dagster_run)
        label = {"labels": {LOCATION_LABEL: location}}
        try:
            own = limits_of(dagster_run.tags, self._most())
        except BadLimit:  # refused at the launch; afterwards it is watched and stopped all the same
            own = {}
        added = UserDefinedDagsterK8sConfig.from_dict(  # pyright: ignore[reportUnknownMemberType] # upstream's
            {
                "container_config": {"resources": _resources(own)} if own else {},
                "pod_spec_config": {"volumes": volumes_of(location)},
                "pod_template_spec_metadata": label,
                "job_metadata": label,
            }
        )
        context = super().get_container_context_for_run(dagster_run)
        return context.merge(K8sContainerContext(run_k8s_config=added))

    def launch_run(self, context: LaunchRunContext) -> None:
        """Launches a run. One that was queued on one machine names an image that is not there."""
        run, origin = context.dagster_run, context.dagster_run.job_code_origin
        assert origin and run.remote_job_origin  # noqa: S101 # each queued run has both
        image = origin.repository_origin.container_image or ""
        if image.endswith(OF_ONE_MACHINE) and context.workspace:
            name = run.remote_job_origin.repository_origin.code_location_origin.location_name
            there = context.workspace.get_code_location(name).container_image
            repository = origin.repository_origin._replace(container_image=there)
            run = replace(run, job_code_origin=origin._replace(repository_origin=repository))
        super().launch_run(LaunchRunContext(run, context.workspace))

    def _launch_k8s_job_with_args(self, job_name: str, args: Any, run: DagsterRun) -> None:  # noqa: ANN401 # upstream's
        try:
            limits_of(run.tags, self._most())
        except BadLimit as bad:
            self.do_not_retry(run)
            raise DagsterInvariantViolationError(str(bad)) from None
        self.launching.add(run.run_id)
        try:
            # Before the Job is there: after a crash in between, the monitoring finds none.
            self._instance.add_run_tags(run.run_id, {self.WORKER_TAG: job_name})
            super()._launch_k8s_job_with_args(job_name, args, run)  # pyright: ignore[reportUnknownMemberType] # upstream's
        finally:
            self.launching.discard(run.run_id)

    def reaches_its_engine(self) -> bool:
        """Whether the API server answers this node."""
        try:
            self._batch.list_namespaced_job(self.job_namespace, limit=1, _request_timeout=5)
        except (ApiException, HTTPError):
            return False
        return True

    def check_run_worker_health(self, run: DagsterRun) -> CheckRunHealthResult:
        """Whether the run's pod lives; otherwise why it does not, in words."""
        if run.run_id in self.launching:
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        name = get_job_name_from_run_id(run.run_id)
        try:
            pod = self._pod_of(name)
            if pod is None:
                job = self._json(self._batch.read_namespaced_job(name, self.job_namespace))
                failed = _condition(job, "Failed")
                if failed:  # its pod was removed
                    why = FAILED.format(failed.get("message", ""))
                    return CheckRunHealthResult(WorkerStatus.FAILED, why)
                # The Job controller has not come to it yet.
                return CheckRunHealthResult(WorkerStatus.RUNNING)
        except ApiException as error:
            if _status(error) != 404:
                return CheckRunHealthResult(WorkerStatus.UNKNOWN, f"Kubernetes: {error}")
            return CheckRunHealthResult(WorkerStatus.NOT_FOUND, GONE.format(name))
        ended = _ended(pod)
        if ended:
            if is_out_of_memory(ended):
                self.do_not_retry(run)
            limit: str | None = pod["spec"]["containers"][0]["resources"]["limits"]["memory"]
            return CheckRunHealthResult(WorkerStatus.FAILED, cause(ended, limit))
        taken = _condition(pod, DISRUPTED)
        if taken and taken["status"] == "True":
            node = pod["spec"].get("nodeName", "?")
            return CheckRunHealthResult(
                WorkerStatus.FAILED, LEFT.format(node=node, why=taken["message"])
            )
        return CheckRunHealthResult(WorkerStatus.RUNNING)

    def get_run_worker_debug_info(
        self, run: DagsterRun, include_container_logs: bool | None = True
    ) -> str | None:
        """Why the pod has no node or does not start, or its last lines."""
        del include_container_logs
        pod = self._pod_of(get_job_name_from_run_id(run.run_id))
        if pod is None:
            return None
        if pod["status"]["phase"] == "Pending":
            return _why_pending(pod)
        try:
            said = self._core.read_namespaced_pod_log(
                pod["metadata"]["name"], self.job_namespace, tail_lines=LINES, _request_timeout=10
            )
        except ApiException as error:  # its node is away
            return f"Its last lines cannot be read: {error}"
        return last_lines(said.encode(), LINES, run.run_id)

    def stop(self, run: DagsterRun) -> None:
        """Notes what a pod waited for, and deletes the Job with its pod, which gets SIGTERM."""
        pod = self._pod_of(get_job_name_from_run_id(run.run_id))
        if pod and pod["status"]["phase"] == "Pending":
            self._instance.report_engine_event(_why_pending(pod), run)
        self._api_client.delete_job(  # pyright: ignore[reportUnknownMemberType] # upstream's
            job_name=get_job_name_from_run_id(run.run_id), namespace=self.job_namespace
        )

    @property
    def _core(self) -> Any:  # noqa: ANN401 # the client has no types
        return cast("Any", self._api_client).core_api

    @property
    def _batch(self) -> Any:  # noqa: ANN401 # the client has no types
        return cast("Any", self._api_client).batch_api

    def _pod_of(self, job: str) -> dict[str, Any] | None:
        """The pod of a Job, as Kubernetes describes it in JSON."""
        selector = f"job-name={job}"
        listed = self._core.list_namespaced_pod(
            self.job_namespace, label_selector=selector, _request_timeout=10
        )
        pods: list[dict[str, Any]] = self._json(listed)["items"]
        return pods[-1] if pods else None

    def _json(self, model: Any) -> dict[str, Any]:  # noqa: ANN401 # the client has no types
        return self._core.api_client.sanitize_for_serialization(model)

    def _most(self) -> Mapping[str, Any]:
        """The upper limits of every run, in the terms of container_kwargs."""
        limits = cast("Any", self.run_k8s_config)["container_config"]["resources"]["limits"]
        nano_cpus = int(float(limits["cpu"]) * 10**9)
        return {"mem_limit": int(limits["memory"]), "nano_cpus": nano_cpus}


def _resources(limits: Mapping[str, Any]) -> dict[str, Any]:
    """The limits of a run, in Kubernetes' terms. It has none for the number of processes."""
    memory = limits.get("mem_limit")
    return resources(None if memory is None else byte_count(memory), limits.get("nano_cpus"))


def _ended(pod: Mapping[str, Any]) -> dict[str, Any] | None:
    """How the container of a pod ended, in the engine's terms; None if it has not."""
    statuses: list[dict[str, Any]] = pod["status"].get("containerStatuses") or []
    ended = statuses[0]["state"].get("terminated") if statuses else None
    if ended:
        reason: str = ended.get("reason", "")
        # Kubernetes says Error of every exit code that is not 0.
        said = ended.get("message", "") if reason not in ("Error", "Completed") else ""
        return {
            "Status": "exited",
            "ExitCode": ended["exitCode"],
            "OOMKilled": reason == OUT_OF_MEMORY,
            "Error": said,
        }
    if pod["status"]["phase"] in ("Failed", "Succeeded"):  # before a container was there
        why = f"{pod['status'].get('reason', '')} {pod['status'].get('message', '')}".strip()
        return {"Status": "exited", "ExitCode": 128, "OOMKilled": False, "Error": why or "?"}
    return None


def _status(error: Any) -> int:  # noqa: ANN401 # the client has no types
    return error.status


def _condition(pod: Mapping[str, Any], kind: str) -> dict[str, Any] | None:
    conditions: list[dict[str, Any]] = pod["status"].get("conditions") or []
    return next((one for one in conditions if one["type"] == kind), None)


def _why_pending(pod: Mapping[str, Any]) -> str:
    """What the scheduler says, or the node."""
    scheduled = _condition(pod, "PodScheduled")
    if scheduled and scheduled["status"] != "True":
        return NO_PLACE.format(scheduled.get("message", "the scheduler has not come to it"))
    statuses: list[dict[str, Any]] = pod["status"].get("containerStatuses") or []
    waiting: dict[str, Any] = (statuses[0]["state"].get("waiting") or {}) if statuses else {}
    said = f"{waiting.get('reason', 'not begun')}: {waiting.get('message', '')}".strip(": ")
    return f"The pod waits on the node {pod['spec'].get('nodeName', '?')}: {said}"
