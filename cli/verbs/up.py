"""Build what has changed, start the stack, and wait until every service is healthy."""

from __future__ import annotations

import subprocess
import time
from argparse import ArgumentParser, Namespace

from cli import builds, checks, commands, health, history, marks, outdated
from cli.errors import StackError
from cli.output import note, say
from cli.stack import ANY, LOCALHOST, Stack


def add(parser: ArgumentParser) -> None:
    """It has no flags."""


def run(stack: Stack, flags: Namespace) -> None:
    """Raises StackError with the reason when the stack is not healthy in the end."""
    if subprocess.run(["machine/setup.sh"], cwd=stack.root, check=False).returncode:
        raise StackError("this machine is not ready: the reason is above")
    checks.refuse(stack)
    was_there, lost = bool(stack.services()), health.lost_volumes(stack)
    say("building images (a minute the first time, a second when nothing has changed)")
    failed = builds.build(stack)
    outdated.remove_services(stack)
    say("starting, and waiting until every service is healthy")
    started = time.monotonic()
    if was_there:
        # Code servers first, and alone. Compose restarts all that depends on a replaced service
        # (2.26, setDependentLifecycle). Each change of code would stop the UI for 9 s.
        deleted = outdated.deleted_settings(stack)
        stack.compose(*commands.start("code_location"), check=False)
        changed = {*outdated.settings(stack), *deleted}
        if changed:
            stack.compose("restart", *changed, check=False)
    done = stack.compose(*commands.start(*builds.rest(stack)), check=False)
    if done.returncode:
        raise StackError("not everything started: " + _reason(stack, done.stderr, was_there))
    for name in builds.with_image(stack, failed):
        further = stack.compose(*commands.start(name), check=False)
        if further.returncode:
            failed[name] = "not started: " + _reason(stack, further.stderr, was_there, name)
    marks.end_upgrade(stack)
    history.note_all(stack)
    outdated.remove_networks(stack)
    outdated.remove_images(stack)
    say(f"healthy after {time.monotonic() - started:.0f} s: {stack.ui_url} (make credentials)")
    if stack.address[0] not in (LOCALHOST, "::1") and not stack.endpoint.domain:
        address = "every address" if stack.address[0] in ANY else stack.address[0]
        note(
            f"warning: published on {address} without TLS: the network between a browser and this"
            " machine can read the password; set DOMAIN, or put a proxy with TLS in front"
        )
    gone = [f"{volume} was gone and is empty now (docs/how-to/back-up.md)" for volume in lost]
    for line in [*gone, *health.not_served(stack), *health.unset_variables(stack)]:
        note(f"warning: {line}")
    errors = [f"code location {name}: {why}" for name, why in failed.items()]
    if errors := [*errors, *health.location_errors(stack)]:
        raise StackError(" | ".join(errors))


def _reason(stack: Stack, said: str, was_there: bool, name: str = "") -> str:
    """The reason of a failed start, of one service if it is named.

    Removes the rest of a first start that found no addresses.
    """
    last = (said.strip().splitlines() or [""])[-1]
    if "address pool" in last or "Pool overlaps" in last:
        if not was_there:
            stack.compose(*commands.down(), check=False)
        return last + " (docs/how-to/several-stacks.md)"
    found = [one for one in health.problems(stack) if one.startswith(name)]
    problems = [one for one in found if "has no container" not in one]
    # A container that was never started waits for one that failed, and has no message of its own.
    failed = [problem for problem in problems if ": created," not in problem]
    if not failed:
        note(said.strip())
    return " | ".join(failed or problems or [last])
