"""Refuses wrong settings and a port in use, before anything is built."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path
from typing import Any

from cli import dotenv, marks, store, values
from cli.cluster import PROFILE
from cli.errors import StackError
from cli.output import note
from cli.stack import Stack

# All variables of .env reach the services, and these decide how a program starts.
RESERVED = ("DAGSTER_HOME", "LD_LIBRARY_PATH", "LD_PRELOAD", "PATH", "PYTHONHOME", "PYTHONPATH")
# The engine's socket in the guard's container.
ENGINE = "/var/run/docker.sock"


def refuse(stack: Stack) -> None:
    """Raises StackError when the stack cannot be started, before anything is built."""
    for check in (
        marks.refuse_half_restored,
        refuse_bad_settings,
        refuse_missing_files,
        refuse_taken_port,
    ):
        check(stack)


def refuse_bad_settings(stack: Stack) -> None:
    """Refuses misspelled settings in .env, and profiles that do not exist.

    Raises:
        StackError: There are some. The message contains the nearest known name of each.
    """
    wrong = [
        f".env sets {name}: services get it too, and could not start with it"
        for name in stack.settings
        if name in RESERVED
    ]
    # What comes of DOMAIN and UI_URL when Compose has replaced the variables in them.
    values.refuse_wrong({"DOMAIN": stack.endpoint.domain or ""})
    values.refuse_wrong({"UI_URL": stack.ui_url})
    unread = dotenv.unread(stack.root, stack.settings)
    wrong += [
        f".env sets {name}, which nothing reads: did you mean {near}?"
        for name, near in unread.items()
        if near
    ]
    everything = stack.with_all_profiles.config["services"].values()
    known = sorted(
        {profile for service in everything for profile in service.get("profiles", [])} - {PROFILE}
    )
    for profile in _profiles(stack):
        if profile not in (*known, "*"):
            near = dotenv.nearest(profile, known)
            hint = f"did you mean {near}?" if near else f"there are {', '.join(known)}"
            wrong.append(f"COMPOSE_PROFILES has {profile!r}, which switches nothing on: {hint}")
    if wrong:
        raise StackError(" | ".join(wrong))
    if unread:
        note(
            f"note: .env sets {', '.join(unread)}, which no file of yours uses. code_location gets"
            " it. Runs get it if dagster.yaml lists it (run_launcher, env_vars)"
        )


def refuse_missing_files(stack: Stack) -> None:
    """Raises StackError when a setting names a file, or the engine's socket, that is not there."""
    # Also those of parts that are switched off: ./stack backup.
    for name, secret in stack.with_all_profiles.config["secrets"].items():
        if not Path(secret["file"]).is_file() and secret["file"] != os.devnull:
            raise StackError(f"{name.upper()}={secret['file']}: there is no such file")
    store.refuse_wrong(stack)
    if not stack.code.is_dir():
        raise StackError(f"CODE={stack.code}: there is no such folder")
    volumes: list[dict[str, str]] = stack.config["services"]["guard"]["volumes"]
    (where,) = (one["source"] for one in volumes if one["target"] == ENGINE)
    # Elsewhere, and for an engine on another machine, the path is not one of this file system.
    is_here = stack.environment.get("DOCKER_HOST", "unix:").startswith("unix:")
    if sys.platform == "linux" and is_here and not Path(where).is_socket():
        raise StackError(f"DOCKER_SOCKET={where} is not the socket of a Docker engine")


def _profiles(stack: Stack) -> list[str]:
    """The active profiles."""
    named: str = stack.config["services"]["guard"]["environment"]["COMPOSE_PROFILES"]
    return [name.strip() for name in named.split(",") if name.strip()]


def refuse_taken_port(stack: Stack) -> None:
    """Raises StackError when another program uses the address and port of the web UI."""
    edge = stack.services().get("edge", {})
    host, port = stack.address
    publishers: list[dict[str, Any]] = edge.get("Publishers") or []
    published = {(one["URL"], one["PublishedPort"]) for one in publishers}
    if (host, port) in published:
        return
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise StackError(
                f"port {port} on {host} cannot be used ({error.strerror}): stop what uses it, or"
                f" set HTTP_PORT (and BIND_ADDRESS) to something free, e.g. HTTP_PORT={port + 1}"
            ) from None
