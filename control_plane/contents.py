"""Prints what a code server defines, as a line of JSON.

`./stack deploy` compares it with what is live, before the new code is: it asks a server of the new
image that no other client finds. The gap: Dagster's command lists definitions as tables for people,
one kind at a time, and only those of a project that is installed beside it.
"""

import json
import re
import sys
from typing import Any

from dagster import DagsterInstance
from dagster._core.errors import DagsterUserCodeProcessError
from dagster._core.remote_origin import GrpcServerCodeLocationOrigin
from dagster._core.remote_representation.external import RemoteRepository
from dagster_shared.error import SerializableErrorInfo

PORT = 4000
# Dagster's name of the job for any selection of assets.
HIDDEN = "__"
# A line of a traceback that is about the user's code.
IN_PROJECT = re.compile(r'File "/opt/code/[^"]+", line \d+')
# Of an error without a frame of the user's code: so many of the innermost frames.
FRAMES_OF_OTHERS = 3


def contents(repositories: list[RemoteRepository]) -> dict[str, Any]:
    """The names of jobs and assets, and the jobs of each schedule and sensor."""
    jobs: set[str] = set()
    assets: set[str] = set()
    schedules: dict[str, list[str]] = {}
    sensors: dict[str, list[str]] = {}
    for repository in repositories:
        jobs |= {job.name for job in repository.get_all_jobs()}
        assets |= {node.asset_key.to_user_string() for node in repository.get_asset_node_snaps()}
        schedules |= {one.name: [one.job_name] for one in repository.get_schedules()}
        for sensor in repository.get_sensors():
            sensors[sensor.name] = [target.job_name for target in sensor.get_targets()]
    named = {"jobs": {job for job in jobs if not job.startswith(HIDDEN)}, "assets": assets}
    found = {kind: sorted(names) for kind, names in named.items()}
    return {**found, "schedules": schedules, "sensors": sensors}


def as_answer(info: SerializableErrorInfo) -> dict[str, Any]:
    """An error of the project: its text, its messages from the first cause on, and its place."""
    chain = [info]
    while cause := chain[0].cause:
        chain.insert(0, cause)
    places = (IN_PROJECT.search(frame) for one in chain for frame in reversed(one.stack))
    place = next(filter(None, places), None)
    return {
        "error": text_of(chain),
        "messages": [one.message for one in chain],
        "place": place[0] if place else "",
    }


def text_of(chain: list[SerializableErrorInfo]) -> str:
    """A chain of errors as Python prints it, without the frames between the user's own.

    Dagster's own text has about a hundred lines for an error in one file: most are of its loader,
    and it prints an error twice if that was wrapped.

    Args:
        chain: The errors, the first cause first.
    """
    parts: list[str] = []
    left_out = 0
    for one in chain:
        kept = [frame for frame in one.stack if IN_PROJECT.search(frame)]
        if parts and not kept:  # Dagster says with it which module it was about to load
            left_out += len(one.stack)
            continue
        # Also where it was raised, if that is in a package.
        innermost = one.stack[-1 if kept else -FRAMES_OF_OTHERS :]
        kept += [frame for frame in innermost if frame not in kept]
        left_out += len(one.stack) - len(kept)
        heading = "Traceback (most recent call last):\n" if kept else ""
        parts.append(f"{heading}{''.join(kept)}{one.message}".rstrip())
    if left_out:
        parts.append(f"({left_out} frames of Dagster and other packages are not shown)")
    return "\n\n".join(parts)


def main() -> None:
    """Asks the code server at the host in the first argument; prints the answer."""
    origin = GrpcServerCodeLocationOrigin(host=sys.argv[1], port=PORT)
    with DagsterInstance.get() as instance:
        try:
            location = origin.create_location(instance)
        except DagsterUserCodeProcessError as failed:
            answer = as_answer(failed.user_code_process_error_infos[0])
        else:
            answer = contents(list(location.get_repositories().values()))
            location.cleanup()
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
