"""Compares what a code location defines on a cluster with what its new image would."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from cli import cluster_secrets, contents, deploys, rollouts
from cli.cluster import Cluster
from cli.cluster_client import PodClient
from cli.errors import StackError
from cli.output import note, say

# Policies let web server and daemon connect to pods with it (control_plane/cluster/networks.py).
LABEL = "dagster.stack/candidate"
NAME = "app.kubernetes.io/name"


def check(cluster: Cluster, deployments: Sequence[Mapping[str, Any]], *, anyway: bool) -> list[str]:
    """Says what would change in each code location whose image is another one than now.

    Args:
        cluster: The cluster.
        deployments: Those of the code servers, as they would be applied.
        anyway: Whether what is switched on may end.

    Returns:
        The services of those code locations.

    Raises:
        StackError: One does not load, or something that is switched on would end.
    """
    there: dict[str, Any] = cluster.get("deployment", "webserver") or {"status": {}}
    if not there["status"].get("readyReplicas"):
        note("note: no web server works, so new code is not compared with what is live")
        return []
    changed: list[str] = []
    services = {one.replace("_", "-"): one for one in cluster.stack.code_servers}
    for one in deployments:
        name: str = one["metadata"]["name"]
        now = cluster.get("deployment", name)
        if not now or _image(now) == _image(one):
            continue
        say(f"checking: {name}")
        try:
            new = _defined(cluster, one, services[name])
        except StackError as error:
            raise StackError(f"{contents.REFUSED}: {name}: {error}") from None
        old = contents.live(cluster.stack, services[name])
        contents.compare(old, new, anyway=anyway, verb="cluster-up")
        changed.append(services[name])
    return changed


def reload(cluster: Cluster, service: str) -> None:
    """Makes each web server ask a code server again; raises StackError if it does not load."""
    for pod in cluster.items("pods", f"--selector={NAME} in (webserver,webserver-viewer)"):
        if pod["status"]["phase"] == "Running" and "deletionTimestamp" not in pod["metadata"]:
            where = f"pod/{pod['metadata']['name']}"
            cluster.stack.client = PodClient(cluster.execute, where)
            deploys.reload(cluster.stack, service)


def _defined(cluster: Cluster, deployment: Mapping[str, Any], service: str) -> contents.Contents:
    """Asks a pod of the new image that no client finds."""
    name = f"{deployment['metadata']['name']}-candidate"
    template: dict[str, Any] = deployment["spec"]["template"]
    labels = {**template["metadata"]["labels"], NAME: name, LABEL: ""}
    metadata = {"name": name, "namespace": cluster.name, "labels": labels}
    spec: dict[str, Any] = {**copy.deepcopy(template["spec"]), "restartPolicy": "Never"}
    # The .env as it would be: what runs has the one of before.
    for volume in spec["volumes"]:
        if volume.get("secret", {}).get("secretName") == cluster_secrets.settings_of(service):
            volume["secret"]["secretName"] = name
    delete = "delete", f"pod/{name}", f"secret/{name}", "--ignore-not-found", "--grace-period=1"
    cluster.kubectl(*delete)  # of a command that was killed
    cluster_secrets.put_settings(cluster, service, name=name)
    cluster.apply([{"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}])
    try:
        rollouts.until(cluster, *rollouts.WORDS["pod"], f"pod/{name}", name=name)
        address = cluster.get("pod", name)["status"]["podIP"]
        ask = "deployment/webserver", "python", "-m", contents.MODULE, address
        return contents.of_answer(cluster.execute(*ask))
    finally:
        cluster.kubectl(*delete)


def _image(deployment: Mapping[str, Any]) -> str:
    return deployment["spec"]["template"]["spec"]["containers"][0]["image"]
