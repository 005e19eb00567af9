"""Adds code locations to a stack, and takes them out."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cli.errors import StackError
from cli.output import say
from cli.stack import Stack

TEMPLATE = Path(__file__).parent / "location"
INCLUDES, BACKUP = "locations/compose.yml", "locations/backup.yml"
# A path that means the same in YAML and in Compose.
PLAIN = re.compile(r"[\w ./~-]+")
PROFILES = re.compile(r"^(?:export +)?COMPOSE_PROFILES *= *([^#\n]*)(?:#.*)?$", re.MULTILINE)


def create(stack: Stack, name: str, folder: str | None) -> None:
    """Writes the files of a new code location.

    Args:
        stack: Its stack; its settings must be right.
        name: The name of the code location.
        folder: A project's folder. Without it, a small project is written as well.
    """
    services: dict[str, dict[str, Any]] = stack.with_all_profiles.config["services"]
    profiles = {profile for one in services.values() for profile in one.get("profiles", [])}
    taken = {*services, *profiles, stack.code.name}
    target = stack.root / "locations" / name
    if name in taken or (target / "compose.yml").exists():
        raise StackError(f"{name} is taken: there is a service or a profile of this name")
    if folder and not (stack.root / folder).is_dir():
        raise StackError(f"{folder}: there is no such folder")
    if folder and not PLAIN.fullmatch(folder):
        raise StackError(f"{folder}: the path of a project has letters, digits, spaces and /_.-~")
    project = folder or f"locations/{name}"
    # One that was taken out is there already.
    is_new = not (folder or target.exists())
    target.mkdir(exist_ok=True)
    for file in ("compose.yml", "workspace.yaml"):
        text = (TEMPLATE / file).read_text().replace("@name@", name).replace("@folder@", project)
        (target / file).write_text(text)
    if is_new:
        for file in sorted((TEMPLATE / "project").rglob("*")):
            where = Path(str(file.relative_to(TEMPLATE / "project")).replace("NAME", name))
            if file.is_file() and file.suffix != ".pyc":
                (target / where).parent.mkdir(parents=True, exist_ok=True)
                (target / where).write_text(file.read_text().replace("@name@", name))
    for file, line in ((INCLUDES, _line(name)), (BACKUP, _data(name, project))):
        (stack.root / file).write_text((stack.root / file).read_text() + line)
    _set_profiles(stack.root, lambda profiles: [*profiles, name])
    say(f"the code location {name} serves {project}; its files: locations/{name}/. Now: make up")


def remove(stack: Stack, name: str) -> None:
    """Removes what `create` wrote, except a project with code in it."""
    includes, target = stack.root / INCLUDES, stack.root / "locations" / name
    text = includes.read_text()
    is_ours = not target.is_dir() or f"  {name}_files:" in _read(target / "compose.yml")
    if _line(name) not in text or not is_ours:
        raise StackError(f"{name} is no code location that `./stack location` added")
    # Its containers, while Compose still knows them. Without the files it knows nothing.
    if (target / "compose.yml").is_file():
        stack.with_all_profiles.compose("rm", "--stop", "--force", name, f"{name}_files")
    includes.write_text(text.replace(_line(name), ""))
    backup = stack.root / BACKUP
    kept = [one for one in backup.read_text().splitlines(True) if f"/{name}-" not in one]
    backup.write_text("".join(one for one in kept if f"target: /projects/{name}," not in one))
    _set_profiles(stack.root, lambda profiles: [one for one in profiles if one != name])
    for file in ("compose.yml", "workspace.yaml"):
        (target / file).unlink(missing_ok=True)
    kept: list[str] = []
    if target.is_dir() and any(target.iterdir()):
        kept.append(str(target.relative_to(stack.root)))
    elif target.is_dir():
        target.rmdir()
    kept += [f"the volumes {stack.name}_{name}-data and {stack.name}_{name}-settings"]
    say(f"{name} is taken out: make up. Kept: {', '.join(kept)}, and the history of its runs")


def _read(file: Path) -> str:
    return file.read_text() if file.is_file() else ""


def _line(name: str) -> str:
    return f"  - {{path: locations/{name}/compose.yml, project_directory: .}}\n"


def _data(name: str, project: str) -> str:
    volumes = f"{name}-data", f"{name}-settings"
    lines = "".join(f"      - {one}:/volumes/{one}:ro\n" for one in volumes)
    # Compose looks for it from the folder of that file.
    source = project if project.startswith(("/", "~")) else f"../{project}"
    where = f'source: "{source}", target: /projects/{name}, read_only: true'
    return f"{lines}      - {{type: bind, {where}}}\n"


def _set_profiles(root: Path, change: Callable[[list[str]], list[str]]) -> None:
    """Changes COMPOSE_PROFILES in .env, and leaves every other line as it is."""
    file = root / ".env"
    text = file.read_text() if file.is_file() else ""
    match = next(reversed(list(PROFILES.finditer(text))), None)  # Compose takes the last
    names = (
        [one.strip() for one in match[1].strip("'\" ").split(",") if one.strip()] if match else []
    )
    line = f"COMPOSE_PROFILES={','.join(change(names))}"
    if match:
        text = text[: match.start()] + line + text[match.end() :]
    else:
        text = f"{text.rstrip()}\n{line}\n".lstrip()
    file.write_text(text)
