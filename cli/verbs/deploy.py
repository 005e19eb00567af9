"""Build the code of a code location, check it, and put it live beside the code before."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from cli import builds, checks, contents, deploys, locks, outdated
from cli.errors import StackError
from cli.output import say
from cli.stack import Stack, docker

REFUSED = "refused, the code before stays live"


def add(parser: ArgumentParser) -> None:
    """The flags."""
    which = "its name (default: your project)"
    parser.add_argument("location", metavar="LOCATION", nargs="?", default="", help=which)
    anyway = "also if a schedule or sensor that is on loses its job"
    parser.add_argument("--anyway", action="store_true", help=anyway)


def run(stack: Stack, flags: Namespace) -> None:
    """Raises StackError when the code before stays live."""
    checks.refuse(stack)
    service = deploys.service_of(stack, flags.location)
    with locks.alone(stack, "deploy"):
        running = deploys.servers(stack, service)
        if not running:
            raise StackError(f"{service} does not run: make up")
        deploys.finish(stack, service)
        ((_, before), *_) = deploys.servers(stack, service)
        deploys.note(stack, service, "up")
        say(f"building {service}")
        builds.build_only(stack, [service])
        name = stack.config["services"][service]["image"]
        image = docker("image", "inspect", "--format", "{{.Id}}", name).strip()
        if image == before and not outdated.has_new_settings(stack, service):
            say("nothing has changed: this code is live already")
            return
        try:
            check(stack, service, anyway=flags.anyway)
            deploys.hand_over(stack, service)
        except BaseException:
            # The next start of a container must not take what was refused.
            docker("tag", before, name)
            raise
        say("starting it beside the code before")
        deploys.go_live(stack, service, before)
        deploys.note(stack, service, "deploy")
    say(f"live: {service} {image[7:19]} (make rollback goes back)")
    outdated.remove_images(stack)


def check(stack: Stack, service: str, *, anyway: bool) -> None:
    """Says what would change.

    Raises:
        StackError: It does not load, or something that is switched on would end.
    """
    try:
        new = contents.built(stack, service)
    except StackError as error:
        raise StackError(f"{REFUSED}: it does not load: {error}") from None
    if not new:
        say("its image has a Dockerfile of its own: its definitions are not compared")
        return
    old = contents.live(stack, service)
    for line in contents.changes(old, new):
        say(f"  {line}")
    lost = contents.missing(old, new)
    if lost and not anyway:
        how = "switch it off first, or ./stack deploy --anyway"
        raise StackError(f"{REFUSED}: {'; '.join(lost)}: {how}")
