"""Build the code of a code location, check it, and put it live beside the previous code."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from contextlib import suppress

from cli import builds, checks, contents, deploys, history, locks, outdated
from cli.errors import StackError
from cli.output import say
from cli.stack import Stack, docker


def add(parser: ArgumentParser) -> None:
    """The flags."""
    which = "its name (default: your project)"
    parser.add_argument("location", metavar="LOCATION", nargs="?", default="", help=which)
    anyway = "also if a schedule or sensor that is on is gone, or has no job any more"
    parser.add_argument("--anyway", action="store_true", help=anyway)


def run(stack: Stack, flags: Namespace) -> None:
    """Raises StackError when the previous code stays live."""
    checks.refuse(stack)
    service = deploys.service_of(stack, flags.location)
    with locks.alone(stack, "deploy"):
        running = deploys.servers(stack, service)
        if not running:
            raise StackError(f"{service} does not run: make up")
        deploys.finish(stack, service)
        ((_, before), *_) = deploys.servers(stack, service)
        history.note(stack, service, "up")
        say(f"building {service}")
        # Under another name: what is killed here must not leave code that nobody has checked to the
        # next start of a container.
        candidate = Stack(stack.root, {**stack.environment, "IMAGE_TAG": "candidate"})
        builds.build_only(candidate, [service])
        name, built = (one.config["services"][service]["image"] for one in (stack, candidate))
        image = docker("image", "inspect", "--format", "{{.Id}}", built).strip()
        try:
            is_new = image != before or outdated.has_new_settings(stack, service)
            # One that does not load may have what it lacked by now: a secret, for example.
            if not is_new and not deploys.load_errors(stack, service):
                deploys.reload(stack, service)
                history.settle(stack, service, history.DONE)
                say("nothing has changed: this code is live already")
                return
            contents.check(stack, candidate, service, anyway=flags.anyway)
            docker("tag", image, name)
            deploys.hand_over(stack, service)
            history.note(stack, service, history.UNFINISHED, image)
        except BaseException:
            docker("tag", before, name)  # of a location whose compose.yml has no IMAGE_TAG
            raise
        finally:
            if built != name:
                with suppress(StackError):  # a container that was killed has it
                    docker("image", "rm", built)
        say("starting it beside the previous code")
        try:
            deploys.go_live(stack, service, before)
        except StackError as error:
            history.settle(stack, service, history.FORGOTTEN)
            raise StackError(f"{contents.REFUSED}: {error}") from None
        history.settle(stack, service, history.DONE)
    say(f"live: {service} {image[7:19]} (make rollback goes back)")
    outdated.remove_images(stack)
