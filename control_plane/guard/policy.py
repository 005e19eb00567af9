"""What a run container may be: what the launcher section of dagster.yaml says, and nothing else.

The gap: Dagster launches whatever container the stored run describes (its image, its container
context), so that a row in the runs table was as good as root on the host. A request to create a
container is parsed strictly, each field of it held against this policy, and a new body is
built from the policy and the few values that differ from run to run. The request's own text goes
no further: filters that look at the text fall to duplicate keys, letter case and escapes.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from control_plane.instance_file import Unset, fill

# The launcher sends less than 10,000; as one argument of a program Linux takes 128 KiB at most.
MAX_BODY_BYTES = 128 * 1024
MAX_DEPTH = 8
# Docker's own, where dagster.yaml sets no stop_timeout.
DOCKER_STOP_SECONDS = 10
RUN_LABEL = "dagster/run_id"
JOB_LABEL = "dagster/job_name"
# What the launcher has the container execute; the fourth word is the run's arguments, in JSON.
COMMANDS = (["dagster", "api", "execute_run"], ["dagster", "api", "resume_run"])
# DockerRunLauncher sets it on every container.
JOB_VARIABLE = "DAGSTER_RUN_JOB_NAME"
RUN_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
JOB_NAME = re.compile(r"[A-Za-z0-9_]{1,255}")
# Of these a run may ask for less than dagster.yaml has.
RESOURCES = ("Memory", "NanoCpus", "PidsLimit")
UNITS = {"b": 1, "k": 2**10, "m": 2**20, "g": 2**30}


class Refused(Exception):
    """Why a request is refused, in one line for the run's event log.

    Attributes:
        status: The HTTP status of the answer.
    """

    status = 403


class Malformed(Refused):
    """The request is not written as the launcher writes it."""

    status = 400


class PolicyError(Exception):
    """dagster.yaml says something about run containers that the guard cannot enforce."""


@dataclass(frozen=True)
class Policy:
    """What every run container of a stack is.

    Attributes:
        labels: Its labels, before those of the run.
        variables: Names of its environment variables.
        network: The one network it is on.
        host: Its HostConfig, in the Docker API's terms; of the resources, the most.
        stop_seconds: The most that a request to stop it may wait before SIGKILL.
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
            environment: What ${NAME} in the section stands for.

        Raises:
            PolicyError: It sets something that is not known here, or names an unset variable.
        """
        try:
            config = cast("dict[str, Any]", fill(launcher, environment))
        except Unset as unset:
            raise PolicyError(str(unset)) from None
        unknown = set(config) - {"networks", "env_vars", "container_kwargs"}
        if unknown or len(config["networks"]) != 1:
            raise PolicyError(f"run_launcher: one network, and no {', '.join(unknown) or 'other'}")
        kwargs: dict[str, Any] = dict(config["container_kwargs"])
        labels = kwargs.pop("labels", {})
        # For the request to stop, not for the container.
        stop_seconds = int(kwargs.pop("stop_timeout", DOCKER_STOP_SECONDS))
        network = config["networks"][0]
        return cls(
            labels=labels,
            variables=frozenset([*config.get("env_vars", []), JOB_VARIABLE]),
            network=network,
            host={"NetworkMode": network, **host_config(kwargs)},
            stop_seconds=stop_seconds,
        )

    def rebuild(self, body: bytes) -> dict[str, Any]:
        """Holds a request to create a container to the policy.

        Args:
            body: The request's body, as it came.

        Returns:
            The body to send to the engine, none of whose structure is the request's. Its image is
            still to be checked.

        Raises:
            Refused: It asks for anything else than the policy has.
        """
        asked = parse(body)
        image = asked.pop("Image", None)
        if not isinstance(image, str):
            raise Refused("Image is not a name")
        command = asked.pop("Cmd", None)
        if not is_command(command):
            raise Refused("the command is not `dagster api execute_run`")
        labels = self._labels(asked.pop("Labels", None))
        environment = self._environment(asked.pop("Env", None))
        host = self._host(asked.pop("HostConfig", None))
        self._mount_points(asked.pop("Volumes", None))
        networking = asked.pop("NetworkingConfig", None)
        if networking not in (None, {}, {self.network: None}, {"EndpointsConfig": {}}):
            raise Refused(f"only the network {self.network}")
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
            raise Refused(f"the label {RUN_LABEL} is not a run id")
        if not (isinstance(job, str) and JOB_NAME.fullmatch(job)):
            raise Refused(f"the label {JOB_LABEL} is not a job's name")
        if labels != self.labels:
            raise Refused("labels differ from those in dagster.yaml")
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
        """The Python SDK says again where the volumes are mounted; the engine needs it once."""
        mounted = {bind.split(":")[1] for bind in self.host.get("Binds", [])}
        if asked and set(_mapping(asked, "Volumes")) != mounted:
            raise Refused("volumes differ from those in dagster.yaml")

    def _host(self, asked: object) -> dict[str, Any]:
        """Refuses a HostConfig that is not the policy's; set to nothing is the same as not set."""
        given = _mapping(asked, "HostConfig")
        host = dict(self.host)
        for name in {**given, **self.host}:
            most, value = self.host.get(name), given.get(name)
            if name in RESOURCES and isinstance(most, int) and most > 0:
                # A bool is an int in Python.
                if type(value) is not int or not 0 < value <= most:
                    raise Refused(f"HostConfig.{name}: at most {most}, as dagster.yaml has it")
                host[name] = value
            elif value != most and (most is not None or value not in (None, False, "", [], {})):
                raise Refused(f"HostConfig.{name} differs from dagster.yaml")
        return host


