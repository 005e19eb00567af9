"""What `./stack upgrade` replaces: this project, Dagster alone, or Postgres.

Each function is called when the backup is there. Where it can, it leaves what it refuses as it was.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from cli import builds, commands, marks
from cli.errors import StackError
from cli.output import note, say
from cli.stack import Stack

POSTGRES = "POSTGRES_IMAGE"


class NotReplaced(StackError):
    """What ran before runs on."""


def interrupted(stack: Stack, before: str) -> str:
    """The way back of an upgrade that was interrupted when it had replaced something, or nothing.

    The changes that an upgrade of Dagster alone has made to the checkout are undone.

    Args:
        stack: The stack.
        before: What is checked out; for an upgrade of Dagster alone, a dot.

    Raises:
        StackError: The one that was interrupted is of the other kind.
    """
    back = marks.way_back(stack)
    is_of_dagster = back.startswith(marks.OF_DAGSTER)
    if back and is_of_dagster != (before == "."):
        raise StackError(marks.unfinished_upgrade(stack))
    if is_of_dagster and git(stack, "diff", "--name-only", "HEAD"):
        git(stack, "checkout", "--quiet", ".")
        return back
    is_up = stack.services().get("postgres", {}).get("State") == "running"
    return "" if is_up and f"git checkout {before} " in back else back


def project(stack: Stack, revision: str | None) -> None:
    """Gets the newest commits, or a revision; raises StackError when there is a conflict."""
    before = git(stack, "rev-parse", "HEAD")
    if revision:
        git(stack, "checkout", "--quiet", revision)
    else:
        try:
            git(stack, "pull", "--no-rebase")
        except StackError:
            abort = ["git", "merge", "--abort"]  # it fails if there was nothing to fetch
            subprocess.run(abort, cwd=stack.root, capture_output=True, check=False)
            raise
    say(f"from {before[:12]} to {git(stack, 'rev-parse', 'HEAD')[:12]}")
    up(stack)


def dagster(stack: Stack) -> None:
    """Locks the newest patch release of Dagster's minor version, and nothing else.

    Raises:
        StackError: There is none that fits the other packages, or it does not start.
    """
    before = dagster_version(stack.root)
    minor = before.rpartition(".")[0]
    say(f"looking for a later Dagster {minor}")
    if _run(stack, "make", "lock", f"DAGSTER_VERSION==={minor}.*"):
        git(stack, "checkout", "--quiet", ".")
        raise NotReplaced("the reason is above: nothing was replaced")
    now = dagster_version(stack.root)
    if now == before:
        git(stack, "checkout", "--quiet", ".")
        say(f"Dagster {before} is the newest {minor}: nothing was replaced")
        return
    say(f"Dagster {before} to {now}: commit the requirements.txt that changed, if all is well")
    up(stack)


def postgres(stack: Stack, image: str, restore: list[str]) -> None:
    """Puts the database into another version of Postgres.

    Args:
        stack: The stack. Its database runs, and nothing that writes to it.
        image: The image of that version, for POSTGRES_IMAGE.
        restore: The words of the command that restores the backup.

    Raises:
        StackError: It failed. POSTGRES_IMAGE is as it was then.
    """
    file = stack.root / ".env"
    before = file.read_text() if file.is_file() else None
    others = re.sub(rf"(?m)^\s*(export\s+)?{POSTGRES}\s*[=:].*\n?", "", before or "")
    file.write_text(f"{others.rstrip()}\n{POSTGRES}={image}\n".lstrip())
    try:
        if _run(stack, *restore, "--no-start"):
            raise StackError(f"the reason is above. {POSTGRES} is as it was, the backup is whole")
    except BaseException:
        if before is None:
            file.unlink()
        else:
            file.write_text(before)
        raise
    start(stack)


def start(stack: Stack) -> None:
    """Starts all services with the images that there are: your code is not built.

    Raises:
        StackError: A restore was interrupted, or a service does not start.
    """
    stack = Stack(stack.root, stack.environment)  # POSTGRES_IMAGE is another one
    marks.refuse_half_restored(stack)
    builds.build_only(stack, ["prepare"])
    stack.compose(*commands.start())


def git(stack: Stack, *words: str) -> str:
    """Runs git; returns what it said, or raises StackError with its reason."""
    done = subprocess.run(
        ["git", *words], cwd=stack.root, capture_output=True, text=True, check=False
    )
    if done.returncode:
        note(done.stderr.strip())
        raise NotReplaced(f"git {words[0]} failed: nothing was replaced")
    return done.stdout.strip()


def dagster_version(root: Path) -> str:
    """The version of Dagster that is locked."""
    (found,) = re.findall(
        r"(?m)^dagster==(\S+)", (root / "requirements/control-plane.txt").read_text()
    )
    return found


def up(stack: Stack) -> None:
    """Starts what is checked out; raises StackError when it does not start."""
    # In a process of its own: by the code that came.
    if _run(stack, "./stack", "up"):
        raise StackError("the reason is above")


def _run(stack: Stack, *command: str) -> int:
    return subprocess.run(command, cwd=stack.root, env=stack.environment, check=False).returncode
