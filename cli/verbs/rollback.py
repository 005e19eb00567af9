"""Put the code live again that was live before the last deploy."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from cli import deploys, history, locks
from cli.errors import StackError
from cli.output import say
from cli.stack import Stack, docker


def add(parser: ArgumentParser) -> None:
    """The flags."""
    parser.add_argument(
        "location",
        metavar="LOCATION",
        nargs="?",
        default="",
        help="its name (default: your project)",
    )


def run(stack: Stack, flags: Namespace) -> None:
    """Raises StackError when the code that is live stays live."""
    service = deploys.service_of(stack, flags.location)
    with locks.alone(stack, "deploy"):
        if not deploys.servers(stack, service):
            raise StackError(f"{service} does not run: make up")
        deploys.finish(stack, service)
        ((_, now), *_) = deploys.servers(stack, service)
        whole = [row for row in history.rows(stack) if row["verb"] != history.UNFINISHED]
        noted = [row["image"] for row in whole if row["service"] == service]
        if now not in noted:  # by `docker compose up`, for example
            history.note(stack, service, "up")
        elif now != noted[0]:
            history.note(stack, service, "rollback")
            say(
                f"an interrupted rollback or deploy is complete: {now[7:19]} is live (make deploys)"
            )
            return
        earlier = target(history.rows(stack), service, now)
        docker("tag", earlier, stack.config["services"][service]["image"])
        try:
            deploys.go_live(stack, service, now)
        except StackError as error:
            raise StackError(f"{error}: the code of now stays live") from None
        history.note(stack, service, "rollback")
    say(f"live: {service} {earlier[7:19]}. The next deploy or `make up` builds your files again")


def target(rows: list[dict[str, str]], service: str, now: str) -> str:
    """The image to go back to: the one before the last that was deployed; raises StackError."""
    images = steps([row for row in reversed(rows) if row["service"] == service])
    if images[-1:] == [now]:
        images.pop()
    if not images:
        raise StackError(f"{service}: nothing earlier is known: make deploys")
    there = docker("image", "ls", "--all", "--quiet", "--no-trunc").split()
    if images[-1] not in there:
        raise StackError(
            f"{service}: the image {images[-1][7:19]} is gone: check out its revision (make"
            " deploys), then make deploy"
        )
    return images[-1]


def steps(rows: list[dict[str, str]]) -> list[str]:
    """The images that were live, the oldest first, without what rollbacks have taken back."""
    images: list[str] = []
    for row in rows:
        if row["verb"] == history.UNFINISHED:
            continue
        if row["verb"] == "rollback" and row["image"] in images:
            while images[-1] != row["image"]:
                images.pop()
        if images[-1:] != [row["image"]]:
            images.append(row["image"])
    return images
