"""Marks that a stack has while a command changes it. If the command is killed, they name it.

A mark is an empty volume. Compose does not know it, so `docker compose down --volumes` leaves it.
That of an upgrade is a file in the checkout, which it changes, with the command that goes back.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from cli import commands
from cli.errors import StackError
from cli.stack import Stack, docker

RESTORING, ROTATING = "restoring", "rotating"
# Compose alone sees no mark: control_plane/postgres/prepare.sh looks for this file.
VOLUME, FILE = "postgres-credentials", "/run/postgres-credentials/restoring"
# The same for a stack that has moved to a cluster: two daemons would launch each tick twice.
MOVED = "/run/postgres-credentials/moved"
# Of a stack on a cluster, in the file that says which one has it.
UP, DOWN = "up", "down"
# How the way back from an upgrade of Dagster alone begins: it changes files of the checkout.
OF_DAGSTER = "git checkout . "


def name(stack: Stack, what: str) -> str:
    """The engine's name of a mark."""
    return f"{stack.name}_{what}"


def is_set(stack: Stack, what: str) -> bool:
    """Whether a command goes on, or was interrupted."""
    return name(stack, what) in docker(*commands.volumes(stack.name)).split()


def put(stack: Stack, what: str) -> None:
    """Sets a mark."""
    docker(*commands.create_volume(stack.name, what))


def remove(stack: Stack, what: str) -> None:
    """Removes a mark."""
    docker("volume", "rm", name(stack, what))


def begin_restore(stack: Stack) -> None:
    """Marks a stack before anything is deleted or filled: from then on nothing starts it."""
    put(stack, RESTORING)
    stack.compose(*commands.prepare("touch", FILE))


def end_restore(stack: Stack) -> None:
    """Removes the marks of a restore that came to its end."""
    stack.compose(*commands.prepare("rm", "--force", FILE, MOVED))
    remove(stack, RESTORING)


def put_moved(stack: Stack) -> None:
    """Marks a stack whose daemon is on a cluster now. Only a restore can start it here again."""
    stack.compose(*commands.prepare("touch", MOVED))


def empty(
    stack: Stack, volumes: list[str] | None = None, *, except_for: Collection[str] = ()
) -> None:
    """Deletes the volumes of a stack that is down, but not the marks of its restore.

    Args:
        stack: The stack.
        volumes: Only these, and the database, by their names in Compose. By default all.
        except_for: Not these, by their names in Compose.
    """
    kept = {name(stack, one) for one in [RESTORING, *except_for]}
    kept.add(stack.config["volumes"][VOLUME]["name"])
    chosen = None if volumes is None else {name(stack, one) for one in [*volumes, "postgres-data"]}
    there = sorted(set(docker(*commands.volumes(stack.name)).split()) - kept)
    there = [one for one in there if chosen is None or one in chosen]
    if there:
        docker("volume", "rm", *there)


def refuse_half_restored(stack: Stack) -> None:
    """Raises StackError when a restore did not come to its end."""
    if is_set(stack, RESTORING):
        raise StackError(
            f"a restore of {stack.name} was interrupted, and its data is not complete: ./stack"
            " restore FILE again, or ./stack destroy"
        )


def refuse_down(stack: Stack, service: str) -> None:
    """Raises StackError when a service does not run, with what there is to do."""
    refuse_half_restored(stack)
    if stack.services().get(service, {}).get("State") != "running":
        raise StackError(f"the stack {stack.name} is not up: make up")


def cluster_of(stack: Stack) -> Path:
    """The file that says which cluster has a stack, and whether it is up there."""
    return stack.root / ".dagster" / f"{stack.name}.cluster"


def is_up_on_cluster(stack: Stack) -> bool:
    """Whether a stack was started on a cluster from this checkout, and not stopped there."""
    file = cluster_of(stack)
    return file.is_file() and not file.read_text().endswith(DOWN)


def refuse_on_cluster(stack: Stack) -> None:
    """Raises StackError while a cluster has the daemon: two would launch each run twice."""
    if is_up_on_cluster(stack):
        raise StackError(
            f"{stack.name} is up on a cluster: first ./stack cluster-backup --last, or ./stack"
            f" cluster-down; or delete {cluster_of(stack)}, if there is no such cluster any more"
        )


def begin_upgrade(stack: Stack, back: str) -> None:
    """Marks a stack before anything is replaced, with the command that goes back."""
    file = _upgrading(stack)
    file.parent.mkdir(exist_ok=True)
    file.write_text(back)


def way_back(stack: Stack) -> str:
    """The command that goes back from an upgrade that is not complete; otherwise nothing."""
    file = _upgrading(stack)
    return file.read_text() if file.exists() else ""


def end_upgrade(stack: Stack) -> None:
    """Removes the mark: the stack is healthy, or as it was."""
    _upgrading(stack).unlink(missing_ok=True)


def unfinished_upgrade(stack: Stack) -> str:
    """What to say of an upgrade that goes on, or was interrupted; otherwise nothing."""
    back = way_back(stack)
    again = "./stack upgrade" + " --dagster" * back.startswith(OF_DAGSTER)
    return back and f"one goes on, or was interrupted: {again} finishes it. To go back: {back}"


def _upgrading(stack: Stack) -> Path:
    return stack.root / ".dagster" / f"{stack.name}.upgrading"
