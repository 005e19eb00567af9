"""The pod of a run, from the launcher section of dagster.yaml.

The gap: `container_kwargs` are in Docker's terms. Without this module an operator would write the
limits and rights of runs a second time for the cluster, and the two would drift apart.
"""

from collections.abc import Mapping
from typing import Any

from control_plane.guard.policy import byte_count

Object = dict[str, Any]

# The service of a run's code location, on its Job and pod.
LOCATION_LABEL = "dagster.stack/location"
# Which pods may connect to which: one label for each network of docker-compose.yml.
NETWORK_LABEL = "network.dagster.stack/"
# The name of a run's Job and pod, in the label for names.
RUN = "run"
# No rights on the cluster, and no token.
ACCOUNT = "runs"
CREDENTIALS, SETTINGS = "/run/dagster-credentials", "/run/dagster-settings"
DATA, SEED = "/var/lib/dagster/data", "/opt/seed"
STORAGE, LOGS = "/var/lib/dagster/storage", "/var/lib/dagster/compute-logs"
# Where Kubernetes mounts what CREDENTIALS is made from.
HANDED = "/run/secrets/dagster"
INBOX = "/var/lib/dagster/inbox"
# What of container_kwargs a pod gets, and what is the node's own there: logs, and a limit of
# processes. Labels are the cluster's own.
TRANSLATED = {
    "volumes", "init", "stop_timeout", "mem_limit", "nano_cpus", "read_only", "tmpfs", "cap_drop",
    "security_opt",
}  # fmt: skip
NOT_ON_CLUSTERS = {"labels", "pids_limit", "log_config"}
UID = 10001
# Seconds until a pod leaves a node that does not answer. Kubernetes' default is 300. With 0, a pod
# on a node that has just come back is taken away as well: the node still has the mark.
LEAVES_AFTER = 5
# libpq takes no password file that others can read, and every file of a Secret can be read by the
# pod's group.
HAND_OVER = f"install -m 0600 {HANDED}/credentials/* {CREDENTIALS}/"
# What a code location gets from volumes on one machine. Its folders begin as they are in the image.
HAND_OVER_CODE = (
    f"{HAND_OVER}; mkdir -p {SETTINGS}/secrets;"
    f" for file in {HANDED}/settings/.env; do"
    f' [ ! -f "$file" ] || install -m 0400 "$file" {SETTINGS}/; done;'
    f" for file in {HANDED}/location/*; do"
    f' [ ! -f "$file" ] || install -m 0400 "$file" {SETTINGS}/secrets/; done;'
    f" if [ -d {SEED} ]; then cp -R {SEED}/. {DATA}/; fi"
)
# How many runs a node takes in place of each one that uses all that its limit allows.
REQUESTED = {"memory": 2, "cpu": 4}
UNREACHABLE = ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable")


class Refused(Exception):
    """dagster.yaml has something that cannot be had on a cluster. The message is one line."""


def name_of(service: str) -> str:
    """A Compose name as the name of an object: Kubernetes takes no underscore."""
    return service.replace("_", "-")


def command(hand_over: str) -> list[str]:
    """What a container executes before its own command, which follows as arguments."""
    return ["sh", "-euc", f'{hand_over}; exec "$@"', "hand-over"]


def secrets_of(location: str) -> dict[str, str]:
    """The Secrets of a code location by the volumes that have them: its .env, and its secrets.

    Args:
        location: The service of its code server.
    """
    name = name_of(location)
    return {"settings": f"{name}-settings", "location": f"{name}-secrets"}


def volumes_of(location: str) -> list[Object]:
    """The volumes of `secrets_of`, which need not be there."""
    return [
        {"name": name, "secret": {"secret_name": secret, "optional": True, "default_mode": 0o440}}
        for name, secret in secrets_of(location).items()
    ]


def handed_over() -> list[Object]:
    """The mounts of a code location for HAND_OVER_CODE."""
    return [
        *({"name": name, "mount_path": f"{HANDED}/{name}", "read_only": True}
          for name in ("credentials", "settings", "location")),
        {"name": "handed-over", "mount_path": CREDENTIALS, "sub_path": "credentials"},
        {"name": "handed-over", "mount_path": SETTINGS, "sub_path": "settings"},
        {"name": "work", "mount_path": DATA, "sub_path": "data"},
        {"name": "work", "mount_path": STORAGE, "sub_path": "storage"},
        {"name": "work", "mount_path": LOGS, "sub_path": "compute-logs"},
    ]  # fmt: skip


