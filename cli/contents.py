"""Compares what a code location defines now with what its new image would."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from cli import deploys
from cli.errors import StackError
from cli.output import say
from cli.stack import Stack

# What a code location has now.
LIVE = """{ repositoriesOrError { ... on RepositoryConnection { nodes {
  location { name } jobs { name } assetNodes { assetKey { path } }
  schedules { name pipelineName scheduleState { status } }
  sensors { name targets { pipelineName } sensorState { status } } } } } }"""
MODULE = "control_plane.code_server.contents"
# The project's .env as it is now, which the new code may need (code_server/hand_over.py).
HAND_OVER = "python", "-m", "control_plane.code_server.hand_over", "candidate"
WITH_CANDIDATE = "--env=CANDIDATE_SETTINGS=.env.candidate"
REFUSED = "refused, the code before stays live"
KINDS = "jobs", "assets", "schedules", "sensors"


@dataclass(frozen=True)
class Contents:
    """What a code location defines: names, and the jobs of each schedule and sensor.

    Attributes:
        names: The names by kind.
        jobs: The jobs of each schedule and sensor.
        on: The schedules and sensors that are switched on.
    """

    names: dict[str, set[str]]
    jobs: dict[str, set[str]]
    on: set[str]


def live(stack: Stack, service: str) -> Contents:
    """What is live now, as the web server knows it."""
    names: dict[str, set[str]] = {kind: set() for kind in KINDS}
    jobs: dict[str, set[str]] = {}
    on: set[str] = set()
    nodes: list[dict[str, Any]] = stack.graphql(LIVE)["repositoriesOrError"].get("nodes", [])
    for node in nodes:
        if node["location"]["name"] != deploys.location_of(stack, service):
            continue
        names["jobs"] |= {one["name"] for one in node["jobs"] if not one["name"].startswith("__")}
        names["assets"] |= {"/".join(one["assetKey"]["path"]) for one in node["assetNodes"]}
        for one in node["schedules"]:
            jobs[one["name"]] = {one["pipelineName"]}
            names["schedules"].add(one["name"])
            on |= {one["name"]} if one["scheduleState"]["status"] == "RUNNING" else set()
        for one in node["sensors"]:
            targets: list[dict[str, str]] = one["targets"] or []
            jobs[one["name"]] = {target["pipelineName"] for target in targets}
            names["sensors"].add(one["name"])
            on |= {one["name"]} if one["sensorState"]["status"] == "RUNNING" else set()
    return Contents(names, jobs, on)


def built(stack: Stack, service: str) -> Contents | None:
    """What the image defines that was built last, or None if its Dockerfile is not ours.

    Raises:
        StackError: The project cannot be imported; its error is on stderr.
    """
    # A container of its own, that no client finds.
    once = "run", "--rm", "--no-TTY", "--no-deps"
    try:
        deploys.hand_over(stack, service, *HAND_OVER)
        asked = stack.compose(*once, WITH_CANDIDATE, service, "python", "-m", MODULE)
    except StackError as error:
        if "No module named 'control_plane" in str(error):
            return None
        raise
    try:
        found: dict[str, Any] = json.loads(asked.stdout.strip().splitlines()[-1])
        jobs = {name: set(of) for kind in KINDS[2:] for name, of in found[kind].items()}
        return Contents({kind: set(found[kind]) for kind in KINDS}, jobs, set())
    except (ValueError, LookupError, TypeError, AttributeError):
        raise StackError("the code ended before its definitions could be listed") from None


def changes(old: Contents, new: Contents) -> list[str]:
    """A line for each kind of definition of which some were added or removed."""
    lines: list[str] = []
    for kind in KINDS:
        for what, names in (
            ("added", new.names[kind] - old.names[kind]),
            ("removed", old.names[kind] - new.names[kind]),
        ):
            if names:
                lines.append(f"{kind} {what}: {', '.join(sorted(names))}")
    return lines


def missing(old: Contents, new: Contents) -> list[str]:
    """What is switched on and would have nothing to do any more."""
    there = new.names["schedules"] | new.names["sensors"]
    found = [f"{name}, which is switched on, is gone" for name in sorted(old.on - there)]
    for name in sorted(old.on & there):
        gone = old.jobs[name] & old.names["jobs"] - new.names["jobs"]
        found += [f"the job {job} of {name}, which is switched on, is gone" for job in sorted(gone)]
    return found


def check(stack: Stack, candidate: Stack, service: str, *, anyway: bool) -> None:
    """Says what would change.

    Args:
        stack: The stack.
        candidate: The same stack, with the image that would go live.
        service: The code location's service.
        anyway: Whether what is switched on may end.

    Raises:
        StackError: It does not load, or something that is switched on would end.
    """
    try:
        new = built(candidate, service)
    except StackError as error:
        raise StackError(f"{REFUSED}: it does not load: {error}") from None
    if not new:
        say("its image has a Dockerfile of its own: its definitions are not compared")
        return
    old = live(stack, service)
    for line in changes(old, new):
        say(f"  {line}")
    lost = missing(old, new)
    if lost and not anyway:
        how = "switch it off first, or ./stack deploy --anyway"
        raise StackError(f"{REFUSED}: {'; '.join(lost)}: {how}")
