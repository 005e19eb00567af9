"""Say what is wrong with the stack and this machine, what to fix first, and how."""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator
from dataclasses import asdict

from cli.doctor import Examined, Finding, engine, files, runs, services
from cli.errors import StackError
from cli.output import printable, say
from cli.stack import Stack

Check = Callable[[Stack], Iterator[Finding]]
RED, GREEN, PLAIN = "\x1b[31m", "\x1b[32m", "\x1b[0m"


def add(parser: ArgumentParser) -> None:
    """The flags."""
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(stack: Stack, flags: Namespace) -> None:
    """Raises StackError when something is wrong."""
    found = examine(stack)
    if flags.json:
        print(json.dumps({"findings": [asdict(one) for one in found]}))
    else:
        for number, one in enumerate(found, 1):
            print(_in(RED, f"{number}. {one.part}: {one.what}"))
            say(f"   {one.remedy}")
    if found:
        count = f"{len(found)} findings; begin with the first" if found[1:] else "1 finding"
        raise StackError(count)
    if not flags.json:
        print(_in(GREEN, "Nothing is wrong."))


def examine(stack: Stack) -> list[Finding]:
    """All findings, in the order in which to fix them.

    A check that cannot be made is a finding as well: the reason is usually that of an earlier one.
    """
    stack = Examined(stack.root, stack.environment)
    found: list[Finding] = []
    # Without an engine, or with settings that Compose refuses, nothing else can be asked.
    for check in (*engine.FIRST, *files.CHECKS):
        found = _of(check, stack)
        if found:
            return found
    for check in (files.upgrade, *engine.CHECKS, *services.CHECKS):
        found += _of(check, stack)
    silent = _of(services.answer, stack)
    if silent:
        # What is found already is usually why.
        return found or silent
    for check in (*runs.CHECKS, engine.other_stacks):
        found += _of(check, stack)
    return found


def _of(check: Check, stack: Stack) -> list[Finding]:
    name = check.__name__.replace("_", " ")
    try:
        return [one.cut() for one in check(stack)]
    except StackError as error:
        what = f"this could not be checked: {error}"
        return [Finding(name, what, "fix what is above first").cut()]


def _in(colour: str, text: str) -> str:
    """The text in a colour if stdout is a terminal."""
    return f"{colour}{printable(text)}{PLAIN}" if sys.stdout.isatty() else printable(text)
