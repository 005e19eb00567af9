"""Stop the stack and keep its data."""

from __future__ import annotations

import signal
from argparse import ArgumentParser, Namespace

from cli import commands, outdated, runs
from cli.output import note, say
from cli.stack import Stack, docker

# Run containers get this long to end by themselves.
RUN_STOP_SECONDS = 30


def add(parser: ArgumentParser) -> None:
    """The flags."""
    parser.add_argument("--wait", action="store_true", help="first let the runs in progress end")


def run(stack: Stack, flags: Namespace) -> None:
    """Raises StackError when Compose cannot stop it."""
    _ = stack.name  # refuses wrong settings, before anything stops
    if flags.wait:
        let_runs_end(stack)
    stop(stack)
    say(f"{stack.name} is down, its data kept")


def let_runs_end(stack: Stack) -> None:
    """Stops the daemon, so that no further run starts, and waits. The queue stays as it is."""
    stack.compose("stop", "daemon")
    try:
        runs.wait_for_all(stack)
    except KeyboardInterrupt:
        # A second Ctrl-C must not leave the stack without a daemon.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        note("the stack stays up: starting its daemon again")
        stack.compose("start", "daemon")
        raise


def stop(stack: Stack, *, volumes: bool = False) -> None:
    """Stops the daemon, then the runs in progress, then the rest. Deletes data if `volumes`."""
    stop_runs(stack)
    stack.with_all_profiles.compose(*commands.down(volumes=volumes))


def stop_runs(stack: Stack) -> None:
    """Stops the daemon, then the runs in progress, and removes their containers."""
    _ = stack.name  # refuses wrong settings, before anything stops
    stack.compose("stop", "daemon", check=False)
    in_flight = stack.run_containers(running_only=True)
    if in_flight:
        say(f"stopping {len(in_flight)} runs in progress: {', '.join(in_flight)}")
        docker("stop", f"--time={RUN_STOP_SECONDS}", *set(in_flight.values()))
    steps = docker(*commands.containers_of(stack.name, commands.STEP_LABEL)).split()
    outdated.remove_containers(*steps)
    outdated.remove_containers(*set(stack.run_containers().values()))
