"""Removes services and networks that a stack no longer has, and that Compose does not remove."""

from __future__ import annotations

from cli import commands
from cli.output import say
from cli.stack import Stack, docker


def remove_services(stack: Stack) -> None:
    """Removes the services of profiles that are not active any more."""
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
