"""Build what has changed, start the stack, and wait until every part is healthy."""

from __future__ import annotations

import subprocess
import time
from argparse import ArgumentParser, Namespace
from typing import Any

from cli import builds, checks, commands, health
from cli.errors import StackError
from cli.output import note, say
from cli.stack import ANY, LOCALHOST, Stack, docker

# What Dagster reads on a code server: the image of its runs.
RUN_IMAGE = "DAGSTER_CONTAINER_IMAGE"


def add(parser: ArgumentParser) -> None:
    """It has no flags."""


def run(stack: Stack, flags: Namespace) -> None:
    """Raises StackError with the reason when the stack is not healthy in the end."""
    machine = subprocess.run(["machine/setup.sh"], cwd=stack.root, check=False)
    if machine.returncode:
        raise StackError("this machine is not ready: the reason is above")
    checks.refuse_bad_settings(stack)
    checks.refuse_taken_port(stack)
    was_there = bool(stack.services())
    say("building images (a minute the first time, a second when nothing has changed)")
    builds.build(stack)
    _remove_switched_off(stack)
    say("starting, and waiting until every part is healthy")
    started = time.monotonic()
    if was_there:
        # By themselves first: Compose starts anew all that depends on a container that it replaces
        # (2.26, setDependentLifecycle), and the UI would be gone for 9 s with each change of code.
        stack.compose(*commands.start(), "--no-deps", *_code_servers(stack), check=False)
    done = stack.compose(*commands.start(), check=False)
    if done.returncode:
        raise StackError("not everything started: " + _reason(stack, done.stderr, was_there))
    _remove_old_networks(stack)
    say(f"healthy after {time.monotonic() - started:.0f} s: {stack.ui_url} (make credentials)")
    if stack.address[0] not in (LOCALHOST, "::1") and not stack.endpoint.domain:
        address = "every address" if stack.address[0] in ANY else stack.address[0]
        note(
            f"warning: published on {address} without TLS: the network between a browser and this"
            " machine can read the password; set DOMAIN, or put a proxy with TLS in front"
        )
    errors = health.location_errors(stack)
    if errors:
        raise StackError(" | ".join(errors))


def _reason(stack: Stack, said: str, was_there: bool) -> str:
    """Why not everything started; removes what a first start without addresses leaves behind."""
    last = (said.strip().splitlines() or [""])[-1]
    if "address pool" in last:
        if not was_there:
            stack.compose(*commands.down(), check=False)
        return last + " (docs/how-to/several-stacks.md)"
    problems = [one for one in health.problems(stack) if "has no container" not in one]
    # A container that was never started waits for one that failed, and says nothing itself.
    failed = [problem for problem in problems if ": created," not in problem]
    if not failed:
        note(said.strip())
    return " | ".join(failed or problems or [last])


def _code_servers(stack: Stack) -> list[str]:
    """The services that serve code locations."""
    services: dict[str, dict[str, Any]] = stack.config["services"]
    return [
        name
        for name, service in services.items()
        if RUN_IMAGE in (service.get("environment") or {})
    ]


def _remove_switched_off(stack: Stack) -> None:
    """Removes services of profiles that were on at the last start and are not any more."""
    everything = stack.with_all_profiles
    off = sorted(set(everything.services()) - set(stack.config["services"]))
    if off:
        say(f"removing what is switched off: {', '.join(off)}")
        everything.compose("rm", "--stop", "--force", *off)


def _remove_old_networks(stack: Stack) -> None:
    """Removes networks of an earlier version of this stack, which Compose leaves."""
    listed = [line.split() for line in docker(*commands.networks(stack.name)).splitlines()]
    old = [name for name, key in listed if key not in stack.with_all_profiles.config["networks"]]
    if old:
        docker("network", "rm", *old)
