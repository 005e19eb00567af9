"""Add a code location to the stack, or take it out.

It writes locations/NAME/, one line in locations/compose.yml, and COMPOSE_PROFILES in .env.
"""

from __future__ import annotations

import re
import sys
from argparse import ArgumentParser, Namespace

from cli import locations
from cli.errors import StackError
from cli.stack import Stack

# Other images, hosts and modules have these names.
TAKEN = {"code", "dagster", "default", "localhost", "stores", *sys.stdlib_module_names}
# A Python package, a Compose service, an image, a volume and a profile have this name.
NAME = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")


def add(parser: ArgumentParser) -> None:
    """The flags."""
    parser.add_argument("name", help="its name: lower-case letters, digits and _")
    parser.add_argument(
        "--from", dest="folder", help="an existing project, which stays where it is"
    )
    parser.add_argument("--remove", action="store_true", help="take it out; its data stays")


def run(stack: Stack, flags: Namespace) -> None:
    """Raises StackError when the name is taken or cannot be used, or the folder is not there."""
    if flags.name in TAKEN or flags.name.endswith("_files"):
        raise StackError(f"{flags.name} cannot be used: something else has this name")
    if not NAME.fullmatch(flags.name):
        raise StackError(f"{flags.name!r} cannot be used: use lower-case letters, digits and _")
    if flags.remove:
        locations.remove(stack, flags.name)
    else:
        locations.create(stack, flags.name, flags.folder)
