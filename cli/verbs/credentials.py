"""Print the address for programs, the user and the password."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace

from cli import marks
from cli.stack import OPERATOR, Stack


def add(parser: ArgumentParser) -> None:
    """The flags."""
    parser.add_argument("user", nargs="?", default=OPERATOR, metavar="USER",
                        choices=[OPERATOR, "viewer"],
                        help="dagster (the default), or viewer, who can only read")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(stack: Stack, flags: Namespace) -> None:
    """Raises StackError when the stack is not up, or has no such user."""
    marks.refuse_down(stack, "sign_in")
    found = {
        "DAGSTER_URL": stack.url,
        "DAGSTER_USER": flags.user,
        "DAGSTER_PASSWORD": stack.password_of(flags.user),
    }
    print(json.dumps(found) if flags.json else "\n".join(f"{k}={v}" for k, v in found.items()))
