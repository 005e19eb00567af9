"""What the launcher for clusters says of a run, by what Kubernetes says of its Job and pod."""

from unittest.mock import Mock

import pytest
from dagster import DagsterInstance, DagsterRunStatus
from dagster._core.code_pointer import ModuleCodePointer
from dagster._core.launcher import LaunchRunContext, WorkerStatus
from dagster._core.origin import JobPythonOrigin, RepositoryPythonOrigin
from dagster._core.remote_origin import (
    GrpcServerCodeLocationOrigin,
    RemoteJobOrigin,
    RemoteRepositoryOrigin,
)
from dagster._core.test_utils import create_run_for_test
from dagster_k8s.container_context import K8sContainerContext
from dagster_k8s.job import UserDefinedDagsterK8sConfig
from dagster_k8s.launcher import K8sRunLauncher
from dagster_shared.record import replace
from kubernetes.client.exceptions import ApiException

from control_plane.cluster import run_pods
from control_plane.launcher.on_kubernetes import KubernetesRunLauncher

LIMITS = {"resources": {"limits": {"memory": "1073741824", "cpu": "1"}}}
LOST = {"type": "DisruptionTarget", "status": "True", "message": "node is not ready"}


@pytest.fixture
def instance():
    with DagsterInstance.ephemeral() as one:
        yield one


def launcher_of(instance, pod=None, job=None, log=""):
    """A launcher whose cluster has this pod, and answers for the Job with this, or an error."""
    core, batch = Mock(), Mock()
    core.api_client.sanitize_for_serialization.side_effect = lambda model: model
    core.list_namespaced_pod.return_value = {"items": [pod] if pod else []}
    core.read_namespaced_pod_log.return_value = log
    batch.read_namespaced_job.side_effect = [job] if isinstance(job, dict) else job
    made = object.__new__(KubernetesRunLauncher)
    made.job_namespace = "stack"
    made._run_k8s_config = {"container_config": LIMITS}
    made._api_client = Mock(core_api=core, batch_api=batch)
    made.register_instance(instance)
    return made


def pod_with(phase="Running", state=None, **status):
    statuses = [{"state": state}] if state else []
    return {
        "metadata": {"name": "pod"},
        "spec": {"nodeName": "node2", "containers": [LIMITS]},
        "status": {"phase": phase, "containerStatuses": statuses, **status},
    }


def health(instance, *what, status=DagsterRunStatus.STARTED, **more):
    run = create_run_for_test(instance, status=status)
    return launcher_of(instance, *what, **more).check_run_worker_health(run), run


@pytest.mark.parametrize(
    ("pod", "words"),
    [
        (pod_with("Failed", {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}), "memory"),
        (pod_with("Failed", {"terminated": {"exitCode": 137, "reason": "Error"}}), "SIGKILL"),
        (pod_with("Succeeded", {"terminated": {"exitCode": 0, "reason": "Completed"}}), "code 0"),
        (pod_with("Failed", reason="Evicted", message="low on disk"), "Evicted low on disk"),
        (pod_with(conditions=[LOST]), "taken from the node node2: node is not ready"),
    ],
)
def test_a_pod_that_does_not_work_any_more_says_why(instance, pod, words):
    found, _ = health(instance, pod)
    assert found.status == WorkerStatus.FAILED
    assert words in found.msg


def test_a_run_that_needed_too_much_memory_is_not_launched_again(instance):
    pod = pod_with("Failed", {"terminated": {"exitCode": 137, "reason": "OOMKilled"}})
    _, run = health(instance, pod)
    assert instance.get_run_by_id(run.run_id).tags["dagster/max_retries"] == "0"


@pytest.mark.parametrize(
    ("pod", "job"),
    [
        (pod_with(state={"running": {}}), None),
        (pod_with("Pending"), None),
        (None, {"status": {}}),  # the pod is not there yet
    ],
)
def test_a_pod_that_works_or_waits_is_no_failure(instance, pod, job):
    assert health(instance, pod, job)[0].status == WorkerStatus.RUNNING


def test_a_job_that_is_gone_and_one_that_failed_without_a_pod_are_noticed(instance):
    gone, _ = health(instance, job=ApiException(status=404))
    assert gone.status == WorkerStatus.NOT_FOUND
    failed = {"status": {"conditions": [{"type": "Failed", "status": "True", "message": "limit"}]}}
    found, _ = health(instance, job=failed)
    assert found.status == WorkerStatus.FAILED
    assert "limit" in found.msg


def test_an_api_server_that_does_not_answer_fails_no_run(instance):
    assert health(instance, job=ApiException(status=500))[0].status == WorkerStatus.UNKNOWN


