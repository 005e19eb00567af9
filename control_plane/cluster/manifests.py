"""Turns docker-compose.yml, with all settings filled in, into objects of Kubernetes.

The gap: kompose, which is Compose's own converter, turns a network into one label and a volume into
one claim. Here a service gets on the cluster what it has on one machine: its limits, its read-only
root, its probe, the password of its own role, and the connections that the networks allow.

    python -m control_plane.cluster.manifests

Reads JSON from stdin: see `Stack`. Writes JSON to stdout: the objects by phase, in the order in
which they are applied.
"""

import hashlib
import json
import shlex
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from control_plane.cluster import admission, run_pods
from control_plane.cluster.description import (
    NAME,
    PART_OF,
    RIGHTS,
    Stack,
    camel,
    object_of,
)
from control_plane.cluster.networks import hosts_file, policies, services
from control_plane.cluster.run_pods import (
    ACCOUNT,
    NETWORK_LABEL,
    Object,
    name_of,
)
from control_plane.cluster.volumes import volumes_of
from control_plane.housekeeping import UNITS
from control_plane.instance_file import fill

LAUNCHER = {"module": "control_plane.launcher.on_kubernetes", "class": "KubernetesRunLauncher"}
# Two of these at once would do everything twice, or have different sessions.
ONE_AT_A_TIME = {"daemon", "sign_in"}
OWN_IP = "$(POD_IP)"
# Of a run: two connections of its own, and those of one process of a step. What Postgres needs for
# one is less than so many bytes (docs/scaling.md).
CONNECTIONS_OF_RUN, CONNECTION_BYTES = 4, 5 << 20
MAX_CONNECTIONS = "-cmax_connections="
# Of each code location: that of now, and those of runs in progress, and of a way back.
KEPT_IMAGES = 6
# A budget that never lets a run be evicted: a node that is drained waits for its runs.
ALWAYS = 1_000_000
# Pods that are there for a moment: the migration, and the next code of one code location.
ROOM = 2


def phases(stack: Stack) -> dict[str, list[Object]]:
    """The objects of a stack, in the order in which they are applied; each phase can be waited for.

    Only the first one is there while Services have no addresses.
    """
    if stack.services["edge"]["environment"]["SITE"].startswith("https"):
        raise run_pods.Refused(
            "DOMAIN: on a cluster, certificates are those of its Ingress: leave out DOMAIN,"
            " TLS_CERTIFICATE and TLS_KEY, and set UI_URL"
        )
    base = [*_base(stack), *services(stack), *policies(stack)]
    if not stack.addresses:
        return {"base": base}
    deployed = {name: _workload(stack, name) for name in stack.services}
    rest = [n for n in deployed if n not in ("postgres", "daemon", *stack.locations)]
    names = object_of(stack, "ConfigMap", "names", data={"hosts": hosts_file(stack)})
    return {
        "base": [
            *base,
            names,
            *admission.objects(stack.name, _launcher(stack), _run_images(stack)),
        ],
        "database": [deployed["postgres"]],
        "migration": [_migration(stack)],
        "code": [deployed[name] for name in stack.locations],
        "control plane": [deployed[name] for name in rest],
        # Last: if anything before it fails, nothing launches runs.
        "daemon": [deployed["daemon"]],
    }


def instance_file(stack: Stack) -> str:
    """dagster.yaml for the cluster: the image's, with another launcher."""
    instance: dict[str, Any] = yaml.safe_load(Path("dagster.yaml").read_text())
    instance["run_launcher"] = {**LAUNCHER, "config": _launcher(stack)}
    # A run is never resumed: its first worker may still work, on a node that is cut off.
    instance["run_monitoring"]["max_resume_run_attempts"] = 0
    instance["concurrency"]["runs"]["max_concurrent_runs"] = stack.max_runs
    return yaml.safe_dump(instance, sort_keys=False)


def _launcher(stack: Stack) -> Object:
    instance: dict[str, Any] = yaml.safe_load(Path("dagster.yaml").read_text())
    environment = stack.services["daemon"]["environment"]
    config = fill(instance["run_launcher"]["config"], {**environment, "LOCATION": "${LOCATION}"})
    keep = environment["KEEP_FAILED_CONTAINERS"]
    seconds = 10**9 if keep == "forever" else int(keep[:-1]) * UNITS[keep[-1]]
    assert isinstance(config, dict)  # noqa: S101 # for the type checker
    return run_pods.config_of(config, stack.name, seconds)


def _run_images(stack: Stack) -> dict[str, list[str]]:
    """The images that the runs of each code location may have."""
    now = {name: stack.ref(stack.services[name]["image"]) for name in stack.locations}
    # Each once: most calls change no code.
    found = {name: dict.fromkeys([ref, *stack.earlier.get(name, [])]) for name, ref in now.items()}
    return {name: list(refs)[:KEPT_IMAGES] for name, refs in found.items()}


