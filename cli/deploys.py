"""Puts the new image of a code location live beside the old one.

Compose stops a container before it starts the one that replaces it. Here the new code server starts
beside the old one, under the same name in the network: until it listens, clients find the old one.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterable

from cli import commands, health
from cli.errors import StackError
from cli.output import note, say
from cli.stack import Stack, docker

RELOAD = """mutation Reload($name: String!) {
  reloadRepositoryLocation(repositoryLocationName: $name) { __typename } }"""
# Of a code server that stops: longer than its own time for calls in progress.
STOP_SECONDS = 90
LOAD_SECONDS = 60
# As start_period in docker-compose.yml.
START_SECONDS = 120


def location_of(stack: Stack, service: str) -> str:
    """The name of the code location that a service serves."""
    return stack.code.name if service == "code_location" else service


def service_of(stack: Stack, location: str) -> str:
    """The service of a code location; raises StackError when there is none of the name."""
    names = {location_of(stack, one): one for one in stack.code_servers}
    if not location:
        return "code_location"
    if location not in (*names, *names.values()):
        raise StackError(f"{location}: there are the code locations {', '.join(names)}")
    return names.get(location, location)


def servers(stack: Stack, service: str) -> list[tuple[str, str]]:
    """The code servers of a service that run: container and image ID, the newest first.

    There are two while one replaces the other.
    """
    if not (found := docker(*commands.service_containers(stack.name, service)).split()):
        return []
    listed = docker("inspect", "--format", "{{.Created}} {{.Id}} {{.Image}}", *found).splitlines()
    return [(one.split()[1], one.split()[2]) for one in sorted(listed, reverse=True)]


def hand_over(stack: Stack, service: str, *words: str) -> None:
    """Runs the one-shot that gives a code server its settings, if it has one."""
    if one_shot := one_shot_of(stack, service):
        stack.compose("run", "--rm", "--no-TTY", "--no-deps", one_shot, *words)


def one_shot_of(stack: Stack, service: str) -> str | None:
    """The one-shot that gives a code server its settings, if it has one."""
    name = f"{service}_files"
    return name if name in stack.config["services"] else None


def finish(stack: Stack, service: str) -> None:
    """Ends what an interrupted deploy has left: the newest healthy code server stays."""
    if asked := docker(*commands.service_containers(stack.name, service, one_off=True)).split():
        # The server that it had only to answer what it defines.
        docker("rm", "--force", *asked)
    running = [container for container, _ in servers(stack, service)]
    if len(running) < 2:
        return
    say(f"{service}: a deploy was interrupted; two code servers run")
    status = "{{.State.Health.Status}}"
    healthy = [
        one for one in running if docker("inspect", "--format", status, one).strip() == "healthy"
    ]
    remove(one for one in running if one != (healthy or running)[0])


def wait_until_healthy(server: str) -> None:
    """Waits for a code server; raises StackError if it ends, its whole output on stderr."""
    deadline = time.monotonic() + START_SECONDS
    state = "{{.State.Status}} {{with .State.Health}}{{.Status}}{{end}}"
    while (now := docker("inspect", "--format", state, server).strip()) != "running healthy":
        if now == "running":  # it has no health check
            return
        if not now.startswith(("created", "running")):
            said = subprocess.run(
                ["docker", "logs", server], check=False, text=True,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            ).stdout.strip()  # fmt: skip
            note(said)
            status = docker("inspect", "--format", "{{.State.ExitCode}}", server).strip()
            raise StackError(
                f"it does not load: the code ended its process with exit status {status} (sys.exit,"
                " os._exit or a crash while it was imported): its output is above"
            )
        if time.monotonic() > deadline:
            raise StackError(f"its server is not healthy after {START_SECONDS} s")
        time.sleep(0.5)


def remove(containers: Iterable[str]) -> None:
    """Stops code servers, each after the calls in progress, and removes them."""
    for container in containers:
        docker("stop", f"--time={STOP_SECONDS}", container)
        docker("rm", "--force", container)


def switch(stack: Stack, service: str) -> None:
    """Replaces the code server of a service by one of the image that has its name.

    Raises:
        StackError: The new one did not become healthy, or does not load. The old one is live then.
    """
    old = servers(stack, service)
    before = {container for container, _ in old}
    if one_shot := one_shot_of(stack, service):
        # The next `up` would replace one of the earlier image, and all that depends on it.
        stack.compose("rm", "--force", one_shot)
    started = stack.compose(*commands.beside(service), check=False)
    new = [container for container, _ in servers(stack, service) if container not in before]
    if started.returncode or not new:
        reason = started.stderr.strip().splitlines()[-1:] or ["it did not start"]
        if new:
            docker("rm", "--force", *new)
        raise StackError(f"{service}: {reason[0]}")
    remove(before)
    reload(stack, service)


def go_live(stack: Stack, service: str, before: str) -> None:
    """Puts the image live that has the service's name, or the one of before again.

    Args:
        stack: The stack.
        service: The service.
        before: The ID of the image that is live.

    Raises:
        StackError: The one of before is live.
    """
    try:
        switch(stack, service)
    except BaseException:
        docker("tag", before, stack.config["services"][service]["image"])
        running = servers(stack, service)
        if running and running[0][1] != before:  # it is healthy and does not load
            switch(stack, service)
        raise


def reload(stack: Stack, service: str) -> None:
    """Makes the web server ask the code server again; raises StackError if it does not load."""
    stack.graphql(RELOAD, name=location_of(stack, service))
    deadline = time.monotonic() + LOAD_SECONDS
    while errors := load_errors(stack, service):
        if time.monotonic() > deadline:
            raise StackError(errors[0].removesuffix(": correct it, then make deploy"))
        time.sleep(1)


def load_errors(stack: Stack, service: str) -> list[str]:
    """What the web server says of a code location that does not load."""
    name = f" {location_of(stack, service)} "
    return [one for one in health.location_errors(stack) if name in one]
