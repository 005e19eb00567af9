"""Checks of the machine: the engine, disks, the clock, networks, other stacks."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from cli import commands, settings
from cli.doctor import Finding
from cli.errors import StackError
from cli.stack import Stack, docker

# As README says.
OLDEST_COMPOSE = (2, 26)
# A share of a small disk; of a large one 5 % are plenty.
LEAST_FREE_BYTES, ENOUGH_BYTES, LEAST_SHARE = 2 << 30, 10 << 30, 0.05
MOST_SECONDS_OF_SKEW = 5
DISKS = "docs/how-to/keep-or-delete-history.md"


def the_engine(stack: Stack) -> Iterator[Finding]:
    """It answers."""
    if not shutil.which("docker"):
        yield Finding("engine", "there is no docker client on this machine", "make up installs it")
        return
    try:
        docker("version", "--format", "{{.Server.Version}}")
    except StackError as error:
        yield Finding("engine", str(error), _start(stack))


def _start(stack: Stack) -> str:
    host = stack.environment.get("DOCKER_HOST", "")
    if host:
        return f"DOCKER_HOST={host}: is it the right one?"
    socket = Path("/var/run/docker.sock")
    if socket.exists() and not os.access(socket, os.W_OK):
        return "you may not use it: add yourself to the group docker, or use sudo"
    return "start it (systemctl start docker, or make setup)"


def compose(_: Stack) -> Iterator[Finding]:
    """It is there, and new enough."""
    try:
        said = docker("compose", "version", "--short")
    except StackError:
        yield Finding("compose", "docker has no `compose`", "install Compose 2.26 or later")
        return
    version = tuple(map(int, re.findall(r"\d+", said)[:2]))
    if version < OLDEST_COMPOSE:
        yield Finding("compose", f"Compose {said.strip()} is too old", "install 2.26 or later")


def disks(stack: Stack) -> Iterator[Finding]:
    """The engine's disk has space and inodes."""
    root = Path(docker("info", "--format", "{{.DockerRootDir}}").strip())
    # A service sees the engine's disk, also one on another machine.
    running = [s for s, state in stack.services().items() if state["State"] == "running"]
    if "postgres" in running:
        where = "/var/lib/postgresql/data"
        asked = stack.compose("exec", "-T", "postgres", "stat", "-f", "-c", "%S %b %a %c %d", where)
        size, blocks, free, inodes, free_inodes = map(int, asked.stdout.split())
    elif root.is_dir():
        disk = os.statvfs(root)
        size, blocks, free = disk.f_frsize, disk.f_blocks, disk.f_bavail
        inodes, free_inodes = disk.f_files, disk.f_favail
    else:
        return
    remedy = f"delete what you do not need ({DISKS}; docker system df)"
    if free * size < max(LEAST_FREE_BYTES, min(LEAST_SHARE * blocks * size, ENOUGH_BYTES)):
        share = 100 * free / blocks
        what = f"{free * size >> 20} MiB ({share:.0f} %) of the engine's disk are free"
        yield Finding("disk", what, remedy)
    if inodes and free_inodes < LEAST_SHARE * inodes:
        yield Finding("disk", f"{free_inodes} inodes of {inodes} are free", remedy)


def clock(stack: Stack) -> Iterator[Finding]:
    """This machine and the engine's have the same time."""
    if stack.services().get("postgres", {}).get("State") != "running":
        return
    asked = float(stack.compose("exec", "-T", "postgres", "date", "+%s.%N").stdout)
    skew = asked - time.time()
    if abs(skew) > MOST_SECONDS_OF_SKEW:
        yield Finding("clock", f"the engine's clock is {skew:+.0f} s from this machine's",
                      "set both by NTP: schedules go by the engine's")  # fmt: skip


def networks(stack: Stack) -> Iterator[Finding]:
    """There is an address left for another network, while the stack has none."""
    if docker(*commands.networks(stack.name)).strip():
        return
    name = f"{stack.name}_doctor"
    try:
        docker("network", "create", f"--label={commands.PROJECT_LABEL}={stack.name}", name)
    except StackError as error:
        remedy = "docker network prune, or more address pools (docs/how-to/several-stacks.md)"
        yield Finding("networks", str(error), remedy)
        return
    docker("network", "rm", name)


def other_stacks(stack: Stack) -> Iterator[Finding]:
    """No other stack was started from this folder, by a mistyped STACK_NAME for example."""
    for name in settings.other_stacks(stack):
        yield Finding("stacks", f"this folder also has the stack {name}",
                      f"if that is a mistake: STACK_NAME={name} ./stack destroy")  # fmt: skip


def names(stack: Stack) -> Iterator[Finding]:
    """No container of somebody else has a name that Compose gives to ours."""
    project = f'{{{{.Label "{commands.PROJECT_LABEL}"}}}}'
    listed = docker("ps", "--all", "--format", f"{{{{.Names}}}}\t{project}")
    for line in listed.splitlines():
        name, _, owner = line.partition("\t")
        service = re.fullmatch(rf"{re.escape(stack.name)}-(\w+)-\d+", name)
        if service and service[1] in stack.config["services"] and owner != stack.name:
            yield Finding(service[1], f"the container {name} is not of this stack",
                          f"remove it (docker rm {name}), or set another STACK_NAME")  # fmt: skip


FIRST = (the_engine, compose)
CHECKS = (disks, clock, networks, names)
