"""Finds what is wrong with a stack, and says what to do."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, cast

from cli import commands, dotenv, marks
from cli.client import LOCATIONS, REPOSITORIES, VARIABLES
from cli.stack import Stack, docker

# The volumes that no start can make again, and that every stack has.
DATA = "postgres-data", "io-storage", "compute-logs", "inbox"
# What the health checks of two services say (control_plane/probe.py, postgres/is_healthy.sh).
DISK_FULL, CHECK_DISKS = "the disk is full", ("daemon", "postgres")
# The mark of parts/backup/nightly.sh.
BACKUP_FAILED = "exec", "--no-TTY", "backup", "test", "-e", "/scratch/failed"


def problems(stack: Stack) -> list[str]:
    """One line for each problem. The list is empty if there is none."""
    return problems_of_services(stack) or location_errors(stack) or unset_variables(stack)


def problems_of_services(stack: Stack) -> list[str]:
    """Services that do not run, are unhealthy, or run twice: a line for each."""
    found: list[str] = []
    if marks.is_set(stack, marks.ROTATING):
        found.append("passwords: a rotation goes on, or was interrupted: make rotate")
    states = stack.services()
    for service in stack.config["services"]:
        state = states.get(service)
        if state is None:
            found.append(f"{service}: has no container: make up")
        elif is_done(state):
            continue
        elif state["State"] == "paused":
            found.append(f"{service}: paused: docker compose unpause {service}")
        elif state["State"] != "running":
            found.append(f"{service}: {state['State']}, exit status {state['ExitCode']}:"
                         f" {last_line(stack, service) or 'make logs'}")  # fmt: skip
        elif state["Health"] not in ("healthy", ""):
            found.append(f"{service}: {state['Health']}: {_health_output(state['ID'])}")
        elif service == "backup" and not stack.compose(*BACKUP_FAILED, check=False).returncode:
            found.append("backup: the last one failed: docker compose logs backup")
        elif service in CHECK_DISKS and DISK_FULL in (said := _health_output(state["ID"])):
            # The service is unhealthy for the engine after three failures, a minute apart.
            found.append(f"{service}: {said}")
    for service in stack.code_servers:
        if len(docker(*commands.service_containers(stack.name, service)).split()) > 1:
            found.append(f"{service}: two run: a deploy goes on, or was interrupted: make deploy")
        elif docker(*commands.service_containers(stack.name, service, one_off=True)).split():
            found.append(f"{service}: a deploy goes on, or was interrupted: make deploy")
    return found


def reason(messages: Sequence[str]) -> str:
    """An error in one line, from the messages of its chain, the last cause first."""
    lines = next((m for m in messages if m.strip()), "unknown").strip().splitlines()
    # An error of syntax has its place in the first line.
    return f"{lines[-1]} ({lines[0]})" if lines[0].startswith('File "') else lines[0]


def location_errors(stack: Stack) -> list[str]:
    """Code locations that do not load, with the first line of the error, or cannot run."""
    errors: list[str] = []
    asked = stack.graphql(LOCATIONS)
    for entry in asked["workspaceOrError"]["locationEntries"]:
        error = entry["locationOrLoadError"]
        packages: list[dict[str, str]] = error.get("dagsterLibraryVersions") or []
        for package in packages:
            has, wanted = (one.rpartition(".")[0] for one in (package["version"], asked["version"]))
            if package["name"] == "dagster" and has != wanted:
                errors.append(
                    f"code location {entry['name']} has Dagster {package['version']}, and the stack"
                    f" has {asked['version']}: its runs could not start. Install that in its image"
                )
        if error["__typename"] == "PythonError":
            chain = [e["error"]["message"] for e in reversed(error["errorChain"])]
            errors.append(
                f"code location {entry['name']} does not load: {reason([*chain, error['message']])}"
                f" (the whole error: {stack.ui_url}/deployment/locations): correct it, then make"
                " deploy"
            )
    return errors


def unset_variables(stack: Stack) -> list[str]:
    """Variables that resources read with EnvVar, and that runs will not have: a line for each."""
    found: list[str] = []
    instance = (stack.root / "dagster.yaml").read_text()
    for repository in stack.graphql(REPOSITORIES)["repositoriesOrError"].get("nodes", []):
        location = repository["location"]["name"]
        service = "code_location" if location == stack.code.name else location
        folder = stack.projects.get(service)
        if not folder:
            continue
        image = stack.config["services"][service]["image"]
        environment = docker("image", "inspect", "--format", "{{json .Config.Env}}", image)
        names = {entry.partition("=")[0] for entry in cast("list[str]", json.loads(environment))}
        names |= dotenv.of(folder).keys()
        where = {"repositoryName": repository["name"], "repositoryLocationName": location}
        asked = stack.graphql(VARIABLES, where=where)["utilizedEnvVarsOrError"]
        for variable in asked.get("results", []):
            name = variable["envVarName"]
            if name not in names and not re.search(rf"^\s*- {re.escape(name)}\b", instance, re.M):
                resources = ", ".join(one["name"] for one in variable["envVarConsumers"])
                found.append(
                    f"code location {location}: {resources} reads {name}, which is not set:"
                    f" add it to {folder / '.env'}, then make up"
                )
    return found


def not_served(stack: Stack) -> list[str]:
    """What the code servers say of definitions that Dagster leaves out: a line for each."""
    states = stack.services()
    found: list[str] = []
    for service in stack.code_servers:
        if service not in states:
            continue
        started = docker("inspect", "--format", "{{.State.StartedAt}}", states[service]["ID"])
        log = docker("logs", "--since", started.strip(), states[service]["ID"])
        found += [line for line in log.splitlines() if line.startswith("not served: ")]
    return found


def last_line(stack: Stack, service: str) -> str:
    """The last line that a service wrote."""
    log = stack.compose(*commands.logs([service], 20), "--no-log-prefix").stdout
    # Compose 2.26 writes "erase this line" before each, also to a pipe. Services write colours.
    lines = [line.strip() for line in re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", log).splitlines()]
    return next((line for line in reversed(lines) if line), "")


def _health_output(container: str) -> str:
    """The output of the last health check of a container."""
    health = docker("inspect", "--format", "{{json .State.Health}}", container)
    state = cast("dict[str, Any]", json.loads(health) or {})
    checks: list[dict[str, str]] = state.get("Log", [])
    if not checks:
        return "no health check has run yet"
    return " ".join(checks[-1]["Output"].split())[:300] or "its health check says nothing"


def lost_volumes(stack: Stack) -> list[str]:
    """The volumes with runs, outputs, logs and files that are gone, though the stack has others."""
    there = set(docker(*commands.volumes(stack.name)).split())
    known: dict[str, dict[str, str]] = stack.config["volumes"]
    wanted = [known[name]["name"] for name in DATA]
    return [volume for volume in wanted if volume not in there] if there else []


def is_done(state: Mapping[str, Any]) -> bool:
    """Whether a service is a one-shot that succeeded. Only one-shots have no restart policy."""
    if state["State"] != "exited" or state["ExitCode"]:
        return False
    policy = docker("inspect", "--format", "{{.HostConfig.RestartPolicy.Name}}", state["ID"])
    return policy.strip() == "no"
