"""Ask, then stop the stack and delete its data."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from cli import commands, marks
from cli.errors import StackError
from cli.output import ask, can_ask, say
from cli.stack import Stack, docker
from cli.verbs import down


def add(parser: ArgumentParser) -> None:
    """The flags."""
    parser.add_argument("--force", action="store_true", help="do not ask")
    parser.add_argument("--images", action="store_true", help="remove this stack's images as well")


def run(stack: Stack, flags: Namespace) -> None:
    """Raises StackError when nothing was deleted."""
    volumes = docker(*commands.volumes(stack.name)).split()
    images = _images(stack)
    say(f"volumes of the stack {stack.name}: {', '.join(volumes) or 'none'}")
    if not flags.force:
        if not can_ask():
            how = "FORCE=1 make destroy, or ./stack destroy --force"
            raise StackError(f"destroy deletes data and cannot ask here: {how}")
        if not ask(f"Delete all runs, logs and values of the stack {stack.name}?"):
            raise StackError("nothing was deleted")
        if images and not flags.images:
            flags.images = ask(
                f"Remove its {len(images)} images as well? The next start builds them again."
            )
    down.stop(stack, volumes=True)
    # Volumes of an earlier version of the stack, which Compose does not know any more.
    left = docker(*commands.volumes(stack.name)).split()
    if left:
        docker("volume", "rm", *left)
    marks.end_upgrade(stack)
    if flags.images and images:
        docker("image", "rm", *images)
    say(f"{stack.name} is down, its data deleted" + (", its images removed" * flags.images))


def _images(stack: Stack) -> list[str]:
    """This stack's images, also those that later builds have replaced. Tags of yours stay."""
    # Also what a deploy, or a `backup-verify` that was killed, has left. A stack of that name is
    # somebody's if it has volumes.
    copy = f"{stack.name}-verify"
    names = [stack.name, *([] if docker(*commands.volumes(copy)).split() else [copy])]
    lines = [line for name in names for line in docker(*commands.images(name)).splitlines()]
    listed = [line.split() for line in lines]
    tagged = {name for name, _ in listed if name.endswith((":current", ":candidate"))}
    return sorted(tagged | {image for name, image in listed if name == "<none>:<none>"})
