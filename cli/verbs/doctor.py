"""Say what is wrong with the stack and this machine, what to mend first, and how."""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser, Namespace
from dataclasses import asdict

from cli import doctor
from cli.errors import StackError
from cli.output import printable, say
from cli.stack import Stack

RED, GREEN, PLAIN = "\x1b[31m", "\x1b[32m", "\x1b[0m"


def add(parser: ArgumentParser) -> None:
    """The flags."""
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(stack: Stack, flags: Namespace) -> None:
    """Raises StackError when something is wrong."""
    found = doctor.examine(stack)
    if flags.json:
        print(json.dumps({"findings": [asdict(one) for one in found]}))
    else:
        for number, one in enumerate(found, 1):
            print(_in(RED, f"{number}. {one.part}: {one.what}"))
            say(f"   {one.remedy}")
    if found:
        raise StackError(f"{len(found)} findings; begin with the first")
    if not flags.json:
        print(_in(GREEN, "Nothing is wrong."))


def _in(colour: str, text: str) -> str:
    """The text in a colour if stdout is a terminal."""
    return f"{colour}{printable(text)}{PLAIN}" if sys.stdout.isatty() else printable(text)
