"""Compares what a code location defines now with what its new image would."""

from __future__ import annotations

import json
from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import Any

from cli import deploys, dotenv, health, outdated
from cli.errors import StackError
from cli.output import note, say
from cli.stack import Stack, docker

# What a code location has now.
LIVE = """{ repositoriesOrError { ... on RepositoryConnection { nodes {
  location { name } jobs { name } assetNodes { assetKey { path } }
  schedules { name pipelineName scheduleState { status } }
  sensors { name targets { pipelineName } sensorState { status } } } } } }"""
MODULE = "control_plane.contents"
# The project's .env as it is now, which the new code may need (code_server/hand_over.py).
HAND_OVER = "python", "-m", "control_plane.code_server.hand_over", "candidate"
WITH_CANDIDATE = "--env=CANDIDATE_SETTINGS=.env.candidate"
REFUSED = "refused, the previous code stays live"
# So many names of each kind.
SHOWN = 20
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


def built(stack: Stack, candidate: Stack, service: str) -> Contents:
    """What the image defines that was built last: asks a code server of it that no client finds.

    Raises:
        StackError: It does not start, or has an error, whose trace is on stderr.
    """
    deploys.hand_over(candidate, service, *HAND_OVER)
    once = "run", "--detach", "--no-deps", WITH_CANDIDATE, service
    server = candidate.compose(*once).stdout.strip()
    try:
        deploys.wait_until_healthy(server)
        name = docker("inspect", "--format", "{{.Name}}", server).strip().lstrip("/")
        ask = "exec", "--no-TTY", "webserver", "python", "-m", MODULE, name
        said = stack.compose(*ask).stdout
    except StackError as error:
        if f"No module named {MODULE}" in str(error):  # after `git pull`
            raise StackError("the web server has an earlier version: make up first") from None
        deploys.wait_until_healthy(server)  # if it ended when it was asked, this says so
        raise
    finally:
        outdated.remove_containers(server)
    return of_answer(said)


def of_answer(said: str) -> Contents:
    """What MODULE printed of a code server; raises StackError if that has an error."""
    found: dict[str, Any] = json.loads(said.splitlines()[-1])
    if "error" in found:
        note(found["error"])
        reason = health.reason(found["messages"])
        place = f" ({found['place']})" if found["place"] and 'File "' not in reason else ""
        raise StackError(f"it does not load: {reason}{place}")
    jobs = {name: set(of) for kind in KINDS[2:] for name, of in found[kind].items()}
    return Contents({kind: set(found[kind]) for kind in KINDS}, jobs, set())


def changes(old: Contents, new: Contents) -> list[str]:
    """A line for each kind of definition of which some were added or removed."""
    lines: list[str] = []
    for kind in KINDS:
        lines += line(f"{kind} added", new.names[kind] - old.names[kind])
        lines += line(f"{kind} removed", old.names[kind] - new.names[kind])
    return lines


def settings(old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    """The names of the variables in a project's .env that change, and never a value."""
    changed = {name for name in old.keys() & new.keys() if old[name] != new[name]}
    return [
        *line("variables added", new.keys() - old.keys()),
        *line("variables changed", changed),
        *line("variables removed", old.keys() - new.keys()),
    ]


def line(what: str, names: Set[str]) -> list[str]:
    """A line with the first of the names, or none."""
    if not names:
        return []
    shown = ", ".join(" ".join(name.split()) for name in sorted(names)[:SHOWN])
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return [f"{what}: {shown}{more}"]


def moved(old: Contents, new: Contents) -> list[str]:
    """A line for each schedule and sensor that is on and would launch other jobs than now."""
    found: list[str] = []
    for name in sorted(old.on & new.jobs.keys()):
        was, will_be = (shown(one.jobs[name]) for one in (old, new))
        if was != will_be and old.jobs[name] and new.jobs[name]:
            found.append(f"{name}, which is switched on, launches {will_be} instead of {was}")
    return found


def missing(old: Contents, new: Contents) -> list[str]:
    """What is switched on and would be gone, or would launch nothing any more.

    Dagster refuses code whose schedule or sensor names a job that does not exist. So every job of a
    new definition exists, also one that was renamed with its schedule.
    """
    found = [f"{name}, which is switched on, is gone" for name in sorted(old.on - new.jobs.keys())]
    for name in sorted(old.on & new.jobs.keys()):
        if old.jobs[name] and not new.jobs[name]:
            was = shown(old.jobs[name])
            found.append(f"{name}, which is switched on, would launch nothing (now: {was})")
    return found


def shown(jobs: set[str]) -> str:
    """The jobs of a schedule or sensor. Dagster makes one without a name of selected assets."""
    return ", ".join(sorted({"assets" if job.startswith("__") else job for job in jobs}))


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
    if folder := stack.projects.get(service):
        for one in settings(outdated.live_settings(stack, service), dotenv.of(folder)):
            say(f"  {one}")
    try:
        new = built(stack, candidate, service)
    except StackError as error:
        raise StackError(f"{REFUSED}: {error}") from None
    compare(live(stack, service), new, anyway=anyway)


def compare(old: Contents, new: Contents, *, anyway: bool, verb: str = "deploy") -> None:
    """Says what would change; raises StackError if something that is switched on would end."""
    for one in [*changes(old, new), *moved(old, new)]:
        say(f"  {one}")
    lost = missing(old, new)
    if lost and not anyway:
        how = f"switch it off first, or ./stack {verb} --anyway"
        raise StackError(f"{REFUSED}: {'; '.join(lost)}: {how}")
