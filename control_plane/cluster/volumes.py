"""The volumes of docker-compose.yml on a cluster.

Those with credentials become Secrets. The rest is empty, in the pod: nodes share no volumes.
"""

import os
from collections.abc import Mapping
from typing import Any

from control_plane.cluster import run_pods
from control_plane.cluster.description import Stack, camel
from control_plane.cluster.run_pods import (
    CREDENTIALS,
    HAND_OVER,
    HAND_OVER_CODE,
    HANDED,
    Object,
    Refused,
)

# What may be empty when a pod starts (with STORE=s3, nothing in it has to stay), what is in the
# claim of the database, and what nothing uses there.
KNOWN = {
    *("io-storage", "compute-logs", "inbox", "edge-data"),
    *("postgres-data", "guard-launch", "guard-stop"),
}


def volumes_of(
    stack: Stack, name: str, service: Mapping[str, Any]
) -> tuple[str, list[Object], list[Object]]:
    """What a container does before it starts, its volumes, and where they are mounted."""
    volumes: list[Object] = [{"name": "work", "emptyDir": {}}]
    mounts: list[Object] = []
    hand_over = ""
    is_code = name in stack.locations
    volumes.append({"name": "names", "configMap": {"name": "names"}})
    hosts = {"mountPath": "/etc/hosts", "subPath": "hosts", "readOnly": True}
    mounts.append({"name": "names", **hosts})
    tmpfs: list[str] = service.get("tmpfs") or []
    for path in tmpfs:
        volume = f"tmpfs{path.replace('/', '-')}"
        volumes.append({"name": volume, "emptyDir": {"medium": "Memory"}})
        mounts.append({"name": volume, "mountPath": path})
    if "shm_size" in service:
        size = {"medium": "Memory", "sizeLimit": str(service["shm_size"])}
        volumes.append({"name": "shm", "emptyDir": size})
        mounts.append({"name": "shm", "mountPath": "/dev/shm"})  # noqa: S108 # in the container
    given: list[dict[str, str]] = service.get("volumes") or []
    for one in given:
        source, target = one.get("source", ""), one["target"]
        own = {f"{name}-settings", f"{name}-data"} if is_code else set[str]()
        if source not in KNOWN | own and not source.endswith("-credentials"):
            raise Refused(
                f"the service {name}: {target} would be empty at each start of its pod: leave its"
                " profile out of COMPOSE_PROFILES"
            )
        if source == "sign-in-credentials":
            volumes.append(_secret(source, source))
            mounts.append({"name": source, "mountPath": target, "readOnly": True})
        elif source.endswith("-credentials"):
            volumes += [_secret("credentials", source), _memory("handed-over")]
            if not is_code:
                hand_over = HAND_OVER.replace(CREDENTIALS, target)
                mounts += [
                    {
                        "name": "credentials",
                        "mountPath": f"{HANDED}/credentials",
                        "readOnly": True,
                    },
                    {"name": "handed-over", "mountPath": target, "subPath": "credentials"},
                ]
        elif source == "postgres-data":
            mounts.append({"name": source, "mountPath": target})
            volumes.append({"name": "hba", "configMap": {"name": "postgres"}})
            at = {"mountPath": "/etc/postgresql/pg_hba.conf", "subPath": "pg_hba.conf"}
            mounts.append({"name": "hba", "readOnly": True, **at})
        elif not source.startswith("guard-") and not (is_code and source in _of_code(name)):
            mounts.append({"name": "work", "mountPath": target, "subPath": source})
    if name == "postgres":
        # At each start, Kubernetes lets the group write to the claim, which Postgres refuses.
        hand_over += '; if [ -d "$PGDATA" ]; then chmod 0700 "$PGDATA"; fi'
    if is_code:
        hand_over = HAND_OVER_CODE
        volumes += camel(run_pods.volumes_of(name))
        mounts += camel(run_pods.handed_over())
    if {"DAGSTER_HOME", "DATABASE_ROLE"} & (service.get("environment") or {}).keys():
        volumes.append({"name": "instance", "configMap": {"name": "instance"}})
        at = {"mountPath": "/opt/stack/dagster.yaml", "subPath": "dagster.yaml"}
        mounts.append({"name": "instance", "readOnly": True, **at})
    files: list[dict[str, str]] = service.get("secrets") or []
    for file in files:
        if stack.compose["secrets"][file["source"]]["file"] != os.devnull:
            mounts.append({
                "name": "files", "mountPath": file["target"], "subPath": file["source"],
                "readOnly": True,
            })  # fmt: skip
    if any(one["name"] == "files" for one in mounts):
        volumes.append(_secret("files", "files"))
    return hand_over, volumes, mounts


def _of_code(location: str) -> set[str]:
    """The volumes that HAND_OVER_CODE fills, or that a run has as well."""
    return {f"{location}-settings", f"{location}-data", "compute-logs"}


def _secret(volume: str, secret: str) -> Object:
    return {"name": volume, "secret": {"secretName": secret, "defaultMode": 0o440}}


def _memory(volume: str) -> Object:
    return {"name": volume, "emptyDir": {"medium": "Memory"}}
