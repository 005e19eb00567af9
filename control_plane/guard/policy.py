"""The policy for run containers: the launcher section of dagster.yaml, and nothing else.

The gap: Dagster launches any container that the stored run describes (its image, its container
context). Without a policy, a client that can write a row of the runs table becomes root on the
host. The guard parses each create request strictly and compares every field with this policy. It
then builds a new body from the policy and the few values that differ between runs. It never
forwards the text of the request: duplicate keys, letter case and escapes defeat filters that
search the text. This module could be deleted if the engine could limit its clients by a policy.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

from control_plane.instance_file import LOCATION, Unset, fill

# The launcher sends less than 10,000 bytes. Linux limits one argument of a program to 128 KiB.
MAX_BODY_BYTES = 128 * 1024
MAX_DEPTH = 8
# Docker's default, for a dagster.yaml that sets no stop_timeout.
DOCKER_STOP_SECONDS = 10
RUN_LABEL = "dagster/run_id"
JOB_LABEL = "dagster/job_name"
STACK_LABEL = "dagster/stack"
# The commands that the launcher uses. The fourth word contains the run's arguments as JSON.
EXECUTE_RUN, WAIT_FOR_RUN = ["dagster", "api", "execute_run"], ["dagster", "api", "wait_for_run"]
COMMANDS = (EXECUTE_RUN, ["dagster", "api", "resume_run"], WAIT_FOR_RUN)
# Said when there are as many of them as there may be. Then the launcher waits.
TOO_MANY = "run containers are alive"
# The settings of the launcher. The last two are not of the containers (launcher/warm.py).
KNOWN = {"networks", "env_vars", "container_kwargs", "warm_containers", "runs_per_container"}
# DockerRunLauncher sets this variable in every container.
JOB_VARIABLE = "DAGSTER_RUN_JOB_NAME"
RUN_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
JOB_NAME = re.compile(r"[A-Za-z0-9_]{1,255}")
# The states in which a container uses memory and CPU.
ALIVE = ("running", "paused", "restarting")
# What the launcher reads of a run container, besides its log.
INSPECTED = ("Id", "Image", "State", "Created")
# A run may request less of these than dagster.yaml allows.
RESOURCES = ("Memory", "NanoCpus", "PidsLimit")
UNITS = {"b": 1, "k": 2**10, "m": 2**20, "g": 2**30}


class Refused(Exception):
    """A request is refused. The message is one line for the run's event log.

    Attributes:
        status: The HTTP status of the response.
    """

    status = 403


class Malformed(Refused):
    """The request has a form that the launcher never sends."""

    status = 400


class PolicyError(Exception):
    """dagster.yaml has a setting for run containers that the guard cannot enforce."""


@dataclass(frozen=True)
class Policy:
    """What a run container of this stack may be.

    Attributes:
        labels: Its labels, without the two that name the run and the job.
        variables: The names of its environment variables.
        network: Its only network.
        host: Its HostConfig in the Docker API's terms. Resources are upper limits.
        stop_seconds: The longest time between SIGTERM and SIGKILL that a request may set.
    """

    labels: Mapping[str, str]
    variables: frozenset[str]
    network: str
    host: Mapping[str, Any]
    stop_seconds: int

    @classmethod
    def from_launcher(cls, launcher: Mapping[str, Any], environment: Mapping[str, str]) -> "Policy":
        """Reads the policy from the `config` of `run_launcher` in dagster.yaml.

        Args:
            launcher: That section.
            environment: The values of ${NAME} in the section.

        Raises:
            PolicyError: The section has a setting that the guard does not know, or uses a variable
                that is not set.
        """
        try:
            # Only `volumes` may use it; elsewhere it stays as it is, as in the launcher.
            later = {LOCATION: f"${{{LOCATION}}}"}
            config = cast("dict[str, Any]", fill(launcher, {**environment, **later}))
        except Unset as unset:
            raise PolicyError(str(unset)) from None
        unknown = set(config) - KNOWN
        if unknown:
            raise PolicyError(f"run_launcher: the guard does not know {', '.join(sorted(unknown))}")
        if len(config["networks"]) != 1:
            raise PolicyError("run_launcher, networks: exactly one network is allowed")
        kwargs: dict[str, Any] = dict(config["container_kwargs"])
        labels = kwargs.pop("labels", {})
        # A setting of the stop request, not of the container.
        stop_seconds = int(kwargs.pop("stop_timeout", DOCKER_STOP_SECONDS))
        network = config["networks"][0]
        return cls(
            labels=labels,
            variables=frozenset([*config.get("env_vars", []), JOB_VARIABLE]),
            network=network,
            host={"NetworkMode": network, **host_config(kwargs)},
            stop_seconds=stop_seconds,
        )

    def refuse_other_stacks(self, stack: str) -> None:
        """Refuses labels by which this stack would take other stacks' run containers for its own.

        Raises:
            PolicyError: dagster/stack is not among the labels, or names another stack.
        """
        if self.labels.get(STACK_LABEL) != stack:
            raise PolicyError(
                f"run_launcher, container_kwargs, labels: {STACK_LABEL} must be ${{STACK_NAME}}, or"
                " stacks would stop and remove each other's runs"
            )

    def of(self, location: str) -> "Policy":
        """The policy for the runs of one code location, with its own volumes.

        Args:
            location: The service of its code server.
        """
        binds: list[str] = self.host.get("Binds", [])
        own = [bind.replace(f"${{{LOCATION}}}", location) for bind in binds]
        return replace(self, host={**self.host, "Binds": own} if binds else self.host)

    def rebuild(self, body: bytes) -> dict[str, Any]:
        """Checks a create request against the policy and builds a new body.

        Args:
            body: The body of the request, unparsed.

        Returns:
            The body for the engine, built from the policy. The caller must still check its image.

        Raises:
            Refused: The request contains something that the policy does not allow.
        """
        asked = parse(body)
        image = asked.pop("Image", None)
        if not isinstance(image, str):
            raise Refused("Image is not a string")
        command = asked.pop("Cmd", None)
        if not is_command(command):
            raise Refused("the command is not `dagster api execute_run`")
        labels = self._labels(asked.pop("Labels", None))
        environment = self._environment(asked.pop("Env", None))
        host = self._host(asked.pop("HostConfig", None))
        self._mount_points(asked.pop("Volumes", None))
        networking = asked.pop("NetworkingConfig", None)
        if networking not in (None, {}, {self.network: None}, {"EndpointsConfig": {}}):
            raise Refused(f"NetworkingConfig: only the network {self.network} is allowed")
        for name, value in asked.items():
            if value not in (None, False, "", [], {}):
                raise Refused(f"{name} is not for run containers: dagster.yaml does not set it")
        return {
            "Image": image,
            "Cmd": command,
            "Env": environment,
            "Labels": labels,
            "HostConfig": host,
            "NetworkingConfig": {"EndpointsConfig": {self.network: {}}},
        }

    def _labels(self, asked: object) -> dict[str, str]:
        labels = dict(_mapping(asked, "Labels"))
        run, job = labels.pop(RUN_LABEL, None), labels.pop(JOB_LABEL, None)
        if not (isinstance(run, str) and RUN_ID.fullmatch(run)):
            raise Refused(f"the label {RUN_LABEL} is not a run ID")
        if not (isinstance(job, str) and JOB_NAME.fullmatch(job)):
            raise Refused(f"the label {JOB_LABEL} is not a job name")
        if labels != self.labels:
            raise Refused("Labels differs from dagster.yaml")
        return {**self.labels, RUN_LABEL: run, JOB_LABEL: job}

    def _environment(self, asked: object) -> list[str]:
        if not isinstance(asked, list):
            raise Refused("Env is not a list")
        entries = cast("list[Any]", asked)
        for entry in entries:
            name = entry.partition("=")[0] if isinstance(entry, str) else None
            if name not in self.variables:
                raise Refused(f"{name!r} is not in env_vars of dagster.yaml")
        return list(entries)

    def _mount_points(self, asked: object) -> None:
        """Checks Volumes, which repeats the mount points of Binds and is not forwarded."""
        mounted = {bind.split(":")[1] for bind in self.host.get("Binds", [])}
        if asked and set(_mapping(asked, "Volumes")) != mounted:
            raise Refused("Volumes differs from dagster.yaml")

    def _host(self, asked: object) -> dict[str, Any]:
        """Refuses a HostConfig that differs from the policy; an empty value counts as not set."""
        given = _mapping(asked, "HostConfig")
        host = dict(self.host)
        for name in {**given, **self.host}:
            most, value = self.host.get(name), given.get(name)
            if name in RESOURCES and isinstance(most, int) and most > 0:
                # Not isinstance: in Python a bool is an int.
                if type(value) is not int or not 0 < value <= most:
                    raise Refused(f"HostConfig.{name}: dagster.yaml allows at most {most}")
                host[name] = value
            elif value != most and (most is not None or value not in (None, False, "", [], {})):
                raise Refused(f"HostConfig.{name} differs from dagster.yaml")
        return host


def parse(body: bytes) -> dict[str, Any]:
    """Parses JSON strictly, so that no other parser can read the same text differently.

    Raises:
        Malformed: The text is too large, too deep, not JSON or not an object, or it contains NaN
            or the same name twice.
    """
    if len(body) > MAX_BODY_BYTES:
        raise Malformed(f"the request is larger than {MAX_BODY_BYTES} bytes")
    try:
        value = json.loads(
            body.decode("utf-8"), object_pairs_hook=_no_name_twice, parse_constant=_no_constant
        )
    except (ValueError, RecursionError) as error:
        raise Malformed(f"the request is not plain JSON: {type(error).__name__}") from None
    if _is_deeper(value, MAX_DEPTH):
        raise Malformed(f"the request has more than {MAX_DEPTH} levels of nesting")
    if not isinstance(value, dict):
        raise Malformed("the request is not a JSON object")
    return cast("dict[str, Any]", value)


def is_command(command: object) -> bool:
    """Whether this is a command that the launcher sends."""
    if not isinstance(command, list):
        return False
    words = cast("list[Any]", command)
    return len(words) == 4 and words[:3] in COMMANDS and isinstance(words[3], str)


def host_config(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Translates container_kwargs from the Python SDK's terms to the Docker API's.

    Raises:
        PolicyError: The guard does not know a setting. It does not start, because it could not
            check that setting.
    """
    same = {
        "init": "Init",
        "pids_limit": "PidsLimit",
        "cap_drop": "CapDrop",
        "security_opt": "SecurityOpt",
        "volumes": "Binds",
        "nano_cpus": "NanoCpus",
        "read_only": "ReadonlyRootfs",
        "cpu_shares": "CpuShares",
    }
    host: dict[str, Any] = {}
    for name, value in kwargs.items():
        if name in same:
            host[same[name]] = value
        elif name in ("mem_limit", "memswap_limit", "shm_size"):
            api = {"mem_limit": "Memory", "memswap_limit": "MemorySwap", "shm_size": "ShmSize"}
            host[api[name]] = byte_count(value)
        elif name == "tmpfs":
            host["Tmpfs"] = value if isinstance(value, dict) else dict.fromkeys(value, "")
        elif name == "log_config":
            host["LogConfig"] = {"Type": value["type"], "Config": value.get("config", {})}
        else:
            raise PolicyError(f"run_launcher, container_kwargs: the guard does not know {name}")
    return host


def byte_count(size: int | str) -> int:
    """Parses a size as the Python SDK does: 1g, 512m, 64k, or a number of bytes."""
    if isinstance(size, int):
        return size
    match = re.fullmatch(r"(\d+)([bkmg]?)b?", size.lower())
    if not match:
        raise PolicyError(f"run_launcher, container_kwargs: {size!r} is not a size")
    return int(match[1]) * UNITS[match[2] or "b"]


def _mapping(value: object, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise Refused(f"{name} is not an object")
    return cast("dict[str, Any]", value)


def _no_name_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name occurs twice")
    return found


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _is_deeper(value: object, depth: int) -> bool:
    """Whether the value has more levels; the recursion stops at that depth."""
    children: list[Any] = []
    if isinstance(value, dict):
        children = list(cast("dict[str, Any]", value).values())
    elif isinstance(value, list):
        children = cast("list[Any]", value)
    return depth == 0 or any(_is_deeper(child, depth - 1) for child in children)
