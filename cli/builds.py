"""Builds the images, and reports progress."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from cli.errors import StackError
from cli.output import note, printable
from cli.stack import Stack, docker

# Without a terminal, the interval of the lines that report progress.
SECONDS_BETWEEN_NOTES = 15
# A label of each image contains the last commit that changed its sources. A commit to your code
# does not change the images of the control plane. With another label, containers would restart.
PLATFORM = ("Dockerfile.dagster", "control_plane", "requirements", "dagster.yaml", "workspace.yaml")
UNCOMMITTED = "+uncommitted"
REVISIONS = {
    "REVISION": PLATFORM,
    "WAREHOUSE_REVISION": ("locations/warehouse",),
}


def build(stack: Stack) -> dict[str, str]:
    """Builds the images of all active services.

    Returns:
        The further code locations whose image could not be built, with the reason. One of them does
        not hold up the rest.

    Raises:
        StackError: Another image could not be built. The output of the build is on stderr.
    """
    environment = _environment(stack)
    services: dict[str, dict[str, Any]] = stack.config["services"]
    names = further(stack)
    _build(stack, environment, [n for n in services if "build" in services[n] and n not in names])
    failed: dict[str, str] = {}
    for name in names:
        try:
            _build(stack, environment, [name])
        except StackError as error:
            failed[name] = str(error)
    return failed


def build_only(stack: Stack, services: list[str]) -> None:
    """Builds the images of some services; raises StackError as `build` does."""
    _build(stack, _environment(stack), services)


def further(stack: Stack) -> list[str]:
    """The code servers besides the one of your project. None of them may hold up the rest."""
    return [name for name in stack.code_servers if name != "code_location"]


def rest(stack: Stack) -> list[str]:
    """All other services, or nothing if there are no further code servers."""
    names = further(stack)
    services = [n for n in stack.config["services"] if n.removesuffix("_files") not in names]
    return services if names else []


def with_image(stack: Stack, failed: Iterable[str]) -> list[str]:
    """The further code servers that can start: those that were built now or before."""
    services: dict[str, dict[str, Any]] = stack.config["services"]
    missing = {n for n in failed if not docker("image", "ls", "--quiet", services[n]["image"])}
    return [name for name in further(stack) if name not in missing]


def _environment(stack: Stack) -> dict[str, str]:
    return {**versions(stack.root, stack.code), **stack.environment}


def _build(stack: Stack, environment: dict[str, str], services: list[str]) -> None:
    command = stack.command("build", *services)
    if sys.stderr.isatty():
        # stdout may be the file of `cluster-images`.
        done = subprocess.run(
            command, cwd=stack.root, env=environment, stdout=sys.stderr, check=False
        )
        status = done.returncode
    else:
        status = _build_without_terminal(command, stack.root, environment)
    if status:
        raise StackError("an image could not be built: the reason is above")


def _build_without_terminal(command: list[str], root: Path, environment: dict[str, str]) -> int:
    """Raises StackError with what a build of ours says when it refuses a project."""
    lines: list[str] = []
    with subprocess.Popen(
        command, cwd=root, env=environment, text=True, errors="replace",
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    ) as building:  # fmt: skip
        assert building.stdout  # noqa: S101 # for the type checker
        reader = threading.Thread(target=lines.extend, args=[building.stdout])
        reader.start()
        started = time.monotonic()
        while reader.is_alive():
            reader.join(SECONDS_BETWEEN_NOTES)
            if reader.is_alive():
                last = lines[-1].strip()[:100] if lines else ""
                note(f"still building after {time.monotonic() - started:.0f} s: {last}")
    if building.returncode:
        sys.stderr.write(printable("".join(lines)))
        refused = re.search(r"code location: refused.*", "".join(lines))
        if refused:
            raise StackError(refused[0])
    return building.returncode


def versions(root: Path, code: Path) -> dict[str, str]:
    """VERSION of the platform, and the last commit to the sources of each kind of image.

    Args:
        root: The folder with docker-compose.yml.
        code: Your project's folder, which may be in a repository of its own.
    """
    version = re.search(r'^version = "(.*)"', (root / "pyproject.toml").read_text(), re.MULTILINE)
    found = {"VERSION": version[1] if version else "unknown"}
    if shutil.which("git"):
        found |= {name: _last_commit(root, paths) for name, paths in REVISIONS.items()}
        found["CODE_REVISION"] = _last_commit(code, ["."]) + _changed(code)
    return {name: value or "unknown" for name, value in found.items()}


def _changed(code: Path) -> str:
    """UNCOMMITTED if a folder differs from its last commit; files that git ignores do not count."""
    status = subprocess.run(
        ["git", "status", "--porcelain", "--", "."],
        cwd=code, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return UNCOMMITTED if status.stdout.strip() else ""


def _last_commit(root: Path, paths: Sequence[str]) -> str:
    log = subprocess.run(
        ["git", "log", "-1", "--format=%h", "--", *paths],
        cwd=root, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return log.stdout.strip()
