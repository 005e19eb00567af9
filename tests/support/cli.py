"""The operator's command line, as the tests use it. No other file of the tests imports cli/."""

from cli import (
    builds,
    checks,
    commands,
    containers,
    contents,
    dotenv,
    health,
    outdated,
    reference,
    settings,
    values,
)
from cli.__main__ import VERBS, main, name_of
from cli.client import FINAL, LAUNCH, RUN, basic
from cli.commands import STACK_LABEL
from cli.errors import StackError
from cli.health import problems
from cli.output import ask
from cli.stack import OPERATOR, Stack, docker
from cli.verbs import rollback, secret
from cli.verbs.sizes import proposed

# Runs a verb; relative to a checkout.
COMMAND = ("./stack",)

__all__ = [
    "COMMAND",
    "FINAL",
    "LAUNCH",
    "OPERATOR",
    "RUN",
    "STACK_LABEL",
    "VERBS",
    "Stack",
    "StackError",
    "ask",
    "basic",
    "builds",
    "checks",
    "commands",
    "containers",
    "contents",
    "docker",
    "dotenv",
    "health",
    "main",
    "name_of",
    "outdated",
    "problems",
    "proposed",
    "reference",
    "rollback",
    "secret",
    "settings",
    "values",
]
