"""Builds the images, and reports progress."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from cli.errors import StackError
from cli.output import note, printable
from cli.stack import Stack

# Without a terminal, the interval of the lines that report progress.
SECONDS_BETWEEN_NOTES = 15
# A label of each image contains the last commit that changed its sources. A commit to your code
# does not change the images of the control plane. With another label, containers would restart.
PLATFORM = ("Dockerfile.dagster", "control_plane", "requirements", "dagster.yaml", "workspace.yaml")
REVISIONS = {
    "REVISION": PLATFORM,
    "CODE_REVISION": ("Dockerfile.code", "code_location"),
    "WAREHOUSE_REVISION": ("locations/warehouse",),
}


def build(stack: Stack) -> None:
    """Builds the images of all active services.

    Raises:
        StackError: An image could not be built. The output of the build is on stderr.
    """
    environment = {**versions(stack.root), **stack.environment}
    command = stack.command("build")
    if sys.stderr.isatty():
        status = subprocess.run(command, cwd=stack.root, env=environment, check=False).returncode
    else:
        status = _build_without_terminal(command, stack.root, environment)
    if status:
        raise StackError("an image could not be built: the reason is above")


def _build_without_terminal(command: list[str], root: Path, environment: dict[str, str]) -> int:
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
    return building.returncode


def versions(root: Path) -> dict[str, str]:
    """VERSION of the platform, and the last commit to the sources of each kind of image."""
    version = re.search(r'^version = "(.*)"', (root / "pyproject.toml").read_text(), re.MULTILINE)
    found = {"VERSION": version[1] if version else "unknown"}
    for name, paths in REVISIONS.items():
        found[name] = (_last_commit(root, paths) if shutil.which("git") else "") or "unknown"
    return found


def _last_commit(root: Path, paths: Sequence[str]) -> str:
    log = subprocess.run(
        ["git", "log", "-1", "--format=%h", "--", *paths],
        cwd=root, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return log.stdout.strip()
