"""Checks of the services, their images and volumes, the certificate, and the code locations."""

from __future__ import annotations

import json
import re
import socket
import ssl
import time
from collections.abc import Iterator
from typing import Any, cast

from cli import backups, commands, health, store
from cli.doctor import Finding
from cli.errors import StackError
from cli.stack import Stack, docker

NEAR_LIMIT = 0.9
LEAST_DAYS, DAY = 14, 86400
# What the guard writes of each request that it refuses, and how far back to look.
REFUSED, REFUSED_SINCE = '"decision": "refused"', "1h"

# What a problem ends with, if it says what to do.
REMEDY = re.compile(r"(.*): (make (?:up|deploy|rotate)|docker compose (?:unpause|logs) \w+)", re.S)
LOOK = "make logs, then make up"


def states(stack: Stack) -> Iterator[Finding]:
    """Each service runs and is healthy."""
    there = stack.services()
    if not any(state["State"] == "running" for state in there.values()):
        yield Finding("stack", f"{stack.name} is not up", "make up")
        return
    for problem in health.problems_of_services(stack):
        part, _, what = problem.partition(": ")
        said = REMEDY.fullmatch(what)
        yield Finding(part, said[1], said[2]) if said else Finding(part, what, LOOK)


def volumes(stack: Stack) -> Iterator[Finding]:
    """The volumes with the operator's data are there."""
    remedy = "./stack restore FILE into a new stack, or make up for an empty volume"
    if not stack.services():
        for volume in health.lost_volumes(stack):
            yield Finding("volumes", f"{volume} is gone", remedy)
        return
    there = set(docker(*commands.volumes(stack.name)).split())
    mounted = {
        volume.get("source")
        for service in stack.config["services"].values()
        for volume in service.get("volumes", [])
        if volume["type"] == "volume"
    }
    for name, volume in stack.config["volumes"].items():
        if name in mounted and volume["name"] not in there:
            yield Finding("volumes", f"{volume['name']} is gone", remedy)


def backup_keys(stack: Stack) -> Iterator[Finding]:
    """Backups can be encrypted as the settings say."""
    try:
        backups.Backups(stack)
    except StackError as error:
        yield Finding("backup", str(error), "correct it in .env")


def nightly_backup(stack: Stack) -> Iterator[Finding]:
    """The backup of each night has all volumes with data."""
    for name in backups.left_out(stack):
        remedy = f"add `- {name}:/volumes/{name}:ro` to locations/backup.yml, then make up"
        yield Finding("backup", f"the one of each night does not have {name}", remedy)


def images(stack: Stack) -> Iterator[Finding]:
    """Each service runs the image that was built last."""
    for service, state in stack.services().items():
        config = stack.config["services"].get(service)
        if not config or state["State"] != "running":
            continue
        built = docker("image", "ls", "--quiet", "--no-trunc", config["image"]).strip()
        runs = docker("inspect", "--format", "{{.Image}}", state["ID"]).strip()
        if not built:
            yield Finding(service, f"the image {config['image']} is gone", "make up")
        elif built != runs:
            yield Finding(service, "a newer image is built than it runs", "make up, or make deploy")


def memory(stack: Stack) -> Iterator[Finding]:
    """No service is close to its memory limit, or was killed at it."""
    running = {state["Name"]: service for service, state in stack.services().items()
               if state["State"] == "running"}  # fmt: skip
    if not running:
        return
    listed = docker("stats", "--no-stream", "--format", "{{.Name}}\t{{.MemPerc}}", *running)
    for line in listed.splitlines():
        name, _, share = line.partition("\t")
        if float(share.rstrip("%")) > 100 * NEAR_LIMIT:
            yield Finding(
                running[name], f"it uses {share} of its memory limit", _more(running[name])
            )
    for name, service in running.items():
        state = cast(
            "dict[str, Any]", json.loads(docker("inspect", "--format", "{{json .}}", name))
        )
        if state["RestartCount"] > 2:
            yield Finding(
                service, f"it was started again {state['RestartCount']} times", "make logs"
            )


def _more(service: str) -> str:
    return f"more mem_limit for {service} in docker-compose.override.yml"


def locations(stack: Stack) -> Iterator[Finding]:
    """Each code location loads, and its variables are set."""
    if list(answer(stack)):
        return
    for problem in [*health.location_errors(stack), *health.unset_variables(stack)]:
        yield Finding("code locations", problem, "correct it, then make deploy")
    for line in health.not_served(stack):
        yield Finding("code locations", line, "move it, then make up")


def refusals(stack: Stack) -> Iterator[Finding]:
    """The guard has refused nothing lately."""
    state = stack.services().get("guard", {})
    if state.get("State") != "running":
        return
    log = docker("logs", f"--since={REFUSED_SINCE}", state["ID"])
    refused = [line for line in log.splitlines() if REFUSED in line]
    if refused:
        reason = json.loads(refused[-1][refused[-1].index("{") :]).get("reason", "")
        what = f"{len(refused)} requests refused in the last hour; the last: {reason}"
        yield Finding("guard", what, "docker compose logs guard; docs/security.md says why")


def object_store(stack: Stack) -> Iterator[Finding]:
    """The object store takes, gives and deletes objects."""
    if not store.is_used(stack) or stack.services().get("daemon", {}).get("State") != "running":
        return
    try:
        store.ask(stack, store.CHECK)
    except StackError as error:
        yield Finding("object store", str(error), "correct the file STORE_CONFIG, then make up")


def certificate(stack: Stack) -> Iterator[Finding]:
    """The certificate of the web UI is valid for some time."""
    endpoint = stack.endpoint
    if not endpoint.domain or stack.services().get("edge", {}).get("State") != "running":
        return
    context = ssl.create_default_context()
    try:
        with (
            socket.create_connection((endpoint.host, endpoint.port), 10) as plain,
            context.wrap_socket(plain, server_hostname=endpoint.domain) as connection,
        ):
            until = str((connection.getpeercert() or {}).get("notAfter", ""))
    except (OSError, ssl.SSLError) as error:
        yield Finding("certificate", str(error), "docs/how-to/publish-with-tls.md")
        return
    days = (ssl.cert_time_to_seconds(until) - time.time()) / DAY
    if days < LEAST_DAYS:
        yield Finding("certificate", f"it ends in {days:.0f} days", "renew it: TLS_CERTIFICATE")


def answer(stack: Stack) -> Iterator[Finding]:
    """The web server can be asked."""
    try:
        stack.graphql("{ version }")
    except StackError as error:
        yield Finding("web UI", str(error), "make logs")


CHECKS = (
    volumes,
    backup_keys,
    nightly_backup,
    states,
    images,
    memory,
    object_store,
    certificate,
    locations,
    refusals,
)