def test_a_run_that_this_process_launches_now_is_not_looked_for(instance):
    run = create_run_for_test(instance)
    made = launcher_of(instance, job=ApiException(status=404))
    made.launching = {run.run_id}
    assert made.check_run_worker_health(run).status == WorkerStatus.RUNNING


@pytest.mark.parametrize(
    ("pod", "words"),
    [
        (
            pod_with("Pending", conditions=[
                {"type": "PodScheduled", "status": "False", "message": "0/3 nodes are available"}
            ]),
            "No node takes the pod: 0/3 nodes are available",
        ),
        (
            pod_with("Pending", {"waiting": {"reason": "ErrImagePull", "message": "no such"}}),
            "waits on the node node2: ErrImagePull: no such",
        ),
        (pod_with("Pending"), "waits on the node node2: not begun"),
    ],
)  # fmt: skip
def test_a_pod_that_does_not_start_says_what_it_waits_for(instance, pod, words):
    run = create_run_for_test(instance)
    assert words in launcher_of(instance, pod).get_run_worker_debug_info(run)


def test_the_last_lines_of_a_pod_are_shown(instance):
    pod = pod_with("Failed", {"terminated": {"exitCode": 1, "reason": "Error"}})
    run = create_run_for_test(instance)
    said = launcher_of(instance, pod, log="one\ntwo\n").get_run_worker_debug_info(run)
    assert "two" in said


def test_what_a_pod_waited_for_is_noted_before_its_job_is_deleted(instance):
    """Afterwards nobody knows: the run fails because it took too long to start."""
    run = create_run_for_test(instance)
    made = launcher_of(instance, pod_with("Pending"))
    made.stop(run)
    made._api_client.delete_job.assert_called_once()
    (event,) = instance.all_logs(run.run_id)
    assert "waits on the node node2" in event.message


@pytest.mark.parametrize(
    ("queued", "launched"),
    [
        ("dagster-code:current", "registry/code@sha256:1"),
        ("dagster-code:0b64", "dagster-code:0b64"),
    ],
)
def test_a_run_that_was_queued_on_one_machine_gets_the_image_of_its_code_server(
    instance, monkeypatch, queued, launched
):
    pointer = ModuleCodePointer("served", "defs", "/opt/code")
    origin = JobPythonOrigin("job", RepositoryPythonOrigin("python", pointer, queued))
    server = GrpcServerCodeLocationOrigin("code_location", 4000, location_name="code_location")
    remote = RemoteJobOrigin(RemoteRepositoryOrigin(server, "repository"), "job")
    run = create_run_for_test(instance, status=DagsterRunStatus.STARTING)
    run = replace(run, job_code_origin=origin, remote_job_origin=remote)
    workspace = Mock()
    workspace.get_code_location.return_value.container_image = "registry/code@sha256:1"
    begun = []
    monkeypatch.setattr(K8sRunLauncher, "launch_run", lambda _, context: begun.append(context))
    launcher_of(instance).launch_run(LaunchRunContext(run, workspace))
    (context,) = begun
    repository = context.dagster_run.job_code_origin.repository_origin
    assert repository.container_image == launched


@pytest.mark.parametrize(
    ("tags", "limits", "requests"),
    [
        ({}, {"memory": "1073741824", "cpu": "1"}, {"memory": "536870912", "cpu": "0.25"}),
        (
            {"dagster-docker/memory": "128m", "dagster-docker/cpus": "0.1"},
            {"memory": "134217728", "cpu": "0.1"},
            {"memory": "67108864", "cpu": "0.025"},
        ),
        (
            {"dagster-docker/memory": "128m"},
            {"memory": "134217728", "cpu": "1"},
            {"memory": "67108864", "cpu": "0.25"},
        ),
        (
            {"dagster-docker/processes": "64"},
            {"memory": "1073741824", "cpu": "1"},
            {"memory": "536870912", "cpu": "0.25"},
        ),
    ],
)
def test_a_run_with_own_limits_requests_no_more_than_these(
    instance, monkeypatch, tags, limits, requests
):
    """Kubernetes refuses a request above the limit."""
    described = {"container_config": {"resources": run_pods.resources(2**30, 10**9)}}
    context = K8sContainerContext(run_k8s_config=UserDefinedDagsterK8sConfig.from_dict(described))
    upstream = "get_container_context_for_run"
    monkeypatch.setattr(K8sRunLauncher, upstream, lambda *_: context)
    run = create_run_for_test(instance, tags=tags)
    made = launcher_of(instance).get_container_context_for_run(run)
    resources = made.run_k8s_config.container_config["resources"]
    assert resources == {"limits": limits, "requests": requests}