def _base(stack: Stack) -> list[Object]:
    rbac = "rbac.authorization.k8s.io/v1"
    found = [
        {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {
                "name": stack.name,
                "labels": {
                    PART_OF: stack.name,
                    "pod-security.kubernetes.io/enforce": "restricted",
                    "pod-security.kubernetes.io/warn": "restricted",
                },
            },
        },
        object_of(stack, "ServiceAccount", ACCOUNT, automountServiceAccountToken=False),
        object_of(stack, "ConfigMap", "instance", data={"dagster.yaml": instance_file(stack)}),
        object_of(stack, "ConfigMap", "postgres", data={"pg_hba.conf": _pg_hba()}),
        object_of(stack, "PodDisruptionBudget", "runs", "policy/v1", spec={
            "minAvailable": ALWAYS, "selector": {"matchLabels": {NAME: "run"}},
        }),
        object_of(stack, "PodDisruptionBudget", "webserver", "policy/v1", spec={
            "maxUnavailable": 1, "selector": {"matchLabels": {NAME: "webserver"}},
        }),
        object_of(stack, "ResourceQuota", "pods", spec={
            "hard": {"pods": str(_most_pods(stack))},
        }),
    ]  # fmt: skip
    for name, rules in RIGHTS.items():
        found += [
            object_of(stack, "ServiceAccount", name),
            object_of(stack, "Role", name, rbac, rules=rules),
            object_of(stack, "RoleBinding", name, rbac,
                roleRef={"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name},
                subjects=[{"kind": "ServiceAccount", "name": name, "namespace": stack.name}],
            ),
        ]  # fmt: skip
    return found


def _most_pods(stack: Stack) -> int:
    """How many pods of the stack there can be at once."""
    alone = {"postgres", *ONE_AT_A_TIME}
    # Of the others, the next pod is there before the previous one goes.
    own = sum(_replicas(stack, name) + (name not in alone) for name in stack.services)
    # Pods of a node that does not answer count until it is back, and others are in their place.
    return 2 * (own + ROOM + stack.max_runs)


def _replicas(stack: Stack, name: str) -> int:
    return int(stack.settings["CLUSTER_WEB_SERVERS"]) if name == "webserver" else 1


def _pg_hba() -> str:
    """Who may sign in to Postgres. Pods have other networks: policies say which may connect."""
    return Path("control_plane/postgres/pg_hba.conf").read_text().replace("samenet", "all    ")


def _workload(stack: Stack, name: str) -> Object:
    """The Deployment of a service, or the StatefulSet of the database."""
    spec: Object = {
        "replicas": _replicas(stack, name),
        "selector": {"matchLabels": {NAME: name_of(name)}},
        "template": _pod(stack, name),
    }
    if name == "postgres":
        claim: Object = {
            "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": stack.settings["CLUSTER_DATABASE_SIZE"]}},
        }
        if stack.settings["CLUSTER_STORAGE_CLASS"]:
            claim["storageClassName"] = stack.settings["CLUSTER_STORAGE_CLASS"]
        spec |= {
            "serviceName": name,
            "volumeClaimTemplates": [{"metadata": {"name": "postgres-data"}, "spec": claim}],
        }
        return object_of(stack, "StatefulSet", name, "apps/v1", spec=spec)
    if name in ONE_AT_A_TIME:
        spec["strategy"] = {"type": "Recreate"}
    else:
        # The next one is there before this one goes.
        rolling = {"maxSurge": 1, "maxUnavailable": 0}
        spec["strategy"] = {"type": "RollingUpdate", "rollingUpdate": rolling}
    return object_of(stack, "Deployment", name_of(name), "apps/v1", spec=spec)


def _migration(stack: Stack) -> Object:
    """The Job that creates or upgrades the schema."""
    pod = _pod(stack, "migrate")
    pod["spec"]["restartPolicy"] = "Never"
    # It checks the settings of the launcher, which looks for the API server.
    pod["spec"] |= {"serviceAccountName": "webserver", "automountServiceAccountToken": True}
    return object_of(stack, "Job", "migrate", "batch/v1", spec={"backoffLimit": 0, "template": pod})