def parse(body: bytes) -> dict[str, Any]:
    """Parses JSON without the liberties that parsers differ in.

    Raises:
        Malformed: Too large, too deep, a name twice, NaN, no object, or no JSON at all.
    """
    if len(body) > MAX_BODY_BYTES:
        raise Malformed(f"the request has more than {MAX_BODY_BYTES} bytes")
    try:
        value = json.loads(
            body.decode("utf-8"), object_pairs_hook=_no_name_twice, parse_constant=_no_constant
        )
    except (ValueError, RecursionError) as error:
        raise Malformed(f"the request is not plain JSON: {type(error).__name__}") from None
    if _is_deeper(value, MAX_DEPTH):
        raise Malformed(f"the request nests deeper than {MAX_DEPTH}")
    if not isinstance(value, dict):
        raise Malformed("the request is not an object")
    return cast("dict[str, Any]", value)


def is_command(command: object) -> bool:
    """Whether it is what the launcher has a run container execute."""
    if not isinstance(command, list):
        return False
    words = cast("list[Any]", command)
    return len(words) == 4 and words[:3] in COMMANDS and isinstance(words[3], str)


def host_config(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Says in the Docker API's terms what dagster.yaml says in the Python SDK's.

    Raises:
        PolicyError: For what is not translated here: better no run than one unchecked.
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
    """Reads a size as the Python SDK does: 1g, 512m, 64k, or bytes."""
    if isinstance(size, int):
        return size
    match = re.fullmatch(r"(\d+)([bkmg]?)b?", size.lower())
    if not match:
        raise PolicyError(f"run_launcher, container_kwargs: {size!r} is no size")
    return int(match[1]) * UNITS[match[2] or "b"]


def _mapping(value: object, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise Refused(f"{name} is not an object")
    return cast("dict[str, Any]", value)


def _no_name_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice")
    return found


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _is_deeper(value: object, depth: int) -> bool:
    """Whether it nests deeper; looks no deeper than that itself."""
    children: list[Any] = []
    if isinstance(value, dict):
        children = list(cast("dict[str, Any]", value).values())
    elif isinstance(value, list):
        children = cast("list[Any]", value)
    return depth == 0 or any(_is_deeper(child, depth - 1) for child in children)
