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
import os
import shlex
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import yaml

from control_plane.cluster import admission, run_pods
from control_plane.cluster.run_pods import (
    ACCOUNT,
    CREDENTIALS,
    HAND_OVER,
    HAND_OVER_CODE,
    HANDED,
    NETWORK_LABEL,
    Object,
    name_of,
)
from control_plane.housekeeping import UNITS
from control_plane.instance_file import fill
from control_plane.workspace import code_servers

LAUNCHER = {"module": "control_plane.launcher.on_kubernetes", "class": "KubernetesRunLauncher"}
NAME, PART_OF = "app.kubernetes.io/name", "app.kubernetes.io/part-of"
# What listens in each service, and on which of its networks: the arrows in docs/architecture.md.
CODE_PORT, EDGE_PORT = 4000, 8080
LISTENS: dict[str, dict[str, list[int]]] = {
    "edge": {"ui": [8082]},
    "sign_in": {"ui": [8000, 8001]},
    "webserver": {"ui": [3000]},
    "webserver_viewer": {"ui": [3000]},
    "postgres": {"db": [5432], "runs": [5432]},
}
CANDIDATE_LABEL = "dagster.stack/candidate"
# The cluster does what these do on one machine.
LEFT_OUT = {"guard", "prepare", "migrate", "cluster"}
# On one machine they reach the guard. Here they reach the API of the cluster, with these rights.
JOB = {"apiGroups": ["batch"], "resources": ["jobs"]}
LOOK = [
    {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"]},
    {"apiGroups": [""], "resources": ["pods/log"], "verbs": ["get"]},
]
STOP = [{"apiGroups": [""], "resources": ["pods"], "verbs": ["delete"]}]
RIGHTS: dict[str, list[Object]] = {
    "daemon": [{**JOB, "verbs": ["create", "get", "list", "delete"]}, *LOOK, *STOP],
    "webserver": [{**JOB, "verbs": ["get", "list", "delete"]}, *LOOK, *STOP],
}
# Two of these at once would do everything twice, or have different sessions.
ONE_AT_A_TIME = {"daemon", "sign_in"}
OWN_IP = "$(POD_IP)"
# Metadata of clouds, with keys of the machine.
LINK_LOCAL = "169.254.0.0/16"
# A budget that never lets a run be evicted: a node that is drained waits for its runs.
ALWAYS = 1_000_000
# Pods of the stack itself that the limit of pods leaves room for.
ROOM = 25


@dataclass(frozen=True)
class Stack:
    """What the operator's command knows, and this program does not.

    Attributes:
        compose: What `docker compose config --format json` prints, with all parts that are on.
        images: By their names in Compose: `ref` on the cluster, `entrypoint`, `cmd` and `user`.
        addresses: The addresses of the Services by service. Empty before they are there.
        api: Where the API server listens: `ip` and `port`.
        earlier: The images that runs may still have, by code location.
    """

    compose: dict[str, Any]
    images: dict[str, dict[str, Any]]
    addresses: dict[str, str]
    api: list[dict[str, Any]]
    earlier: dict[str, list[str]]

    @property
    def name(self) -> str:
        """STACK_NAME, and the namespace."""
        return self.compose["name"]

    @property
    def settings(self) -> dict[str, str]:
        """The settings for clusters."""
        return self.compose["services"]["cluster"]["environment"]

    @property
    def max_runs(self) -> int:
        """The most runs at once."""
        return int(self.settings["CLUSTER_MAX_RUNS"])

    @property
    def services(self) -> dict[str, dict[str, Any]]:
        """Those that run on the cluster."""
        found: dict[str, dict[str, Any]] = self.compose["services"]
        return {
            name: service
            for name, service in found.items()
            if name not in LEFT_OUT and service.get("restart") != "no"
        }

    @property
    def locations(self) -> list[str]:
        """The services of the code locations that are on."""
        found = code_servers({"COMPOSE_PROFILES": self.settings.get("COMPOSE_PROFILES", "")})
        return [name for name in found if name in self.services]

    def listens(self, service: str) -> dict[str, list[int]]:
        """The ports of a service by network."""
        return {"code": [CODE_PORT]} if service in self.locations else LISTENS.get(service, {})

    def ref(self, image: str) -> str:
        """The name of an image on the cluster."""
        return self.images[image]["ref"]


def phases(stack: Stack) -> dict[str, list[Object]]:
    """The objects of a stack, in the order in which they are applied; each phase can be waited for.

    Only the first one is there while Services have no addresses.
    """
    base = [*_base(stack), *_services(stack), *_network_policies(stack)]
    if not stack.addresses:
        return {"base": base}
    deployed = {name: _workload(stack, name) for name in stack.services}
    rest = [n for n in deployed if n != "postgres" and n not in stack.locations]
    names = _object(stack, "ConfigMap", "names", data={"hosts": hosts_file(stack)})
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
    return {name: [ref, *stack.earlier.get(name, [])] for name, ref in now.items()}


def _object(stack: Stack, kind: str, name: str, version: str = "v1", **fields: Any) -> Object:  # noqa: ANN401
    metadata = {"name": name, "namespace": stack.name, "labels": {PART_OF: stack.name, NAME: name}}
    return {"apiVersion": version, "kind": kind, "metadata": metadata, **fields}


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
        _object(stack, "ServiceAccount", ACCOUNT, automountServiceAccountToken=False),
        _object(stack, "ConfigMap", "instance", data={"dagster.yaml": instance_file(stack)}),
        _object(stack, "ConfigMap", "postgres", data={"pg_hba.conf": _pg_hba()}),
        _object(stack, "PodDisruptionBudget", "runs", "policy/v1", spec={
            "minAvailable": ALWAYS, "selector": {"matchLabels": {NAME: "run"}},
        }),
        _object(stack, "PodDisruptionBudget", "webserver", "policy/v1", spec={
            "maxUnavailable": 1, "selector": {"matchLabels": {NAME: "webserver"}},
        }),
        _object(stack, "ResourceQuota", "pods", spec={
            "hard": {"pods": str(stack.max_runs + ROOM)},
        }),
    ]  # fmt: skip
    for name, rules in RIGHTS.items():
        found += [
            _object(stack, "ServiceAccount", name),
            _object(stack, "Role", name, rbac, rules=rules),
            _object(stack, "RoleBinding", name, rbac,
                roleRef={"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name},
                subjects=[{"kind": "ServiceAccount", "name": name, "namespace": stack.name}],
            ),
        ]  # fmt: skip
    return found


def _pg_hba() -> str:
    """Who may sign in to Postgres. Pods have other networks: policies say which may connect."""
    return Path("control_plane/postgres/pg_hba.conf").read_text().replace("samenet", "all    ")


def _services(stack: Stack) -> list[Object]:
    found: list[Object] = []
    for name in stack.services:
        ports = {port for listed in stack.listens(name).values() for port in listed}
        if name == "edge":
            ports.add(EDGE_PORT)
        found.append(_object(stack, "Service", name_of(name), spec={
            "selector": {NAME: name_of(name)},
            "ports": [{"name": f"port-{port}", "port": port} for port in sorted(ports)],
        }))  # fmt: skip
    return [one for one in found if one["spec"]["ports"]]


def _network_policies(stack: Stack) -> list[Object]:
    def policy(name: str, pods: Object, **rules: Any) -> Object:  # noqa: ANN401
        kinds = [kind.capitalize() for kind in rules] or ["Ingress", "Egress"]
        spec = {"podSelector": pods, "policyTypes": kinds, **rules}
        return _object(stack, "NetworkPolicy", name, "networking.k8s.io/v1", spec=spec)

    def ports(numbers: Iterable[int], protocol: str = "TCP") -> list[Object]:
        return [{"port": number, "protocol": protocol} for number in numbers]

    def members(network: str) -> Object:
        return {"matchLabels": {f"{NETWORK_LABEL}{network}": ""}}

    api = [{"ipBlock": {"cidr": f"{one['ip']}/32"}} for one in stack.api]
    found = [
        policy("nothing", {}),
        policy("names", {}, egress=[{"ports": [*ports([53]), *ports([53], "UDP")]}]),
        policy(
            "published", {"matchLabels": {NAME: "edge"}}, ingress=[{"ports": ports([EDGE_PORT])}]
        ),
    ]
    for name in RIGHTS:
        rule = {"to": api, "ports": ports({int(one["port"]) for one in stack.api})}
        found.append(policy(f"{name}-to-api", {"matchLabels": {NAME: name}}, egress=[rule]))
    # `cluster-up` asks a code server that is not live yet what it defines.
    candidates = {"matchExpressions": [{"key": CANDIDATE_LABEL, "operator": "Exists"}]}
    asks = {"from": [{"podSelector": members("code")}], "ports": ports([CODE_PORT])}
    found.append(policy("to-candidates", candidates, ingress=[asks]))
    for service in stack.services:
        rules = [
            {"from": [{"podSelector": members(network)}], "ports": ports(numbers)}
            for network, numbers in stack.listens(service).items()
        ]
        if rules:
            pods = {"matchLabels": {NAME: name_of(service)}}
            found.append(policy(f"to-{name_of(service)}", pods, ingress=rules))
    networks: dict[str, dict[str, Any]] = stack.compose["networks"]
    outside = {"cidr": "0.0.0.0/0", "except": [LINK_LOCAL, *(f"{a['ip']}/32" for a in stack.api)]}
    for network, described in networks.items():
        to: list[Object] = [{"podSelector": members(network)}]
        if not described.get("internal"):
            to.append({"ipBlock": outside})
        found.append(policy(f"from-{network}", members(network), egress=[{"to": to}]))
    return found


def _workload(stack: Stack, name: str) -> Object:
    """The Deployment of a service, or the StatefulSet of the database."""
    spec: Object = {
        "replicas": int(stack.settings["CLUSTER_WEB_SERVERS"]) if name == "webserver" else 1,
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
        return _object(stack, "StatefulSet", name, "apps/v1", spec=spec)
    if name in ONE_AT_A_TIME:
        spec["strategy"] = {"type": "Recreate"}
    else:
        # The next one is there before this one goes.
        rolling = {"maxSurge": 1, "maxUnavailable": 0}
        spec["strategy"] = {"type": "RollingUpdate", "rollingUpdate": rolling}
    return _object(stack, "Deployment", name_of(name), "apps/v1", spec=spec)


def _migration(stack: Stack) -> Object:
    """The Job that creates or upgrades the schema."""
    pod = _pod(stack, "migrate")
    pod["spec"]["restartPolicy"] = "Never"
    # It checks the settings of the launcher, which looks for the API server.
    pod["spec"] |= {"serviceAccountName": "webserver", "automountServiceAccountToken": True}
    return _object(stack, "Job", "migrate", "batch/v1", spec={"backoffLimit": 0, "template": pod})


def _pod(stack: Stack, name: str) -> Object:
    service: dict[str, Any] = stack.compose["services"][name]
    networks: dict[str, dict[str, Any] | None] = service.get("networks") or {}
    own = [alias for one in networks.values() for alias in (one or {}).get("aliases", [])]
    # The control plane's with what it needs on a cluster.
    is_dagster = service["image"] == stack.services["daemon"]["image"]
    of = stack.compose["services"]["cluster"] if is_dagster else service
    image = stack.images[of["image"]]
    uid = int(str(image["user"]).partition(":")[0])
    hand_over, volumes, mounts = _volumes(stack, name, service)
    words: list[str] = [
        *(image["entrypoint"] or []),
        *(service.get("command") or image["cmd"] or []),
    ]
    command = [_with_own_address(str(word), own) for word in words]
    memory, cpus = int(service["mem_limit"]), float(service["cpus"])
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
    seen = hashlib.sha256(f"{instance_file(stack)}{hosts_file(stack)}".encode()).hexdigest()[:16]
    return {"metadata": {"labels": labels, "annotations": {"dagster.stack/files": seen}},
            "spec": spec}  # fmt: skip


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


def _volumes(
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
        source, target = one["source"], one["target"]
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


def hosts_file(stack: Stack) -> str:
    """The names that services have on one machine. Kubernetes' own names take no underscore."""
    lines = ["127.0.0.1 localhost"]
    for name, address in sorted(stack.addresses.items()):
        networks: dict[str, dict[str, Any] | None] = stack.services[name].get("networks") or {}
        aliases = [a for one in networks.values() for a in (one or {}).get("aliases", [])]
        lines.append(" ".join([address, name, *aliases]))
    return "".join(f"{line}\n" for line in lines)


def _seconds(duration: str) -> int:
    """Seconds of a duration as Compose prints it, e.g. 1m0s."""
    minutes, _, seconds = duration.rpartition("m")
    return int(minutes or 0) * 60 + int(float(seconds.removesuffix("s") or 0))


def camel(value: Any) -> Any:  # noqa: ANN401 # any JSON
    """Names of fields as the API has them; dagster-k8s takes them in snake case."""
    if isinstance(value, Mapping):
        named = cast("Mapping[str, Any]", value)
        return {_camel(key): camel(one) for key, one in named.items()}
    if isinstance(value, list):
        listed = cast("list[Any]", value)
        return [camel(one) for one in listed]
    return value


def _camel(name: str) -> str:
    first, *others = name.split("_")
    return first + "".join(one.capitalize() for one in others)


def main() -> None:
    """Prints the phases; ends with status 1 and one line when something cannot be had."""
    try:
        print(json.dumps(phases(Stack(**json.load(sys.stdin)))))
    except run_pods.Refused as refused:
        sys.exit(str(refused))


if __name__ == "__main__":
    main()