def _pod(stack: Stack, name: str) -> Object:
    service: dict[str, Any] = stack.compose["services"][name]
    networks: dict[str, dict[str, Any] | None] = service.get("networks") or {}
    own = [alias for one in networks.values() for alias in (one or {}).get("aliases", [])]
    # The control plane's with what it needs on a cluster.
    is_dagster = service["image"] == stack.services["daemon"]["image"]
    of = stack.compose["services"]["cluster"] if is_dagster else service
    image = stack.images[of["image"]]
    uid = int(str(image["user"]).partition(":")[0])
    hand_over, volumes, mounts = volumes_of(stack, name, service)
    words: list[str] = [
        *(image["entrypoint"] or []),
        *(service.get("command") or image["cmd"] or []),
    ]
    command = [_with_own_address(str(word), own) for word in words]
    memory, cpus = int(service["mem_limit"]), float(service["cpus"])
    if name == "postgres":
        command, further = _with_connections(command, stack.max_runs)
        memory += further * CONNECTION_BYTES
    container: Object = {
        "name": name_of(name),
        "image": image["ref"],
        "imagePullPolicy": "IfNotPresent",
        **(
            {"command": run_pods.command(hand_over), "args": command}
            if hand_over
            else {"command": command}
        ),
        "env": _environment(stack, name, service, own),
        "resources": {
            "limits": {"memory": str(memory), "cpu": f"{cpus:g}"},
            "requests": {"memory": str(memory // 2), "cpu": "50m"},
        },
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": bool(service.get("read_only")),
            "capabilities": {"drop": service["cap_drop"]},
        },
        "volumeMounts": mounts,
        **_probes(service, own),
    }
    labels = {NAME: name_of(name), PART_OF: stack.name}
    labels |= {f"{NETWORK_LABEL}{network}": "" for network in networks}
    if name == "migrate":
        labels[NAME] = "webserver-migrate"
    has_rights = name in RIGHTS
    spec: Object = {
        "serviceAccountName": name if has_rights else "default",
        "automountServiceAccountToken": has_rights,
        "enableServiceLinks": False,
        "securityContext": camel(run_pods.pod_security(uid)),
        "tolerations": [
            {"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 20}
            for key in run_pods.UNREACHABLE
        ],
        "terminationGracePeriodSeconds": _seconds(service.get("stop_grace_period", "10s")),
        "containers": [container],
        "volumes": volumes,
    }
    if name == "webserver":
        spec["topologySpreadConstraints"] = [{
            "maxSkew": 1, "topologyKey": "kubernetes.io/hostname",
            "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": {"matchLabels": {NAME: name}},
        }]  # fmt: skip
    # A pod does not see a ConfigMap change that is mounted as one file: it starts again.
    has_instance = any(one["name"] == "instance" for one in volumes)
    files = f"{instance_file(stack) if has_instance else ''}{hosts_file(stack)}"
    seen = hashlib.sha256(files.encode()).hexdigest()[:16]
    return {"metadata": {"labels": labels, "annotations": {"dagster.stack/files": seen}},
            "spec": spec}  # fmt: skip


def _with_connections(command: list[str], runs: int) -> tuple[list[str], int]:
    """The command of Postgres with connections for so many runs, and how many it has in addition.

    What it has on one machine is for the control plane, code servers and some runs.
    """
    (given,) = (word for word in command if word.startswith(MAX_CONNECTIONS))
    has = int(given.removeprefix(MAX_CONNECTIONS))
    needs = max(has, has // 2 + CONNECTIONS_OF_RUN * runs)
    changed = [f"{MAX_CONNECTIONS}{needs}" if word == given else word for word in command]
    return changed, needs - has


def _environment(
    stack: Stack, name: str, service: Mapping[str, Any], own: list[str]
) -> list[Object]:
    given: dict[str, str | None] = dict(service.get("environment") or {})
    given.pop("DOCKER_HOST", None)
    given.pop("FILES", None)
    if "DAGSTER_CONTAINER_IMAGE" in given:
        given["DAGSTER_CONTAINER_IMAGE"] = stack.ref(service["image"])
    if name == "postgres":
        # A claim's own folder has rights that Postgres refuses.
        given["PGDATA"] = f"{given['PGDATA']}/pgdata"
    if name == "edge":
        given["RELAY_ADDRESS"] = OWN_IP
    if "ALLOWED_HOSTS" in given:
        # Of the probes.
        given["ALLOWED_HOSTS"] = f"{given['ALLOWED_HOSTS']} {OWN_IP}"
    field = {"fieldRef": {"fieldPath": "status.podIP"}}
    return [
        {"name": "POD_IP", "valueFrom": field},
        *(
            {"name": key, "value": _with_own_address(str(value).replace("$$", "$"), own)}
            for key, value in sorted(given.items())
            if value is not None
        ),
    ]


def _with_own_address(text: str, own: Iterable[str]) -> str:
    """A service's own name on a network is the address of one pod here, not of all its pods."""
    for alias in own:
        text = text.replace(alias, OWN_IP)
    return text


def _probes(service: Mapping[str, Any], own: Iterable[str]) -> Object:
    if "healthcheck" not in service:
        return {}
    check: dict[str, Any] = service["healthcheck"]
    words = shlex.join(check["test"][1:])
    for alias in own:
        words = words.replace(alias, "$POD_IP")
    probe = {
        "exec": {"command": ["sh", "-c", f"exec {words}"]},
        "timeoutSeconds": _seconds(check["timeout"]),
    }
    every = _seconds(check["start_interval"])
    return {
        "startupProbe": {
            **probe,
            "periodSeconds": every,
            "failureThreshold": _seconds(check["start_period"]) // every,
        },
        "readinessProbe": {
            **probe,
            "periodSeconds": _seconds(check["interval"]),
            "failureThreshold": check["retries"],
        },
    }


def _seconds(duration: str) -> int:
    """Seconds of a duration as Compose prints it, e.g. 1m0s."""
    minutes, _, seconds = duration.rpartition("m")
    return int(minutes or 0) * 60 + int(float(seconds.removesuffix("s") or 0))


def main() -> None:
    """Prints the phases; ends with status 1 and one line when something cannot be had."""
    try:
        print(json.dumps(phases(Stack(**json.load(sys.stdin)))))
    except run_pods.Refused as refused:
        sys.exit(str(refused))


if __name__ == "__main__":
    main()
