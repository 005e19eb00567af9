"""What Compose leaves or does not notice: old services, networks, images, and changed variables."""

from __future__ import annotations

import time
from contextlib import suppress

from cli import commands, database, dotenv
from cli.errors import StackError
from cli.output import note, say
from cli.stack import Stack, docker

# Earlier images of each service that stay, to go back to.
KEPT_IMAGES = 3
REMOVAL_SECONDS = 60
# In a code server (control_plane/code_server/hand_over.py).
SETTINGS = "/run/dagster-settings/.env"
# The images of runs that have no container yet.
WAITING = """
SELECT DISTINCT value FROM run_tags JOIN runs USING (run_id)
WHERE key = 'dagster/image' AND status IN ('NOT_STARTED', 'QUEUED', 'STARTING')
"""
LIVE = "SELECT image FROM deploys ORDER BY id DESC"


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
        remove_containers(*containers)


def remove_containers(*identifiers: str) -> None:
    """Removes containers and their volumes; waits for those that the engine removes already.

    A container that removes itself when it ends (`--rm`), or that the housekeeper removes, can be
    half gone. The engine refuses a second removal until the first one has ended.

    Raises:
        StackError: One is there after REMOVAL_SECONDS, with the engine's last reason.
    """
    deadline = time.monotonic() + REMOVAL_SECONDS
    while identifiers:
        try:
            docker("rm", "--force", "--volumes", *identifiers)
            return
        except StackError:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.2)


def remove_networks(stack: Stack) -> None:
    """Removes networks of an earlier version of the stack."""
    listed = [line.split() for line in docker(*commands.networks(stack.name)).splitlines()]
    old = [name for name, key in listed if key not in stack.with_all_profiles.config["networks"]]
    if old:
        docker("network", "rm", *old)


def remove_images(stack: Stack) -> None:
    """Removes earlier images of each service, except the last few, and those that are needed.

    A run that waits needs the image that it was launched with, and a container the one that it was
    made from: the engine keeps that by itself. The stack is up without this, so an error is a note.
    """
    try:
        _remove_images(stack)
    except StackError as error:
        note(f"warning: earlier images could not be removed: {error}")


def _remove_images(stack: Stack) -> None:
    earlier = docker(*commands.images(stack.name, earlier_only=True)).split()
    if not earlier:
        return
    built = (line.split() for line in docker(*commands.built_for(earlier)).splitlines())
    # First those that were live, the last one first. What a deploy refused never was.
    lived = list(dict.fromkeys(row["image"] for row in database.rows(stack, LIVE)))
    places = {image: place for place, image in enumerate(lived)}
    found = sorted((words for words in built if len(words) == 3), reverse=True)
    found.sort(key=lambda words: places.get(words[1], len(places)))
    services = {service for _, _, service in found}
    ids = {name: [one for _, one, service in found if service == name] for name in services}
    needed = {row["value"] for row in database.rows(stack, WAITING)}
    for identifier in (one for name in services for one in ids[name][KEPT_IMAGES:]):
        if identifier not in needed:
            with suppress(StackError):  # a container needs it
                docker("image", "rm", identifier)


def settings(stack: Stack) -> list[str]:
    """The code servers that started before their project's .env was changed, or deleted."""
    return [name for name in stack.projects if has_new_settings(stack, name)]


def deleted_settings(stack: Stack) -> list[str]:
    """The code servers whose project had a .env when they started.

    A start of the stack empties the settings, so that nothing shows this any more.
    """
    return [
        name
        for name, folder in stack.projects.items()
        if not (folder / ".env").is_file() and live_settings(stack, name)
    ]


def has_new_settings(stack: Stack, service: str) -> bool:
    """Whether a project's .env is newer than its code server, which read it at its start."""
    folder = stack.projects.get(service)
    identifier = stack.services().get(service, {}).get("ID")
    if not folder or not identifier:
        return False
    if not (file := folder / ".env").is_file():
        return bool(live_settings(stack, service))
    started = docker("inspect", "--format", "{{.State.StartedAt}}", identifier).strip()
    return time.gmtime(file.stat().st_mtime) > time.strptime(started[:19], "%Y-%m-%dT%H:%M:%S")


def live_settings(stack: Stack, service: str) -> dict[str, str]:
    """The project's .env as its code server has it; nothing if the server does not run."""
    read = stack.compose("exec", "--no-TTY", service, "cat", SETTINGS, check=False)
    return {} if read.returncode else dotenv.read(read.stdout)
