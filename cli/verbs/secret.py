"""Store a secret that only one code location and its runs can read. The value comes from stdin."""

from __future__ import annotations

import getpass
import re
import subprocess
import sys
from argparse import ArgumentParser, Namespace

from cli import commands, containers, deploys, dotenv
from cli.errors import StackError
from cli.output import can_ask, note, say
from cli.stack import Stack, docker

NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
MOST_BYTES = 1 << 20


def add(parser: ArgumentParser) -> None:
    """The flags."""
    parser.add_argument("name", metavar="NAME", help="letters, digits, _, - and .")
    parser.add_argument(
        "location", metavar="LOCATION", nargs="?", default="", help="default: your project"
    )
    parser.add_argument("--remove", action="store_true", help="remove it")


def run(stack: Stack, flags: Namespace) -> None:
    """Raises StackError when it is not stored."""
    service = deploys.service_of(stack, flags.location)
    if not NAME.fullmatch(flags.name):
        raise StackError(f"{flags.name!r}: a name has up to 100 letters, digits, _, - and .")
    if f"{stack.name}_{service}-settings" not in docker(*commands.volumes(stack.name)).split():
        raise StackError(f"{service} was never started: make up")
    if flags.remove:
        refuse_named(stack, service, flags.name)
    value = b"" if flags.remove else _read()
    image = stack.config["services"]["postgres"]["image"]
    command = containers.secret(stack.name, service, image, flags.name, remove=flags.remove)
    done = subprocess.run(["docker", *command], input=value, capture_output=True, check=False)
    if done.returncode == containers.NO_SECRET:
        raise StackError(f"there is no secret {flags.name}")
    if done.returncode:
        raise StackError(done.stderr.decode(errors="replace").strip())
    if flags.remove:
        say(f"removed {flags.name}")
    else:
        say(f"stored: runs of {service} that start now read it (docs/how-to/secrets.md)")


def refuse_named(stack: Stack, service: str, name: str) -> None:
    """Raises StackError when the project's .env names a secret: its code would not load."""
    folder = stack.projects.get(service)
    variables = dotenv.of(folder) if folder else {}
    for variable, value in variables.items():
        if value == f"secret:{name}":
            raise StackError(
                f"{folder}/.env names {name}: first take out the line {variable}, and make deploy"
            )


def _read() -> bytes:
    """The value: typed, or all of stdin. One line is stored without its end.

    Several lines, such as a private key, are stored as they are.
    """
    if can_ask():
        value = getpass.getpass("value: ").encode()
    else:
        if not sys.stdin:
            raise StackError("stdin is closed: the value is read from there")
        value = sys.stdin.buffer.read(MOST_BYTES + 1)
        if value.count(b"\n") < 2:
            value = value.removesuffix(b"\n").removesuffix(b"\r")
        if b"\r\n" in value:
            note(r"note: its lines end with \r\n, as on Windows: some programs read no such key")
    if not value or len(value) > MOST_BYTES:
        raise StackError("the value is empty, or longer than a mebibyte")
    return value