def config_of(launcher: Mapping[str, Any], namespace: str, keep_seconds: int) -> Object:
    """The `config` of KubernetesRunLauncher.

    Args:
        launcher: The `config` of ComposeRunLauncher in dagster.yaml.
        namespace: The namespace of the stack.
        keep_seconds: How long the Job of a run stays after its end.

    Raises:
        Refused: The section has something that a pod would not get.
    """
    kwargs: Mapping[str, Any] = launcher["container_kwargs"]
    refuse_unknown(launcher)
    size = str(kwargs["tmpfs"]["/tmp"]).partition("size=")[2]  # noqa: S108 # in the container
    memory = byte_count(kwargs["mem_limit"])
    network = str(launcher["networks"][0]).rpartition("_")[2]
    labels = {
        f"{NETWORK_LABEL}{network}": "",
        "app.kubernetes.io/part-of": namespace,
        "app.kubernetes.io/name": RUN,
    }
    return {
        "job_namespace": namespace,
        "service_account_name": ACCOUNT,
        # Dagster demands one and mounts none: a run gets its instance on its command line.
        "instance_config_map": "instance",
        "dagster_home": "",
        "image_pull_policy": "IfNotPresent",
        "env_vars": list(launcher.get("env_vars", [])),
        "run_k8s_config": {
            "container_config": {
                "command": command(HAND_OVER_CODE),
                "security_context": {
                    "allow_privilege_escalation": False,
                    "read_only_root_filesystem": bool(kwargs.get("read_only")),
                    "capabilities": {"drop": list(kwargs.get("cap_drop", []))},
                },
                "resources": resources(memory, kwargs["nano_cpus"]),
                "volume_mounts": [
                    {"name": "scratch", "mount_path": "/tmp"},  # noqa: S108 # in the container
                    *handed_over(),
                ],
            },
            "pod_spec_config": {
                "automount_service_account_token": False,
                "enable_service_links": False,
                # The pod's first process reaps what a run leaves (init: true).
                "share_process_namespace": bool(kwargs.get("init")),
                "termination_grace_period_seconds": int(kwargs.get("stop_timeout", 30)),
                "security_context": pod_security(UID),
                "tolerations": [
                    {
                        "key": key,
                        "operator": "Exists",
                        "effect": "NoExecute",
                        "toleration_seconds": LEAVES_AFTER,
                    }
                    for key in UNREACHABLE
                ],
                "volumes": [
                    {
                        "name": "scratch",
                        "empty_dir": {"medium": "Memory", "size_limit": str(byte_count(size))},
                    },
                    {"name": "work", "empty_dir": {}},
                    {"name": "handed-over", "empty_dir": {"medium": "Memory"}},
                    {
                        "name": "credentials",
                        "secret": {"secret_name": "code-credentials", "default_mode": 0o440},
                    },
                ],
            },
            "pod_template_spec_metadata": {"labels": labels},
            "job_metadata": {"labels": labels},
            "job_spec_config": {"backoff_limit": 0, "ttl_seconds_after_finished": keep_seconds},
        },
        # What a tag, or the container context of a code location, may set. The rest is refused.
        "only_allow_user_defined_k8s_config_fields": {
            "container_config": {"resources": True},
            "pod_spec_config": {"node_selector": True, "affinity": True},
        },
        "only_allow_user_defined_env_vars": [],
    }


def resources(memory: int | None, nano_cpus: int | None) -> Object:
    """The resources of a container, for the limits that are given."""
    limits: dict[str, str] = {}
    requests: dict[str, str] = {}
    # Requests are what the scheduler counts, and cannot be above the limits.
    if memory is not None:
        limits["memory"], requests["memory"] = str(memory), str(memory // REQUESTED["memory"])
    if nano_cpus is not None:
        cpus = nano_cpus / 10**9
        limits["cpu"], requests["cpu"] = f"{cpus:g}", f"{cpus / REQUESTED['cpu']:g}"
    return {"limits": limits, "requests": requests}


def refuse_unknown(launcher: Mapping[str, Any]) -> None:
    """Raises Refused for a setting, or a volume of yours, that would be lost without a word."""
    kwargs: Mapping[str, Any] = launcher["container_kwargs"]
    unknown = sorted(kwargs.keys() - TRANSLATED - NOT_ON_CLUSTERS)
    if unknown:
        raise Refused(f"dagster.yaml, container_kwargs: {unknown[0]} has no meaning on a cluster")
    volumes: list[str] = kwargs.get("volumes", [])
    places = {one.split(":")[1] for one in volumes}
    others = sorted(places - {CREDENTIALS, SETTINGS, DATA, STORAGE, LOGS, INBOX})
    if others:
        raise Refused(f"dagster.yaml, volumes: {others[0]}: nodes share no volumes")


def pod_security(uid: int) -> Object:
    """The security context of a pod, as Pod Security's `restricted` demands it."""
    return {
        "run_as_non_root": True,
        "run_as_user": uid,
        "run_as_group": uid,
        "fs_group": uid,
        "seccomp_profile": {"type": "RuntimeDefault"},
    }
