"""`./stack VERB [flags]`: reads the command line, runs a verb, and ends with its exit status."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any, cast

from cli.errors import FAILED, INTERRUPTED, OUTPUT_CLOSED, StackError
from cli.output import printable
from cli.stack import Stack
from cli.verbs import (
    backup,
    backup_verify,
    cluster_backup,
    cluster_down,
    cluster_images,
    cluster_status,
    cluster_up,
    credentials,
    dagster,
    demo,
    deploy,
    deploys,
    destroy,
    doctor,
    down,
    location,
    logs,
    move_to_store,
    restore,
    rollback,
    rotate,
    run_step,
    secret,
    sizes,
    status,
    up,
    upgrade,
    watch,
)

# In the order in which an operator needs them.
VERBS: tuple[ModuleType, ...] = (
    demo, up, watch, deploy, rollback, deploys, location, status, doctor, credentials, logs,
    secret, rotate, run_step, sizes, dagster, backup, backup_verify, restore, move_to_store,
    upgrade, cluster_up, cluster_images, cluster_status, cluster_backup, cluster_down, down,
    destroy,
)  # fmt: skip


def name_of(verb: ModuleType) -> str:
    """The verb, as it is typed."""
    return verb.__name__.rpartition(".")[2].replace("_", "-")


def summary_of(verb: ModuleType) -> str:
    """What it does, in one sentence: its module's docstring."""
    return (verb.__doc__ or "").partition("\n\n")[0].replace("\n", " ")


def build_parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    options: dict[str, Any] = {"formatter_class": _Help, "allow_abbrev": False}
    parser = argparse.ArgumentParser(
        prog="./stack", description="Runs this Dagster stack.", **options
    )
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    for verb in VERBS:
        summary = summary_of(verb)
        one = verbs.add_parser(name_of(verb), help=summary, description=summary, **options)
        verb.add(one)
        one.set_defaults(verb=verb)
    return parser


class _Help(argparse.HelpFormatter):
    """Help with a fixed width, because docs/reference/commands.md contains it."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=16, width=98)


def parsers(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The parser of each verb."""
    (choices,) = (action.choices for action in parser._actions if action.choices)  # pyright: ignore[reportPrivateUsage] # there is no public way
    return cast("dict[str, argparse.ArgumentParser]", choices)


def main(arguments: Sequence[str] | None = None) -> None:
    """Exits with status 1 and one line when the verb failed."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == [name_of(dagster)]:
        given.insert(1, "--")  # all later words are for Dagster, even flags of ours
    flags = build_parser().parse_args(given)
    try:
        flags.verb.run(Stack(), flags)
    except StackError as error:
        print(printable(f"{name_of(flags.verb)}: {error}"), file=sys.stderr)
        sys.exit(FAILED)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except BrokenPipeError:  # `./stack logs | head`
        sys.stderr.close()
        sys.exit(OUTPUT_CLOSED)
    except Exception as error:
        if os.environ.get("STACK_TRACE"):
            raise
        what = f"{type(error).__name__}: {error}"
        hint = "STACK_TRACE=1 shows where"
        print(printable(f"{name_of(flags.verb)}: unexpected: {what} ({hint})"), file=sys.stderr)
        sys.exit(FAILED)


if __name__ == "__main__":
    main()
