"""What Compose does not notice: services and networks that are gone, and changed variables."""

from __future__ import annotations

import time

from cli import commands
from cli.output import say
from cli.stack import Stack, docker


def remove_services(stack: Stack) -> None:
    """Removes the services of profiles that are not active any more."""
    everything = stack.with_all_profiles
    there = everything.services()
    off = sorted(set(there) - set(stack.config["services"]))
    if off:
        say(f"removing what is switched off: {', '.join(off)}")
        # Not by Compose: it may not know them any more.
        containers = [there[service]["ID"] for service in off]
        docker("stop", *containers)
        docker("rm", *containers)


def remove_networks(stack: Stack) -> None:
    """Removes networks of an earlier version of the stack."""
    listed = [line.split() for line in docker(*commands.networks(stack.name)).splitlines()]
    old = [name for name, key in listed if key not in stack.with_all_profiles.config["networks"]]
    if old:
        docker("network", "rm", *old)


def settings(stack: Stack) -> list[str]:
    """The code servers that started before their project's .env was changed."""
    return [name for name in stack.projects if _has_new_settings(stack, name)]


def _has_new_settings(stack: Stack, service: str) -> bool:
    """Whether a project's .env is newer than its code server, which read it at its start."""
    file = stack.projects[service] / ".env"
    identifier = stack.services().get(service, {}).get("ID")
    if not identifier or not file.is_file():
        return False
    started = docker("inspect", "--format", "{{.State.StartedAt}}", identifier).strip()
    return time.gmtime(file.stat().st_mtime) > time.strptime(started[:19], "%Y-%m-%dT%H:%M:%S")
