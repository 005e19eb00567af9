"""Show the health of the stack on a Kubernetes cluster, and its nodes."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import Any

from cli import health, rollouts, store
from cli.cluster import Cluster
from cli.errors import StackError
from cli.output import say, table
from cli.stack import Stack


def add(parser: ArgumentParser) -> None:
    """It has no flags."""
    del parser


def run(stack: Stack, flags: Namespace) -> None:
    """Raises StackError that names what is wrong."""
    del flags
    cluster = Cluster(stack)
    cluster.refuse_other()
    rows, problems = [["part", "ready", "nodes"]], list[str]()
    workloads = cluster.items("deployments,statefulsets")
    if not workloads:
        raise StackError(f"the stack {cluster.name} is not on this cluster: make cluster-up")
    pods: list[dict[str, Any]] = cluster.items("pods")
    for one in workloads:
        name, wanted = one["metadata"]["name"], one["spec"]["replicas"]
        ready = one["status"].get("readyReplicas", 0)
        rows.append([name, f"{ready}/{wanted}", ", ".join(sorted(_nodes(pods, name)))])
        if not wanted:
            problems.append(f"{name}: stopped: make cluster-up")
        elif ready < wanted:
            problems.append(f"{name}: {rollouts.reason(cluster, name) or 'not ready'}")
    runs = [pod for pod in pods if pod["metadata"]["labels"].get("job-name") != "migrate"
            and "job-name" in pod["metadata"]["labels"]]  # fmt: skip
    going = [pod for pod in runs if pod["status"]["phase"] == "Running"]
    say(table([*rows, ["runs", f"{len(going)} running", ", ".join(sorted(_of(going)))]]))
    for node in cluster.items("nodes"):
        state = {one["type"]: one["status"] for one in node["status"]["conditions"]}
        if state.get("Ready") != "True":
            problems.append(f"the node {node['metadata']['name']} is not ready")
    # What the parts say of the code locations and of the bucket, once they work.
    problems = problems or health.location_errors(cluster.stack) or _of_store(cluster)
    if problems:
        raise StackError(" | ".join(problems))
    say("\nAll well.")


def _of_store(cluster: Cluster) -> list[str]:
    try:
        cluster.execute("deployment/daemon", "python", "-m", *store.CHECK)
    except StackError as error:
        return [str(error).partition("object store: ")[2] or str(error)]
    return []


def _nodes(pods: list[dict[str, Any]], name: str) -> set[str]:
    return _of([one for one in pods if _label(one) == name])


def _of(pods: list[dict[str, Any]]) -> set[str]:
    return {str(one["spec"].get("nodeName", "?")) for one in pods}


def _label(pod: dict[str, Any]) -> str:
    return pod["metadata"]["labels"].get("app.kubernetes.io/name", "")
