"""Back up, then build and start this checkout's version, and check it. Call it after `git pull`."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from cli import builds, deploys
from cli.errors import StackError
from cli.output import say
from cli.stack import Stack, docker
from cli.verbs import backup, up

LABEL = '{{index .Config.Labels "org.opencontainers.image.revision"}}'


def add(parser: ArgumentParser) -> None:
    """The flags."""
    backup.add(parser)


def run(stack: Stack, flags: Namespace) -> None:
    """Raises StackError with the command that goes back."""
    before = revision(stack)
    file = backup.make(stack, flags)
    try:
        say("building")
        failed = builds.build(stack)
        if failed:
            raise StackError(next(iter(failed.values())))
    except StackError as error:
        raise StackError(f"{error}. Nothing was replaced: the version before runs on") from None
    try:
        up.run(stack, Namespace())
    except StackError as error:
        back = f"git checkout {before} && ./stack restore {file} --replace"
        raise StackError(f"{error}. To go back: {back}") from None
    say(f"upgraded from {before} to {revision(stack)}; the backup of before: {file}")


def revision(stack: Stack) -> str:
    """The commit that the web server was built from; raises StackError if it does not run."""
    running = deploys.servers(stack, "webserver")
    if not running:
        raise StackError(f"the stack {stack.name} is not up: make up starts this version")
    return docker("image", "inspect", "--format", LABEL, running[0][1]).strip()
