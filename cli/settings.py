"""The operator's own files in the checkout, as a backup has them."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from cli import commands
from cli.errors import StackError
from cli.output import note, say
from cli.stack import Stack, docker

# The stack's own settings. The others are read by what these say.
FIRST = ".env"
OVERRIDE = "docker-compose.override.yml"


def paths(stack: Stack) -> dict[str, Path]:
    """Where the operator's files are, or would be, by their names in a backup."""
    names = (FIRST, OVERRIDE, "dagster.yaml")
    files = {name: stack.root / name for name in names}
    # Also those of code locations that are switched off.
    projects = stack.with_all_profiles.projects
    files |= {f"{service}.env": folder / ".env" for service, folder in projects.items()}
    return {name: file.absolute() for name, file in files.items()}


def put_all(stack: Stack, texts: dict[str, str]) -> Stack:
    """Writes the files of the checkout; returns the stack with them, or raises StackError."""
    # First .env: it says where the other files are.
    put(stack, {name: texts[name] for name in texts if name == FIRST})
    new = Stack(stack.root, stack.environment)
    put(new, {name: texts[name] for name in texts if name != FIRST})
    new = Stack(stack.root, stack.environment)
    if new.name != stack.name:
        raise StackError(
            f"your files name the stack {new.name}, not {stack.name}: nothing was filled"
        )
    return new


def put(stack: Stack, texts: Mapping[str, str]) -> None:
    """Writes the files of a backup. One that is there and differs stays, with the other beside it.

    Args:
        stack: The stack.
        texts: The text of each file by its name.
    """
    places = paths(stack)
    others = other_stacks(stack)
    for name in sorted(set(texts) & set(places)):
        file = places[name]
        text = _as_restored(stack, name, texts[name])
        # An override can do all that the engine can, and a .env is that of every stack of a folder.
        can_be_written = name != OVERRIDE and not (name == FIRST and others)
        if not file.exists() and can_be_written:
            _write(file, text)
            say(f"wrote {file}")
        elif not file.exists() or _as_restored(stack, name, file.read_text()) != text:
            beside = file.with_name(f"{file.name}.from-backup")
            _write(beside, text)
            note(f"note: {file} stays as it is: {beside.name} beside it is that of the backup")


def other_stacks(stack: Stack) -> list[str]:
    """The names of stacks that were started from the folder of this one, and have containers."""
    directory = f'{{{{.Label "{commands.FOLDER_LABEL}"}}}}'
    project = f'{{{{.Label "{commands.PROJECT_LABEL}"}}}}'
    rows = [
        one.split("\t")
        for one in docker("ps", "--all", "--format", f"{project}\t{directory}").splitlines()
    ]
    here = str(stack.root.resolve())
    found = {name for name, where in rows if where == here} - {stack.name}
    # `backup-verify` has one for a moment.
    return sorted(name for name in found if not name.endswith("-verify"))


def _as_restored(stack: Stack, name: str, text: str) -> str:
    """A file as a restore writes it.

    Its .env has the name of this stack, and the port if that was chosen for it. A .env that differs
    in these lines only does not differ.
    """
    if name != FIRST:
        return text
    own = {"STACK_NAME": stack.name}
    if "HTTP_PORT" in stack.environment:
        own["HTTP_PORT"] = stack.environment["HTTP_PORT"]
    for setting in (*own, "COMPOSE_PROJECT_NAME"):
        text = re.sub(rf"(?m)^\s*(export\s+)?{setting}\s*[=:].*\n?", "", text)
    return "".join(f"{setting}={value}\n" for setting, value in own.items()) + text


def _write(file: Path, text: str) -> None:
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as out:
        out.write(text)
