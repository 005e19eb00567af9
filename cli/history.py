"""What was live when, and who put it there. A rollback goes back to what is noted here.

It is the table `deploys` (control_plane/postgres/deploys.sql).
"""

from __future__ import annotations

import getpass

from cli import database, deploys
from cli.stack import Stack, docker

# The verb of a deploy until it is whole: one that is killed keeps it, and no rollback goes there.
UNFINISHED = "unfinished"
DONE, FORGOTTEN = "UPDATE deploys SET verb = 'deploy'", "DELETE FROM deploys"


def note(stack: Stack, service: str, verb: str, image: str = "") -> None:
    """Notes what is live, or the image that will be, unless it is the last one that was noted."""
    if not (running := deploys.servers(stack, service)):
        return
    image = image or running[0][1]
    labels = '{{index .Config.Labels "org.opencontainers.image.%s"}}'
    named = f"{labels % 'version'}\t{labels % 'revision'}"
    said = docker("image", "inspect", "--format", named, image).strip("\n").split("\t")
    version, revision = (label or "unknown" for label in said)
    values = (service, image, version, revision, verb, getpass.getuser())
    row = ", ".join("'{}'".format(value.replace("'", "''")) for value in values)
    database.rows(
        stack,
        f"""INSERT INTO deploys (service, image, version, revision, verb, who) SELECT {row}
        WHERE '{image}' IS DISTINCT FROM (SELECT image FROM deploys WHERE service = '{service}'
          ORDER BY id DESC LIMIT 1)""",  # noqa: S608 # quoted above
    )


def settle(stack: Stack, service: str, change: str) -> None:
    """Changes the last note of a service, if it is of a deploy that was UNFINISHED until now."""
    last = f"(SELECT max(id) FROM deploys WHERE service = '{service}')"  # noqa: S608 # ours
    database.rows(stack, f"{change} WHERE verb = '{UNFINISHED}' AND id = {last}")


def note_all(stack: Stack) -> None:
    """Notes what `make up` has put live."""
    for service in stack.code_servers:
        note(stack, service, "up")
        settle(stack, service, DONE)


def rows(stack: Stack) -> list[dict[str, str]]:
    """What was live, the newest first."""
    return database.rows(stack, "SELECT * FROM deploys ORDER BY id DESC")
