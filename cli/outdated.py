"""Removes what an earlier start of a stack made and this one does not have, and Compose leaves."""

from __future__ import annotations

from cli import commands
from cli.output import say
from cli.stack import Stack, docker


def remove_services(stack: Stack) -> None:
    """Removes services of profiles that were on at the last start and are not any more."""
    everything = stack.with_all_profiles
    off = sorted(set(everything.services()) - set(stack.config["services"]))
    if off:
        say(f"removing what is switched off: {', '.join(off)}")
        everything.compose("rm", "--stop", "--force", *off)


def remove_networks(stack: Stack) -> None:
    """Removes networks of an earlier version of the stack."""
    listed = [line.split() for line in docker(*commands.networks(stack.name)).splitlines()]
    old = [name for name, key in listed if key not in stack.with_all_profiles.config["networks"]]
    if old:
        docker("network", "rm", *old)
